"""Training data in ST-Align's format: reading, checking, sampling, batching and writing records."""
