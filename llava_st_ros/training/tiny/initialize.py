"""Starting weights of a model that is trained from nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llava_st_ros.training.objective import COORDINATE_TABLES, coordinate_tables

TABLE_STD = 0.1


def smooth_table(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """A coordinate table f32 [rows, width] in which near rows are alike, standard deviation 0.1.

    Random Fourier features of the row's position: neighbors start with near-equal embeddings,
    far rows with unrelated ones, which is the order that neighboring token propagation (LLaVA-ST,
    section 3.2) would otherwise have to build first.
    """
    position = torch.linspace(0.0, 1.0, rows)
    # From half a wave over the table up to waves of eight rows.
    octaves = torch.rand(width, generator=generator) * math.log2(max(2.0, rows / 4))
    phase = torch.rand(width, generator=generator) * 2 * math.pi
    waves = torch.sin(math.pi * 2.0 ** octaves[None, :] * position[:, None] + phase[None, :])
    return waves * TABLE_STD * math.sqrt(2.0)


def smooth_plane(patches: int, width: int, generator: torch.Generator) -> Tensor:
    """Position embeddings f32 [patches, width] of a square grid, the row's beside the column's."""
    grid = math.isqrt(patches)
    rows = smooth_table(grid, width // 2, generator)
    columns = smooth_table(grid, width - width // 2, generator)
    return torch.cat([rows.repeat_interleave(grid, dim=0), columns.repeat(grid, 1)], dim=1)


def initialize(module: nn.Module, seed: int) -> None:
    """Fresh weights in place: truncated normals, smooth tables shared by input and output."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, (nn.Linear, nn.Conv2d)):
            fan_in = child.weight[0].numel()
            nn.init.trunc_normal_(child.weight, std=fan_in**-0.5, generator=generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=TABLE_STD, generator=generator)
        elif isinstance(child, nn.MultiheadAttention):
            nn.init.xavier_uniform_(child.in_proj_weight, generator=generator)
            nn.init.zeros_(child.in_proj_bias)
    tables = coordinate_tables(module)
    with torch.no_grad():
        for name, child in module.named_modules():
            if name.endswith("position_embedding"):
                child.weight.copy_(smooth_plane(*child.weight.shape, generator))
        for index in range(0, len(COORDINATE_TABLES), 2):  # input, output of one axis
            rows, width = tables[index].weight.shape
            table = smooth_table(rows, width, generator)
            tables[index].weight.copy_(table)
            tables[index + 1].weight.copy_(table)
        for name, child in module.named_modules():
            # Branches that add to a residual stream start small.
            if name.endswith(("o_proj", "down_proj", "fc2", "to_out", "out_proj")) and isinstance(
                child, nn.Linear
            ):
                child.weight.mul_(0.3)
