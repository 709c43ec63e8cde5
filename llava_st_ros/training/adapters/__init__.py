"""Published adapters: their files, and merging a chain into one checkpoint."""
