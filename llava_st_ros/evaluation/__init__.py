"""Metrics, datasets and reports."""
