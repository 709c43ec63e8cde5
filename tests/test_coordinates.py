"""Coordinates: tokens, ids and values of the three axes."""

from __future__ import annotations

import pytest

from llava_st_ros.coordinates import COORDINATE, CORNERS, INPUT, OUTPUT, Axis, CoordinateVocabulary

# 50 text ids, 5 times, 7 heights, 7 widths.
SMALL = CoordinateVocabulary(50, 5, 7)


def test_order_and_names_are_the_published_ones() -> None:
    assert [axis.kind for axis in Axis] == ["TEMP", "HEIGHT", "WIDTH"]
    assert [axis.table for axis in Axis] == ["temporal", "spatial_height", "spatial_width"]
    assert CORNERS == (Axis.WIDTH, Axis.HEIGHT, Axis.WIDTH, Axis.HEIGHT)
    assert Axis.of_kind("HEIGHT") is Axis.HEIGHT


def test_tokens_are_the_published_ones() -> None:
    assert Axis.TIME.token(12) == "<TEMP-012>"
    assert (Axis.HEIGHT.input_token, Axis.WIDTH.output_token) == (
        "<HEIGHT-INPUT>",
        "<WIDTH-OUTPUT>",
    )
    assert COORDINATE.fullmatch("<WIDTH-1234>").groups() == ("WIDTH", "1234")
    assert not COORDINATE.fullmatch("<WIDTH-12>") and not COORDINATE.fullmatch("<DEPTH-012>")
    assert INPUT.fullmatch("<TEMP-INPUT>") and not INPUT.fullmatch("<TEMP-OUTPUT>")
    assert OUTPUT.fullmatch("<TEMP-OUTPUT>") and not OUTPUT.fullmatch("<TEMP-INPUT>")


def test_ids_follow_the_text_without_gaps() -> None:
    assert [SMALL.ids(axis) for axis in Axis] == [range(50, 55), range(55, 62), range(62, 69)]
    assert [SMALL.offset(axis) for axis in Axis] == [50, 55, 62]
    assert SMALL.size == 69
    assert [SMALL.locate(token) for token in (49, 50, 54, 55, 61, 62, 68, 69, -1)] == [
        None,
        (Axis.TIME, 0),
        (Axis.TIME, 4),
        (Axis.HEIGHT, 0),
        (Axis.HEIGHT, 6),
        (Axis.WIDTH, 0),
        (Axis.WIDTH, 6),
        None,
        None,
    ]
    tokens = list(SMALL.tokens())
    assert len(tokens) == 19
    assert tokens[0] == "<TEMP-000>" and tokens[5] == "<HEIGHT-000>" and tokens[-1] == "<WIDTH-006>"


def test_ids_of_the_7b_model_are_the_published_ones() -> None:
    published = CoordinateVocabulary(151_660, 100, 100)
    assert published.size == 151_960
    assert published.ids(Axis.WIDTH)[99] == 151_959


@pytest.mark.parametrize(("library", "array"), [("numpy", "array"), ("torch", "tensor")])
def test_masks_of_ids(library: str, array: str) -> None:
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    ids = getattr(module, array)([0, 49, 50, 54, 55, 68])
    assert SMALL.is_text(ids).tolist() == [True, True, False, False, False, False]
    assert SMALL.is_time(ids).tolist() == [False, False, True, True, False, False]
    assert SMALL.is_space(ids).tolist() == [False, False, False, False, True, True]


def test_values_and_rows() -> None:
    assert SMALL.value(Axis.TIME, 1) == 0.25 and SMALL.value(Axis.WIDTH, 6) == 1.0
    assert [SMALL.nearest_row(Axis.TIME, v) for v in (0.0, 0.12, 0.125, 1.0)] == [0, 0, 1, 4]
    assert CoordinateVocabulary(50, 1, 1).value(Axis.TIME, 0) == 0.0
