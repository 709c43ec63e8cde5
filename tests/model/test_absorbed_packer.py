"""The absorbed packer is equal to the published form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llava_st_ros.config import PackerConfig
from llava_st_ros.model.packer.absorbed import AbsorbedPacker
from llava_st_ros.model.packer.reference import SpatialTemporalPacker
from llava_st_ros.model.packer.region_attention import region_attention

WIDTH = 20


def random_packer(config: PackerConfig, dtype: torch.dtype) -> SpatialTemporalPacker:
    """A packer with random parameters, including those of norms and biases."""
    torch.manual_seed(0)
    packer = SpatialTemporalPacker(WIDTH, config).to(dtype)
    for parameter in packer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return packer


@pytest.mark.parametrize(
    ("config", "grid", "frames"),
    [
        (PackerConfig(24, 8, 3, 5), 9, 5),
        (PackerConfig(16, 4, 2, 5), 12, 10),
        (PackerConfig(12, 3, 3, 4), 18, 8),
    ],
)
def test_absorbed_packer_equals_the_reference(config: PackerConfig, grid: int, frames: int) -> None:
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        packer = random_packer(config, dtype)
        features = torch.randn(frames, grid, grid, WIDTH, dtype=dtype)
        for ours, reference in zip(AbsorbedPacker(packer)(features), packer(features)):
            assert ours.shape == reference.shape and ours.dtype == dtype
            assert (ours - reference).abs().max() <= bound * reference.std()


@pytest.mark.parametrize(("side", "length"), [(3, 1), (1, 5), (2, 2)])
def test_region_attention_reads_its_own_region_only(side: int, length: int) -> None:
    torch.manual_seed(0)
    shape = (2 * length, 4 * side, 3 * side, 6)
    key, value = torch.randn(shape).double(), torch.randn(shape).double()
    query = torch.randn(2, 4, 3, 5, 6).double()
    attended = region_attention(query, key, value, side, length, 1e-5)
    region = (1, 2, 0)
    box = tuple(
        slice(index * size, (index + 1) * size) for index, size in zip(region, (length, side, side))
    )
    keys, values = (
        nn.functional.layer_norm(x[box].reshape(-1, 6), (6,), eps=1e-5) for x in (key, value)
    )
    expected = (query[region] @ keys.T).softmax(-1) @ values
    torch.testing.assert_close(attended[region], expected)


def test_region_attention_passes_opcheck() -> None:
    query, key = torch.randn(1, 2, 2, 3, 4), torch.randn(2, 2, 2, 4)
    torch.library.opcheck(
        region_attention,
        (query, key, key.clone(), 1, 2, 1e-5),
        test_utils=("test_schema", "test_faketensor"),
    )
