"""Fuzzing of everything that comes from outside: queries, images, files, recordings, answers."""
