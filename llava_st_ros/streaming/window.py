"""What the model sees of one camera: stamped features, each frame encoded once.

Features are taken before LAPE, so that they serve every window the frame is in, at any place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_st_ros.records import Box, BoxTube, FrameFeatures, Span
from llava_st_ros.streaming.frame_buffer import Entry, FrameBuffer

Encoder = Callable[[np.ndarray], Any]  # RGB uint8 [H, W, 3] -> features [N, D]


@dataclass(frozen=True)
class Window:
    """F frames' features, oldest first; place i is time token i.

    A frame can fill several places while the stream is young; stamps never fall.
    ``generation`` is the buffer's: windows of two generations share no time line.
    """

    frames: tuple[FrameFeatures, ...]
    generation: int = 0

    @property
    def stamps(self) -> tuple[int, ...]:
        """Nanoseconds, one a time token."""
        return tuple(frame.stamp for frame in self.frames)

    @property
    def newest(self) -> FrameFeatures:
        return self.frames[-1]

    @property
    def features(self) -> tuple[Any, ...]:
        return tuple(frame.features for frame in self.frames)

    @property
    def time_indices(self) -> tuple[int, ...]:
        """The temporal table's row of each frame."""
        return tuple(range(len(self.frames)))


def encode(entry: Entry, buffer: FrameBuffer, encoder: Encoder) -> FrameFeatures:
    """The features of a buffer's entry, computed only where it is still an image."""
    if isinstance(entry, FrameFeatures):
        return entry
    features = FrameFeatures(
        features=encoder(entry.image),
        stamp=entry.stamp,
        camera=entry.camera,
        frame_id=entry.frame_id,
        width=entry.width,
        height=entry.height,
    )
    buffer.replace_image(entry, features)
    return features


def encode_window(buffer: FrameBuffer, encoder: Encoder, now: int | None = None) -> Window | None:
    """The window that ends with the newest frame (up to ``now``, ns); None without frames."""
    generation, entries = buffer.snapshot(now)
    encoded: dict[int, FrameFeatures] = {}
    frames = []
    for entry in entries:
        if entry.stamp not in encoded:
            encoded[entry.stamp] = encode(entry, buffer, encoder)
        frames.append(encoded[entry.stamp])
    return Window(tuple(frames), generation) if frames else None


def span_of_tokens(span: tuple[int, int], stamps: Sequence[int]) -> Span:
    """The stamps that a span of time tokens means; tokens past the window mean its last frame."""
    first, last = (min(max(token, 0), len(stamps) - 1) for token in span)
    return Span(stamps[min(first, last)], stamps[max(first, last)])


def tube_of_tokens(boxes: Sequence[tuple[int | None, Box]], stamps: Sequence[int]) -> BoxTube:
    """The tube of boxes given by time token; an image's box (token None) lies on the last stamp.

    Where one frame fills several places, the box of the last of them counts. Tokens past the
    window name no frame: their boxes are left out.
    """
    by_stamp: dict[int, Box] = {}
    for token, box in boxes:
        if token is None:
            by_stamp[stamps[-1]] = box.clipped()
        elif 0 <= token < len(stamps):
            by_stamp[stamps[token]] = box.clipped()
    ordered = sorted(by_stamp)
    return BoxTube(tuple(ordered), tuple(by_stamp[stamp] for stamp in ordered))
