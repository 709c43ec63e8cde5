"""Annotations in the formats of other tools: COCO video, MOTChallenge text, CVAT for video."""

ANNOTATIONS = "annotations"  # this package's own format
FORMATS = (ANNOTATIONS, "coco", "mot", "cvat")
