"""Encodes JPEGs for pages and viewers, with libjpeg-turbo."""

from __future__ import annotations

import numpy as np
import simplejpeg


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode RGB uint8 [H, W, 3], C-contiguous, with a quality of 1 to 100."""
    return bytes(simplejpeg.encode_jpeg(image, quality, colorspace="RGB"))
