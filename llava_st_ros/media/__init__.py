"""Footage in, pictures out: image decoding, bags, sources, overlays. No grounder."""
