"""Annotations of recordings: ground truth for queries, its file format, and converters."""
