"""LAPE and the Spatial-Temporal Packer, written for export; for an image LAPE only."""

from __future__ import annotations

import torch
from torch import nn

from llava_st_ros.coordinates import Axis
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.packer.absorbed import AbsorbedPacker
from llava_st_ros.model.packer.reference import SpatialTemporalPacker


class ImageGraph(nn.Module):
    """Features of an image [N, D] -> its visual tokens [N, D]: LAPE at time index 0, no packer."""

    position: torch.Tensor

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        self.register_buffer("position", model.positional_embedding([0])[0].detach())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.position


class PackerGraph(nn.Module):
    """Pack a window of frames into fast tokens [F * n_fast, D] and slow tokens [F/t * n_slow, D].

    The window is given as rows of the backend's frame pool, so the features that the vision graph
    wrote there are never copied. The region attention is one node (``graphs.region_attention``).
    """

    temporal: torch.Tensor
    plane: torch.Tensor

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        packer = model.model.vision_resampler
        assert isinstance(packer, SpatialTemporalPacker)
        self.grid = model.config.grid
        with torch.no_grad():
            temporal = [model.table(Axis.TIME, side).weight for side in ("input", "output")]
            self.register_buffer("temporal", (temporal[0] + temporal[1]) / 2)
            self.register_buffer("plane", model.positional_embedding([0])[0] - self.temporal[0])
        self.packer = AbsorbedPacker(packer)

    def forward(
        self, features: torch.Tensor, frames: torch.Tensor, time_indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack one window.

        Args:
            features: Features of all frames in the pool [S, N, D].
            frames: Rows of ``features`` that form the window, i64 [F]; rows may repeat.
            time_indices: Row of the temporal table for each frame, i64 [F].
        """
        position = self.temporal[time_indices].unsqueeze(1) + self.plane
        placed = features[frames] + position
        fast, slow = self.packer(placed.unflatten(1, (self.grid, self.grid)))
        return fast.flatten(0, 2), slow.flatten(0, 2)
