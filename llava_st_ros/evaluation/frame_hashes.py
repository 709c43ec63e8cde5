"""Hashes of the frames that a model has seen: is an answer repeated on the same ones?"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.wrapped import WrappedBackend
from llava_st_ros.records import Frame

DIGEST_BYTES = 8  # detects other pixels; it is no protection against forgery


def frame_hash(image: np.ndarray) -> str:
    """Hash the pixels of an image, RGB uint8 [H, W, 3], and its size: BLAKE2b, 16 hex digits.

    >>> frame_hash(np.zeros((2, 3, 3), np.uint8)) == frame_hash(np.zeros((3, 2, 3), np.uint8))
    False
    """
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class HashedBackend(WrappedBackend):
    """A backend that hashes each frame that it encodes. Frames in no window cost nothing.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        # Ids of live images are unique; the frame of an id that is used again is gone.
        self._frames: dict[int, weakref.ref[Frame]] = {}
        self._hashes: dict[tuple[str, int], str] = {}

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames; those of them that are encoded have a hash afterwards."""
        for frame in frames:
            key = id(frame.image)
            self._frames[key] = weakref.ref(frame, partial(self._forget, key))
            yield frame
            del frame

    def hash_of(self, camera: str, stamp: int) -> str:
        """Return the hash of the frame that was encoded last for a camera and stamp (ns).

        Raises:
            KeyError: No such frame was encoded.
        """
        return self._hashes[camera, stamp]

    def encode_frame(self, image: np.ndarray) -> Any:
        reference = self._frames.get(id(image))
        frame = reference() if reference is not None else None
        if frame is not None and frame.image is image:
            self._hashes[frame.camera, frame.stamp] = frame_hash(image)
        return self._backend.encode_frame(image)

    def _forget(self, key: int, reference: weakref.ref[Frame]) -> None:
        if self._frames.get(key) is reference:
            del self._frames[key]
