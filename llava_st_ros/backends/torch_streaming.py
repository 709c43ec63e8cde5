"""The torch backend for wide packers: what a frame's arrival settles is computed when it comes.

The same numbers as TorchBackend's, which stays the reference, to rounding. It pays where the
packer's arithmetic is what counts (docs/stp.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.backends.torch_kernels import use_kernels
from llava_st_ros.config import ModelConfig
from llava_st_ros.model.checkpoint import Checkpoint
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.model.packer.streaming import PackedWindow, StreamedFrame, StreamingPacker

WIDE = 512  # the packer's attention width from which on the streaming form is the faster one


@dataclass(eq=False)
class Features:
    """A frame's features [N, D] before LAPE; ``streamed`` from the first window that it is in."""

    rows: torch.Tensor
    streamed: StreamedFrame | None = field(default=None, repr=False)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.rows.float().cpu().numpy(), dtype)


class StreamingTorchBackend(TorchBackend):
    """A TorchBackend whose frames carry what the packer made of them before their place in the
    window was known, and which takes over from its last window what has not changed.

    On a GPU the package's CUDA kernels are used where they are installed; raises EngineError for
    another version's.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | tuple[LlavaST, ModelConfig],
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(checkpoint, device=device, dtype=dtype)
        if self.device.type == "cuda":
            use_kernels()
        self._packer = StreamingPacker(self.model)
        self._last: PackedWindow | None = None

    def encode_pixels(self, pixels: np.ndarray) -> list[Features]:
        """Normalised pixels f32 [B, 3, S, S] -> B frames' features [N, D] before LAPE."""
        return [Features(rows) for rows in super().encode_pixels(pixels)]

    def pack(self, features: Sequence[Features], time_indices: Sequence[int]) -> VideoTokens:
        frames = [self._settled(frame) for frame in features]
        # Several cameras take turns at this; what one leaves is of no use to another, nor wrong.
        self._last = window = self._packer.pack(frames, time_indices, self._last)
        return window.tokens

    def image_tokens(self, features: Features) -> torch.Tensor:
        return super().image_tokens(features.rows)

    def _settled(self, frame: Features) -> StreamedFrame:
        if frame.streamed is None:
            frame.streamed = self._packer.frame(frame.rows)
        return frame.streamed


def faster_backend(config: ModelConfig) -> type[TorchBackend]:
    """Of the two the one to run a model of this geometry with."""
    return StreamingTorchBackend if config.packer.embed_dim >= WIDE else TorchBackend
