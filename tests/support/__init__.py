"""Models, clips and cases that several test files share."""
