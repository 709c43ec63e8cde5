"""Boxes in space, worked out by hand: a pinhole camera, lenses, depth images and their holes."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from llava_st_ros.camera_geometry import (
    MAX_PIXELS,
    Box3D,
    Calibration,
    CameraModel,
    DepthImage,
    UnlocatedError,
    locate,
    transformed,
)
from llava_st_ros.errors import ConfigError, FrameError
from llava_st_ros.records import Box

WIDTH, HEIGHT, FOCAL = 200, 100, 100.0
# The principal point is the middle of the image: 99.5 and 49.5, counted from the center of the
# first pixel, are 100 and 50 from its corner.
K = (FOCAL, 0.0, 99.5, 0.0, FOCAL, 49.5, 0.0, 0.0, 1.0)
P = (FOCAL, 0.0, 99.5, 0.0, 0.0, FOCAL, 49.5, 0.0, 0.0, 0.0, 1.0, 0.0)
PINHOLE = Calibration(WIDTH, HEIGHT, K, (0.0,) * 5, P, "plumb_bob")
BARREL = (-0.3, 0.1, 0.001, -0.002, 0.0)


def pinhole(calibration: Calibration = PINHOLE, *, is_rectified: bool = False) -> CameraModel:
    return CameraModel(calibration, is_rectified=is_rectified)


def millimeters(pixels: np.ndarray) -> DepthImage:
    data = np.ascontiguousarray(pixels, "<u2")
    height, width = data.shape
    return DepthImage.from_buffer(
        data.tobytes(), "16UC1", width, height, width * 2, big_endian=False
    )


def flat(depth: int = 2000) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), depth, np.uint16)


def test_a_box_in_the_middle_of_a_wall() -> None:
    # 100 x 40 px at 2 m and 100 px focal length: 2 m x 0.8 m, straight ahead.
    found = locate(Box(0.25, 0.3, 0.75, 0.7), millimeters(flat()), pinhole())
    assert found.center == pytest.approx((0.0, 0.0, 2.0))
    assert found.size == pytest.approx((2.0, 0.8, 0.0))


def test_a_box_beside_the_optical_axis() -> None:
    # 120 to 160 by 60 to 80 px: 0.2 to 0.6 and 0.1 to 0.3 of the focal length, times 3 m.
    found = locate(Box(0.6, 0.6, 0.8, 0.8), millimeters(flat(3000)), pinhole())
    assert found.center == pytest.approx((1.2, 0.6, 3.0))
    assert found.size == pytest.approx((1.2, 0.6, 0.0))


def test_the_background_and_what_is_before_the_object_do_not_count() -> None:
    pixels = flat(5000)  # the wall
    pixels[20:80, 80:120] = 1000  # the object fills the central half of its box
    pixels[20:25, 80:120] = 200  # a bar before it
    found = locate(Box(0.35, 0.1, 0.65, 0.9), millimeters(pixels), pinhole())
    assert found.center == pytest.approx((0.0, 0.0, 1.0))
    assert found.size == pytest.approx((0.6, 0.8, 0.0))


def test_the_extent_in_depth_is_that_of_the_visible_surface() -> None:
    # A slope over the 40 columns of the box, from 1000 mm to 1390 mm in steps of 10 mm, 40 rows.
    pixels = flat(4000)
    pixels[30:70, 80:120] = 1000 + 10 * np.arange(40)
    found = locate(Box(0.4, 0.3, 0.6, 0.7), millimeters(pixels), pinhole())
    # The middle of the central 20 columns, 1100 to 1290 mm, is 1200 mm. Half the larger side there,
    # 0.24 m, includes all 40 columns; the 5th and the 95th percent are their 3rd and their 38th.
    assert found.size == pytest.approx((0.48, 0.48, 0.35))
    assert found.center == pytest.approx((0.0, 0.0, 1.195))


def test_two_surfaces_give_one_of_their_depths() -> None:
    pixels = flat(1000)
    pixels[:, 100:] = 3000
    found = locate(Box(0.25, 0.3, 0.75, 0.7), millimeters(pixels), pinhole())
    assert found.center[2] in (1.0, 3.0)


@pytest.mark.parametrize("hole", [0.0, math.nan, math.inf, -math.inf, -1.0])
def test_holes_in_the_depth_are_ignored(hole: float) -> None:
    pixels = np.full((HEIGHT, WIDTH), 1.5, "<f4")
    pixels[::2] = hole
    pixels[:, ::3] = hole
    depth = DepthImage.from_buffer(
        pixels.tobytes(), "32FC1", WIDTH, HEIGHT, WIDTH * 4, big_endian=False
    )
    found = locate(Box(0.25, 0.3, 0.75, 0.7), depth, pinhole())
    assert found.center == pytest.approx((0.0, 0.0, 1.5))


def test_too_few_valid_pixels_are_no_depth() -> None:
    pixels = flat(0)
    box = Box(0.25, 0.3, 0.75, 0.7)  # its central half is 75 to 125 by 40 to 60 px: 1000 px
    with pytest.raises(UnlocatedError, match="too few depth pixels"):
        locate(box, millimeters(pixels), pinhole())
    pixels[40:60, 75:80] = 2000
    assert locate(box, millimeters(pixels), pinhole()).center[2] == 2.0  # 100 of 1000
    pixels[40, 75] = 0
    with pytest.raises(UnlocatedError):
        locate(box, millimeters(pixels), pinhole())  # 99


@pytest.mark.parametrize(
    "box", [Box(0.5, 0.5, 0.5, 0.5), Box(0.0, 0.0, 0.0, 0.0), Box(1.0, 1.0, 1.0, 1.0)]
)
def test_a_box_without_area_is_a_point_of_one_pixel(box: Box) -> None:
    found = locate(box, millimeters(flat()), pinhole())
    assert found.size == (0.0, 0.0, 0.0) and found.center[2] == 2.0
    assert found.center[:2] == pytest.approx(((box.x1 - 0.5) * 4.0, (box.y1 - 0.5) * 2.0))


def test_a_box_beyond_the_image_is_cut_there() -> None:
    inside = locate(Box(0.0, 0.0, 1.0, 1.0), millimeters(flat()), pinhole())
    assert locate(Box(-3.0, -1.0, 9.0, 2.0), millimeters(flat()), pinhole()) == inside


def test_large_boxes_are_read_in_steps() -> None:
    depth = millimeters(np.full((1000, 2000), 2000, np.uint16))
    _, read = depth.meters((0.0, 0.0, 2000.0, 1000.0))
    assert MAX_PIXELS / 2 < read <= MAX_PIXELS * 1.1


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", BARREL),
        ("plumb_bob", BARREL[:4]),
        ("rational_polynomial", (*BARREL, 0.02, 0.01, 0.001)),
        ("equidistant", (0.05, 0.01, 0.0, 0.0)),
    ],
)
def test_rays_go_through_the_lens(model: str, d: tuple[float, ...]) -> None:
    camera = pinhole(replace(PINHOLE, d=d, model=model))
    rays = np.array([[-0.6, 0.3], [0.0, 0.0], [0.5, -0.4]])
    # The lens models as defined in OpenCV's documentation, written out for the test.
    x, y = rays.T
    r2 = x**2 + y**2
    if model == "equidistant":
        theta = np.arctan(np.sqrt(r2))
        bent = theta * (1 + d[0] * theta**2 + d[1] * theta**4)
        scale = np.divide(bent, np.sqrt(r2), out=np.ones_like(bent), where=r2 > 0)
        x_seen, y_seen = x * scale, y * scale
    else:
        k1, k2, p1, p2, k3, k4, k5, k6 = (*d, 0, 0, 0, 0)[:8]
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        x_seen = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        y_seen = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    points = [(FOCAL * u + 100.0, FOCAL * v + 50.0) for u, v in zip(x_seen, y_seen)]
    assert camera.rays(points) == pytest.approx(rays, abs=2e-3)


def test_a_box_seen_through_a_lens_is_as_large_as_the_object() -> None:
    camera = pinhole(replace(PINHOLE, d=BARREL))
    # A square of 1 m at 2 m, from 0.1 m to 1.1 m to the right.
    corners = np.array([[0.1, -0.5, 2], [1.1, -0.5, 2], [1.1, 0.5, 2], [0.1, 0.5, 2]])
    edges = [a + t * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0)) for t in (0, 0.5)]
    none, matrix = np.zeros(3), np.array(K).reshape(3, 3)
    seen, _ = cv2.projectPoints(np.array(edges), none, none, matrix, np.array(BARREL))
    pixels = seen.reshape(-1, 2) + 0.5
    (x1, y1), (x2, y2) = pixels.min(0), pixels.max(0)
    box = Box(x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT)
    through = locate(box, millimeters(flat()), camera)
    assert through.center == pytest.approx((0.6, 0.0, 2.0), abs=0.02)
    assert through.size == pytest.approx((1.0, 1.0, 0.0), abs=0.05)
    without = locate(box, millimeters(flat()), pinhole())
    assert without.size[0] < 0.95 * through.size[0]


def test_points_beyond_the_lens_model_have_no_ray() -> None:
    # 1 - 0.3 r^2 is at its largest at r = 1.05: no ray is seen further out than 0.70 * 100 px.
    camera = pinhole(replace(PINHOLE, d=(-0.3, 0.0, 0.0, 0.0, 0.0)))
    camera.rays([(100 + 60, 50)])
    with pytest.raises(UnlocatedError, match="outside of the lens model"):
        camera.rays([(100 + 95, 50)])


def test_rectified_images_use_p_and_have_no_distortion() -> None:
    p = (50.0, 0.0, 99.5, -5.0, 0.0, 50.0, 49.5, 0.0, 0.0, 0.0, 1.0, 0.0)
    camera = pinhole(replace(PINHOLE, d=BARREL, p=p), is_rectified=True)
    assert camera.rays([(150.0, 50.0)]) == pytest.approx(np.array([[1.0, 0.0]]))


def test_binning_and_roi_are_those_of_the_image() -> None:
    # The right half of the rows 20 to 80 is read out, and 2 x 2 pixels are combined.
    part = replace(PINHOLE, binning=(2, 2), roi=(100, 20, 100, 60))
    camera = pinhole(part)
    camera.check_size(50, 30)
    with pytest.raises(ConfigError, match=r"is for 50x30 images .* but the images are 200x100"):
        camera.check_size(WIDTH, HEIGHT)
    # K becomes fx = 50 and cx = (99.5 - 100) / 2 = -0.25; pixel x from the corner is x - 0.5.
    assert camera.rays([(25.25, 0.5)])[0, 0] == pytest.approx((24.75 + 0.25) / 50)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": (0.0,) * 9}, "no calibration"),
        ({"k": ()}, "invalid K"),
        ({"k": (math.nan, *K[1:])}, "invalid K"),
        ({"d": BARREL, "model": "omnidirectional"}, "'omnidirectional' with 5 coefficients"),
        ({"d": BARREL, "model": "equidistant"}, "'equidistant' with 5 coefficients"),
        ({"d": (math.nan,) * 5}, "invalid D"),
        ({"d": BARREL, "model": ""}, "the distortion model ''"),
    ],
)
def test_calibration_that_cannot_be_used_is_named(change: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        pinhole(replace(PINHOLE, **change))


def test_no_coefficients_mean_no_distortion() -> None:
    for d, model in (((), ""), ((0.0,) * 5, "anything")):
        assert pinhole(replace(PINHOLE, d=d, model=model)).rays([(200.0, 50.0)])[0, 0] == 1.0


def test_rows_with_padding_and_big_endian_depth() -> None:
    pixels = (np.arange(6).reshape(2, 3) * 256 + 1).astype(">u2")
    padded = b"".join(row.tobytes() + b"\xff\xff" for row in pixels)
    depth = DepthImage.from_buffer(padded, "mono16", 3, 2, 8, big_endian=True)
    assert (depth.pixels == pixels).all()


@pytest.mark.parametrize(
    ("encoding", "width", "height", "step", "data", "line"),
    [
        ("rgb8", 2, 1, 6, b"\0" * 6, "encoding 'rgb8'; expected 16UC1"),
        ("16UC1", 4, 2, 8, b"\0" * 15, "15 bytes and a step of 8"),
        ("16UC1", 4, 1, 4, b"\0" * 16, "a step of 4"),
        ("32FC1", 0, 0, 0, b"", "expected 0 rows of 0 pixels"),
        ("32FC1", 2**31, 2**31, 2**32 - 1, b"\0" * 8, "8 bytes"),
    ],
)
def test_invalid_depth_images_are_rejected(
    encoding: str, width: int, height: int, step: int, data: bytes, line: str
) -> None:
    with pytest.raises(FrameError, match=line):
        DepthImage.from_buffer(data, encoding, width, height, step, big_endian=False)


def test_a_point_is_rotated_and_moved() -> None:
    half = math.sqrt(0.5)
    # From the optical frame to that of a robot that looks along x: z -> x, -x -> y, -y -> z.
    optical = (-0.5, 0.5, -0.5, 0.5)
    assert transformed((1.0, 2.0, 3.0), optical, (0.0, 0.0, 1.0)) == pytest.approx(
        (3.0, -1.0, -1.0)
    )
    assert transformed((1.0, 0.0, 0.0), (0.0, 0.0, half, half), (5.0, 0.0, 0.0)) == pytest.approx(
        (5.0, 1.0, 0.0)
    )


def test_a_box_in_space_has_finite_numbers_whatever_the_input() -> None:
    random = np.random.default_rng(5)
    for _ in range(100):
        depth = random.choice([0, 1, 700, 65535], (HEIGHT, WIDTH)).astype(np.uint16)
        x, y = np.sort(random.uniform(-0.2, 1.2, (2, 2)))
        found = locate(Box(x[0], y[0], x[1], y[1]), millimeters(depth), pinhole())
        assert isinstance(found, Box3D)
        assert np.isfinite([*found.center, *found.size]).all() and min(found.size) >= 0
