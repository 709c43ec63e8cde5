"""The torch backend with the streaming packer: frames are packed incrementally.

Equal to TorchBackend, the reference, up to rounding. It is faster when the packer dominates the
cost of a window, i.e. when its attention is wide (docs/stp.md).
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

# Packer attention width from which the streaming packer is the faster one.
STREAMING_MIN_EMBED_DIM = 512


@dataclass(eq=False)
class FrameFeatures:
    """A frame's features before LAPE.

    Attributes:
        rows: The features [N, D].
        streamed: The packer's products for this frame; None until its first window is packed.
    """

    rows: torch.Tensor
    streamed: StreamedFrame | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Size of the features in bytes; the packer's products take about as much."""
        return self.rows.nbytes

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.rows.float().cpu().numpy(), dtype)


class StreamingTorchBackend(TorchBackend):
    """A TorchBackend that reuses the packer's work from one window to the next.

    Terms that do not depend on a frame's time index are computed once per frame, and results that
    did not change since the last window are reused. On a GPU the package's CUDA kernels are used if
    they are installed. Raises EngineError when they are of another version.

    Attributes:
        packer: The streaming packer.
        last_window: The window that was packed last.
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
        self.packer = StreamingPacker(self.model)
        self.last_window: PackedWindow | None = None

    def encode_pixels(self, pixels: np.ndarray) -> list[FrameFeatures]:
        """Encode normalized pixels f32 [B, 3, S, S] -> B frames' features [N, D] before LAPE."""
        return [FrameFeatures(rows) for rows in super().encode_pixels(pixels)]

    def pack(self, features: Sequence[FrameFeatures], time_indices: Sequence[int]) -> VideoTokens:
        frames = [self._streamed(frame) for frame in features]
        # The last window may be another camera's: then nothing is reused, which is still correct.
        self.last_window = window = self.packer.pack(frames, time_indices, self.last_window)
        return window.tokens

    def image_tokens(self, features: FrameFeatures) -> torch.Tensor:
        return super().image_tokens(features.rows)

    def _streamed(self, frame: FrameFeatures) -> StreamedFrame:
        if frame.streamed is None:
            frame.streamed = self.packer.frame(frame.rows)
        return frame.streamed


def torch_backend_class(config: ModelConfig) -> type[TorchBackend]:
    """Select the faster of the two torch backends for a model of this geometry."""
    streaming = config.packer.embed_dim >= STREAMING_MIN_EMBED_DIM
    return StreamingTorchBackend if streaming else TorchBackend
