"""Independent jobs of an evaluation, run in this process, in several, or on a Ray cluster."""
