"""Boxes carried by optical flow: known motions of a random texture, and what must fail."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_st_ros.records import Box
from llava_st_ros.tracking.optical_flow import (
    MAX_SIDE,
    MIN_POINTS,
    TOTAL_SCALE,
    CarriedBox,
    carry,
    consensus,
    small_gray,
)

WIDTH, HEIGHT = 320, 240


def texture(seed: int, width: int, height: int) -> np.ndarray:
    """Smooth random gray levels, with corners everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 10 + 2, width // 10 + 2))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def scene(
    x: float, y: float, side: float = 60.0, turn: float = 0.0, background: int | None = 7
) -> np.ndarray:
    """A textured square with its center at x, y on a textured or flat background."""
    image = np.full((HEIGHT, WIDTH), 90, np.uint8)
    if background is not None:
        image = texture(background, WIDTH, HEIGHT)
    patch = texture(1, 60, 60)
    scale, angle = side / 60.0, math.radians(turn)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[c, -s, x - 30 * c + 30 * s], [s, c, y - 30 * s - 30 * c]])
    size = (WIDTH, HEIGHT)
    warped = cv2.warpAffine(patch, matrix, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(np.full_like(patch, 255), matrix, size)
    return np.where(mask > 127, warped, image)


def square(x: float, y: float, side: float = 60.0) -> Box:
    half = side / 2
    return Box.from_pixels((x - half, y - half, x + half, y + half), WIDTH, HEIGHT)


def carried(box: Box, *images: np.ndarray) -> Box | None:
    state: CarriedBox | None = CarriedBox.start(box, images[0].shape)
    for before, after in pairwise(images):
        assert state is not None
        (state,) = carry(before, after, [state])
    return None if state is None else state.box(images[-1].shape)


def corners(box: Box | None) -> tuple[float, ...]:
    assert box is not None
    return box.to_pixels(WIDTH, HEIGHT)


@settings(max_examples=15, deadline=None)
@given(st.floats(-7, 7), st.floats(-7, 7), st.sampled_from([None, 7]))
def test_a_shift_is_followed(dx: float, dy: float, background: int | None) -> None:
    found = carried(square(150, 110), scene(150, 110), scene(150 + dx, 110 + dy))
    assert corners(found) == pytest.approx(corners(square(150 + dx, 110 + dy)), abs=1.0)


def test_errors_add_up_slowly() -> None:
    """After 30 frames and two sides of the box, in front of a background with as much texture."""
    images = [scene(80 + 4 * n, 100 + n) for n in range(31)]
    found = carried(square(80, 100), *images)
    assert found is not None
    assert found.iou(square(200, 130)) > 0.75


@pytest.mark.parametrize("side", [54.0, 66.0])
def test_a_change_of_size_is_followed(side: float) -> None:
    found = carried(square(150, 110), scene(150, 110), scene(150, 110, side))
    assert corners(found) == pytest.approx(corners(square(150, 110, side)), abs=1.5)


def test_a_turn_keeps_size_and_center() -> None:
    images = [scene(150, 110, turn=4.0 * n) for n in range(10)]
    assert corners(carried(square(150, 110), *images)) == pytest.approx(
        corners(square(150, 110)), abs=2.5
    )


def test_a_moving_camera_moves_a_resting_object() -> None:
    image = scene(150, 110)
    matrix = np.array([[1.0, 0.0, -7.0], [0.0, 1.0, 5.0]])
    moved = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    assert corners(carried(square(150, 110), image, moved)) == pytest.approx(
        corners(square(143, 115)), abs=1.0
    )


def test_identical_frames_keep_the_box_and_its_support() -> None:
    image = scene(150, 110)
    (found,) = carry(image, image, [CarriedBox.start(square(150, 110), image.shape)])
    assert found is not None
    assert found.box(image.shape) == square(150, 110)
    assert found.support == pytest.approx(1.0)


def test_a_change_of_brightness_does_not_matter() -> None:
    image = scene(150, 110)
    brighter = np.clip(scene(155, 112).astype(int) * 9 // 10 + 12, 0, 255).astype(np.uint8)
    assert corners(carried(square(150, 110), image, brighter)) == pytest.approx(
        corners(square(155, 112)), abs=1.5
    )


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_a_flat_surface_is_lost(noise: float) -> None:
    """Lucas-Kanade alone reports success there."""
    rng = np.random.default_rng(3)
    flat = [np.clip(rng.normal(120, noise, (HEIGHT, WIDTH)), 0, 255) for _ in range(2)]
    assert carried(square(150, 110), *(image.astype(np.uint8) for image in flat)) is None


def test_an_object_that_is_hidden_is_lost() -> None:
    hidden = scene(150, 110)
    hidden[60:160, 100:200] = texture(99, 100, 100)
    assert carried(square(150, 110), scene(150, 110), hidden) is None


def test_a_round_object_without_texture_that_rests_is_kept() -> None:
    image = cv2.circle(np.full((HEIGHT, WIDTH), 60, np.uint8), (150, 110), 30, 160, -1)
    rng = np.random.default_rng(5)
    noisy = np.clip(image + rng.normal(0, 1.0, image.shape), 0, 255).astype(np.uint8)
    found = carried(square(150, 110), image, noisy)
    assert corners(found) == pytest.approx(corners(square(150, 110)), abs=1.0)


def test_a_straight_edge_is_kept_while_it_rests_and_lost_when_it_moves() -> None:
    """It has no corners that could be followed."""
    image = np.full((HEIGHT, WIDTH), 60, np.uint8)
    image[:, 150:] = 140
    noise = np.random.default_rng(5).normal(0, 0.7, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    assert corners(carried(square(150, 110), image, noisy)) == pytest.approx(
        corners(square(150, 110))
    )
    assert carried(square(150, 110), image, np.roll(noisy, 10, axis=1)) is None


def test_an_object_of_which_a_quarter_stays_visible_is_followed() -> None:
    """Most of its corners are found on what hides them; from there none returns."""
    after = scene(155, 112)
    after[82:127, 100:200] = texture(99, 100, 45)
    found = carried(square(150, 110), scene(150, 110), after)
    assert corners(found) == pytest.approx(corners(square(155, 112)), abs=4.0)


def test_an_object_may_grow_to_three_times_its_size() -> None:
    images = [scene(160, 120, 30 * 1.1**n) for n in range(15)]  # to 3.8 times
    state: CarriedBox | None = CarriedBox.start(square(160, 120, 30), images[0].shape)
    ratios = []
    for before, after in pairwise(images):
        assert state is not None
        (state,) = carry(before, after, [state])
        if state is None:
            break
        ratios.append(max(state.size) / 30)
    assert state is None
    assert ratios == sorted(ratios) and 2.6 < ratios[-1] <= TOTAL_SCALE


def test_a_box_that_leaves_the_image_is_clipped_and_then_lost() -> None:
    images = [scene(60 - 8 * n, 110) for n in range(11)]
    half = carried(square(60, 110), *images[:8])  # center at 4 px: 34 of 60 px are visible
    assert half is not None
    assert corners(half) == pytest.approx((0, 80, 34, 140), abs=2.5)
    state: CarriedBox | None = CarriedBox.start(square(60, 110), images[0].shape)
    for before, after in pairwise(images):
        state = carry(before, after, [state])[0] if state is not None else None
    assert state is None  # center at -20 px: a sixth is visible


@pytest.mark.parametrize("box", [Box(0.5, 0.5, 0.5, 0.5), Box(0.5, 0.5, 0.503125, 0.504166)])
def test_a_box_of_one_pixel_or_none_is_lost(box: Box) -> None:
    assert carried(box, scene(60, 60), scene(63, 60)) is None


def test_boxes_at_the_edge_and_tiny_images_raise_nothing() -> None:
    for shape in ((1, 1), (2, 3), (5, 300), (240, 320)):
        image = np.zeros(shape, np.uint8)
        for box in (Box(0, 0, 1, 1), Box(0.99, 0.99, 1, 1), Box(1, 1, 1, 1), Box(0, 0, 0, 0)):
            assert carry(image, image, [CarriedBox.start(box, shape)]) == [None]


def test_no_boxes_and_unequal_sizes() -> None:
    image = np.zeros((10, 10), np.uint8)
    assert carry(image, image, []) == []
    with pytest.raises(ValueError, match="one shape"):
        carry(image, np.zeros((10, 12), np.uint8), [])


def test_each_box_is_carried_as_if_it_were_alone() -> None:
    before, after = scene(90, 100), scene(96, 97)
    boxes = [square(90, 100), square(250, 60, 40), square(240, 180, 30)]
    states = [CarriedBox.start(box, before.shape) for box in boxes]
    together = [None if c is None else c.box(after.shape) for c in carry(before, after, states)]
    assert together == [carried(box, before, after) for box in boxes]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.85, 1.15),
    st.floats(-0.3, 0.3),
    st.complex_numbers(max_magnitude=50),
    st.integers(0, 12),
)
def test_consensus_finds_the_similarity_despite_outliers(
    seed: int, ratio: float, turn: float, shift: complex, outliers: int
) -> None:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 100, (32, 2))
    scale = ratio * complex(math.cos(turn), math.sin(turn))
    moved = scale * (start[:, 0] + 1j * start[:, 1]) + shift
    end = np.stack([moved.real, moved.imag], axis=1)
    end[:outliers] += rng.uniform(10, 60, (outliers, 2)) * rng.choice([-1, 1], (outliers, 2))
    found = consensus(start, end, np.ones(32))
    assert found is not None
    assert found[0] == pytest.approx(scale, abs=1e-6)
    assert found[1] == pytest.approx(shift, abs=1e-4)
    assert found[2].tolist() == [False] * outliers + [True] * (32 - outliers)


def test_coinciding_and_few_points_have_no_consensus() -> None:
    same = np.ones((20, 2))
    assert consensus(same, same, np.ones(20)) is None
    few = np.array([[0.0, 0], [20, 0], [0, 20]])
    assert len(few) < MIN_POINTS
    assert consensus(few, few, np.ones(3)) is None


@pytest.mark.parametrize("size", [(640, 480), (4000, 10), (7, 3), (1080, 1920)])
def test_small_pictures_are_bounded_and_keep_their_shape(size: tuple[int, int]) -> None:
    width, height = size
    small = small_gray(np.full((height, width, 3), (255, 0, 0), np.uint8))
    assert max(small.shape) == min(MAX_SIDE, max(size))
    assert small.shape[1] / width == pytest.approx(small.shape[0] / height, abs=1 / 10)
    assert set(small.ravel().tolist()) == {76}  # 0.299 * 255
