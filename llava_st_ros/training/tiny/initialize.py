"""Initial weights of a model that is trained from scratch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llava_st_ros.training.objective import coordinate_tables

TABLE_STD = 0.1
# Layers that add to a residual stream.
RESIDUAL_OUTPUTS = ("o_proj", "down_proj", "fc2", "to_out", "out_proj")


def smooth_table(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Return a coordinate table, float32 [rows, width], with standard deviation TABLE_STD.

    Random Fourier features of the row's position: neighboring rows start with nearly equal
    embeddings, distant rows with unrelated ones. Neighboring token propagation (LLaVA-ST,
    section 3.2) would otherwise have to learn this order first.
    """
    position = torch.linspace(0.0, 1.0, rows)
    # From half a period over the table to periods of eight rows.
    octaves = torch.rand(width, generator=generator) * math.log2(max(2.0, rows / 4))
    phase = torch.rand(width, generator=generator) * 2 * math.pi
    waves = torch.sin(math.pi * 2.0 ** octaves[None, :] * position[:, None] + phase[None, :])
    return waves * TABLE_STD * math.sqrt(2.0)


def smooth_plane(patches: int, width: int, generator: torch.Generator) -> Tensor:
    """Return position embeddings of a square grid, float32 [patches, width]: row, then column."""
    grid = math.isqrt(patches)
    rows = smooth_table(grid, width // 2, generator)
    columns = smooth_table(grid, width - width // 2, generator)
    return torch.cat([rows.repeat_interleave(grid, dim=0), columns.repeat(grid, 1)], dim=1)


def initialize(module: nn.Module, seed: int) -> None:
    """Initialize a model in place.

    Linear layers get truncated normals, the input and output table of each axis the same smooth
    table, and layers that add to a residual stream are scaled down.
    """
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
    with torch.no_grad():
        for name, child in module.named_modules():
            if name.endswith("position_embedding") and isinstance(child, nn.Embedding):
                patches, width = child.weight.shape
                child.weight.copy_(smooth_plane(patches, width, generator))
        tables = coordinate_tables(module)
        for input_table, output_table in zip(tables[::2], tables[1::2]):
            rows, width = input_table.weight.shape
            table = smooth_table(rows, width, generator)
            input_table.weight.copy_(table)
            output_table.weight.copy_(table)
        for name, child in module.named_modules():
            if name.endswith(RESIDUAL_OUTPUTS) and isinstance(child, nn.Linear):
                child.weight.mul_(0.3)
