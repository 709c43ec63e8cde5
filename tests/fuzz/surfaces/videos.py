"""Damaged video files: each frame is read correctly, or its loss is reported."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fuzz.mutations import mutate_bytes, truncate
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.media.sources import VideoSource

FRAMES = 24
CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "mp4v"}


class Videos(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._files: dict[str, bytes] = {}
        image = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
        for suffix, codec in CODECS.items():
            path = folder / f"original{suffix}"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 48))
            for index in range(FRAMES):
                writer.write(np.roll(image, 2 * index, 1))
            writer.release()
            self._files[suffix] = path.read_bytes()

    def make(self, rng: np.random.Generator) -> Case:
        suffix = sorted(self._files)[int(rng.integers(len(self._files)))]
        change = truncate if rng.integers(3) == 0 else mutate_bytes
        data, step = change(rng, self._files[suffix])
        return Case((suffix, data), f"{suffix}, {step}")

    def check(self, data: Any) -> None:
        suffix, content = data
        path = self.folder / f"video{suffix}"
        path.write_bytes(content)
        source = VideoSource(path)
        stamps = []
        for frame in source:
            stamps.append(frame.stamp)
            if frame.image.shape[2] != 3 or len(stamps) > 40 * FRAMES:
                raise WrongAcceptanceError(f"frame {len(stamps)} of {frame.image.shape}")
        if any(later <= earlier for earlier, later in pairwise(stamps)):
            raise WrongAcceptanceError("stamps that do not increase")
        if len(stamps) < FRAMES and not (source.dropped or source.notes):
            raise WrongAcceptanceError(
                f"{FRAMES - len(stamps)} frames are missing and not reported"
            )


SURFACE = Videos
