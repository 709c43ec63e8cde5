"""Constrained decoding over any backend."""
