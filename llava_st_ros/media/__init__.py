"""Footage in, pictures out: image decoding, video, bags, overlays. Knows no model."""
