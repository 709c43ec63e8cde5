"""LAPE and the Spatial-Temporal Packer as modules that export well; for an image LAPE alone."""

from __future__ import annotations

import torch
from torch import nn

from llava_st_ros.coordinates import Axis
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.packer.absorbed import AbsorbedPacker


class ImageGraph(nn.Module):
    """Features of one image [N, D] -> its visual tokens [N, D]: LAPE with T[0], no packer."""

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        self.register_buffer("position", model.positional_embedding([0])[0].detach())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.position


class PackerGraph(nn.Module):
    """A window's visual tokens: fast [F * n_fast, D] and slow [F/t * n_slow, D].

    ``features`` [S, N, D] holds all frames that a runtime keeps, ``frames`` i64 [F] the window's
    places in it (a frame may fill several), ``time_indices`` i64 [F] their rows of the temporal
    table: a frame is written once, by the vision graph, and never copied by the runtime. The region
    attention is one node of the graph (``export.region_attention``).
    """

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        self.grid = model.config.grid
        with torch.no_grad():
            temporal = [model.table(Axis.TIME, side).weight for side in ("input", "output")]
            self.register_buffer("temporal", (temporal[0] + temporal[1]) / 2)
            self.register_buffer("plane", model.positional_embedding([0])[0] - self.temporal[0])
        self.packer = AbsorbedPacker(model.model.vision_resampler)

    def forward(
        self, features: torch.Tensor, frames: torch.Tensor, time_indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        position = self.temporal[time_indices].unsqueeze(1) + self.plane
        placed = features[frames] + position
        fast, slow = self.packer(placed.unflatten(1, (self.grid, self.grid)))
        return fast.flatten(0, 2), slow.flatten(0, 2)
