"""Footage in, pictures out: image decoding, bags, sources, overlays. Knows no grounder."""
