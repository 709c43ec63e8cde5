"""The Spatial-Temporal Packer against the published formulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llava_st_ros.config import PackerConfig
from llava_st_ros.model.packer.reference import (
    RegionPacker,
    SpatialTemporalPacker,
    middle,
    spatial_regions,
    temporal_regions,
)

WIDTH = 10


@pytest.fixture
def packer() -> RegionPacker:
    torch.manual_seed(1)
    packer = RegionPacker(WIDTH, PackerConfig(12, 3))
    with torch.no_grad():
        for parameter in packer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return packer


def test_region_packer_is_multi_head_attention_with_one_query(packer: RegionPacker) -> None:
    region, point = torch.randn(7, WIDTH), torch.randn(WIDTH)
    part = packer.devide_attention
    query, key, value = (
        norm(path(x))
        for norm, path, x in (
            (part.ln_q, part.to_q, point[None]),
            (part.ln_k, part.to_k, region),
            (part.ln_v, part.to_v, region),
        )
    )
    expected = point + part.to_out(part.attn(query, key, value)[0])[0]
    torch.testing.assert_close(packer(point, region), expected)


@pytest.mark.parametrize(("grid", "side"), [(9, 3), (8, 2), (15, 5)])
def test_middle_points_of_spatial_regions_are_the_interpolated_grid(grid: int, side: int) -> None:
    features = torch.randn(2, grid, grid, WIDTH)
    points, regions = spatial_regions(features, side)
    published = nn.functional.interpolate(
        features.permute(0, 3, 1, 2), size=(grid // side, grid // side), mode="bilinear"
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(points, published)
    row, column = grid // side - 1, 1
    cell = features[1, row * side : (row + 1) * side, column * side : (column + 1) * side]
    assert torch.equal(regions[1, row, column], cell.reshape(side * side, WIDTH))


@pytest.mark.parametrize("length", [5, 4, 1])
def test_middle_points_of_temporal_regions_are_the_interpolated_frames(length: int) -> None:
    features = torch.randn(length * 3, 2, 4, WIDTH)
    points, regions = temporal_regions(features, length)
    published = nn.functional.interpolate(
        features.permute(1, 2, 3, 0).flatten(0, 1), size=3, mode="linear"
    )
    torch.testing.assert_close(points.flatten(1, 2), published.permute(2, 0, 1))
    assert torch.equal(regions[2, 1, 3], features[2 * length :, 1, 3])


def test_middle_point_of_an_odd_region_is_a_token() -> None:
    features = torch.randn(10, 9, 9, WIDTH)
    assert torch.equal(spatial_regions(features, 3)[0], features[:, 1::3, 1::3])
    assert torch.equal(temporal_regions(features, 5)[0], features[2::5])
    assert torch.equal(middle(torch.tensor([1.0, 2.0, 4.0, 9.0]), 0), torch.tensor(3.0))


def test_tokens_depend_on_their_own_region_only() -> None:
    torch.manual_seed(2)
    packer = SpatialTemporalPacker(WIDTH, PackerConfig(12, 3))
    features = torch.randn(10, 18, 18, WIDTH)
    fast, slow = packer(features)
    assert fast.shape == (10, 2, 2, WIDTH)
    assert slow.shape == (2, 6, 6, WIDTH)
    features[7, 4, 16] += 1.0  # second temporal region; packed cell (1, 5); fast cell (0, 1)
    fast_changed, slow_changed = (
        (new != old).any(-1).nonzero().tolist() for new, old in zip(packer(features), (fast, slow))
    )
    assert fast_changed == [[7, 0, 1]]
    assert slow_changed == [[1, 1, 5]]


def test_batch_equals_its_members() -> None:
    torch.manual_seed(3)
    packer = SpatialTemporalPacker(WIDTH, PackerConfig(12, 3))
    features = torch.randn(2, 5, 9, 9, WIDTH)
    for batched, first, second in zip(packer(features), packer(features[0]), packer(features[1])):
        torch.testing.assert_close(batched, torch.stack([first, second]))


def test_every_parameter_has_a_gradient() -> None:
    packer = SpatialTemporalPacker(WIDTH, PackerConfig(12, 3))
    fast, slow = packer(torch.randn(5, 9, 9, WIDTH))
    (fast.square().sum() + slow.square().sum()).backward()
    for name, parameter in packer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
