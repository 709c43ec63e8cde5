"""A run's report as one HTML file without external assets, and a comparison of two runs."""
