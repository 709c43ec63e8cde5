"""Fits the calibration of a checkpoint's probabilities."""
