"""The simulator and the training stages."""
