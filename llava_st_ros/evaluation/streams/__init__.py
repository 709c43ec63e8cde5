"""Scores of standing queries on a stream: tubes, tracks, timeliness and stability."""
