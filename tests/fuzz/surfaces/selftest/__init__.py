"""Surfaces that fail, to test the runner."""
