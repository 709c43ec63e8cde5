"""Scoring conventions of the published benchmarks: each scores the same answers in its own way."""
