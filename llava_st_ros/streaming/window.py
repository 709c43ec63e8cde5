"""The window of one camera: stamped features, each frame encoded once.

Features precede LAPE, so they are reused in every window that contains the frame, in any slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_st_ros.records import Box, BoxTube, Frame, FrameFeatures, Span
from llava_st_ros.streaming.frame_buffer import Entry, FrameBuffer

Encoder = Callable[[np.ndarray], Any]  # RGB uint8 [H, W, 3] -> features [N, D]


@dataclass(frozen=True)
class Window:
    """The features of F frames, oldest first. Slot i is time token i.

    Attributes:
        frames: One frame per slot. Stamps do not decrease; while the stream is shorter than the
            window, a frame fills several slots.
        generation: The buffer's generation. Stamps of two generations are not comparable.
    """

    frames: tuple[FrameFeatures, ...]
    generation: int = 0

    @property
    def stamps(self) -> tuple[int, ...]:
        """The stamp of each slot in nanoseconds."""
        return tuple(frame.stamp for frame in self.frames)

    @property
    def newest(self) -> FrameFeatures:
        return self.frames[-1]

    @property
    def features(self) -> tuple[Any, ...]:
        return tuple(frame.features for frame in self.frames)

    @property
    def time_indices(self) -> tuple[int, ...]:
        """The row of the temporal table of each slot."""
        return tuple(range(len(self.frames)))


def encode(entry: Entry, buffer: FrameBuffer, encoder: Encoder) -> FrameFeatures:
    """Return the features of a buffer entry; encode it if it is still an image."""
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


def encode_window(
    buffer: FrameBuffer,
    encoder: Encoder,
    now: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Window | None:
    """Return the window that ends with the newest frame stamped up to ``now`` (ns), if any.

    ``cancelled`` is called before a frame is encoded; True ends this with None. Frames that are
    encoded stay so.
    """
    generation, entries = buffer.snapshot(now)
    encoded: dict[int, FrameFeatures] = {}
    frames = []
    for entry in entries:
        if entry.stamp not in encoded:
            if cancelled is not None and isinstance(entry, Frame) and cancelled():
                return None
            encoded[entry.stamp] = encode(entry, buffer, encoder)
        frames.append(encoded[entry.stamp])
    return Window(tuple(frames), generation) if frames else None


def span_of_tokens(span: tuple[int, int], stamps: Sequence[int]) -> Span:
    """Map a span of time tokens to stamps; tokens past the window are clamped to its last frame."""
    first, last = (min(max(token, 0), len(stamps) - 1) for token in span)
    return Span(stamps[min(first, last)], stamps[max(first, last)])


def tube_of_tokens(boxes: Sequence[tuple[int | None, Box]], stamps: Sequence[int]) -> BoxTube:
    """Map boxes with time tokens to a tube.

    The box of an image (token None) gets the last stamp. If a frame fills several slots, the box of
    the last one is used. Boxes with tokens past the window are dropped.
    """
    by_stamp: dict[int, Box] = {}
    for token, box in boxes:
        if token is None:
            by_stamp[stamps[-1]] = box.clipped()
        elif 0 <= token < len(stamps):
            by_stamp[stamps[token]] = box.clipped()
    ordered = sorted(by_stamp)
    return BoxTube(tuple(ordered), tuple(by_stamp[stamp] for stamp in ordered))
