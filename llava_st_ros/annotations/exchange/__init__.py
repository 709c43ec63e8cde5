"""Annotations in the formats of other tools: COCO video, MOTChallenge text, CVAT for video."""
