"""ST-Align's records: format, media, mixing, batches."""
