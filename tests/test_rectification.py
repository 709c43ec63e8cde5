"""Rectified images: points are where cv2.undistortPoints has them, for every lens model."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from llava_st_ros.camera_geometry import Calibration
from llava_st_ros.errors import ConfigError
from llava_st_ros.rectification import Rectification

WIDTH, HEIGHT = 640, 480
K = (420.0, 0.0, 322.5, 0.0, 410.0, 236.5, 0.0, 0.0, 1.0)
P = (380.0, 0.0, 318.0, 0.0, 0.0, 385.0, 243.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LENSES = {
    "plumb_bob": (-0.32, 0.11, 0.001, -0.002, 0.01),
    "rational_polynomial": (0.4, -0.3, 0.0005, 0.001, 0.05, 0.75, -0.25, 0.02),
    "equidistant": (-0.02, 0.01, -0.004, 0.001),
}
TURN = math.radians(2.0)
TURNED = (math.cos(TURN), 0.0, math.sin(TURN), 0.0, 1.0, 0.0, -math.sin(TURN), 0.0, math.cos(TURN))
DOTS = [(x, y) for y in range(90, 400, 60) for x in range(100, 560, 70)]  # of the rectified image


def calibration(model: str = "plumb_bob") -> Calibration:
    return Calibration(WIDTH, HEIGHT, K, LENSES[model], P, model, r=TURNED)


def raw_points(of: Calibration, points: np.ndarray) -> np.ndarray:
    """Project points of the rectified image through the lens, with OpenCV's forward model."""
    rays = np.c_[points, np.ones(len(points))] @ np.linalg.inv(of.matrix(is_rectified=True)).T
    rays = (rays @ np.array(of.r).reshape(3, 3))[:, None]  # R takes camera rays to rectified ones
    lens = cv2.fisheye if of.model == "equidistant" else cv2
    none, k = np.zeros(3), of.matrix(is_rectified=False)
    seen: np.ndarray = lens.projectPoints(rays, none, none, k, np.array(of.d))[0].reshape(-1, 2)
    return seen


def image_of_dots(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw white dots of a Gaussian profile, so that their centers are known to a fraction."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = np.zeros((size[1], size[0]))
    for center_x, center_y in points:
        image += np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / (2 * 2.0**2))
    return np.repeat(np.round(255 * image.clip(0, 1)).astype(np.uint8)[..., None], 3, 2)


def center_near(image: np.ndarray, x: float, y: float, reach: int = 9) -> tuple[float, float]:
    left, top = round(x) - reach, round(y) - reach
    part = image[top : top + 2 * reach + 1, left : left + 2 * reach + 1, 0].astype(float)
    rows, columns = np.indices(part.shape)
    return left + (columns * part).sum() / part.sum(), top + (rows * part).sum() / part.sum()


@pytest.mark.parametrize("model", LENSES)
def test_points_of_a_distorted_image_are_where_undistort_points_has_them(model: str) -> None:
    camera = calibration(model)
    raw = raw_points(camera, np.array(DOTS, float))
    lens = cv2.fisheye if model == "equidistant" else cv2
    undistorted = lens.undistortPoints(
        raw[:, None],
        camera.matrix(is_rectified=False),
        np.array(camera.d),
        R=np.array(TURNED).reshape(3, 3),
        P=camera.matrix(is_rectified=True),
    ).reshape(-1, 2)
    image = image_of_dots(raw, (WIDTH, HEIGHT))
    rectified = Rectification(camera).apply(image)
    assert rectified.shape == image.shape
    moved = 0.0
    for (x, y), before in zip(undistorted, raw, strict=True):
        assert center_near(rectified, x, y) == pytest.approx((x, y), abs=0.25)
        moved = max(moved, float(np.hypot(*(before - (x, y)))))
    assert moved > 20.0  # so that an image left as it is would fail


def test_binning_and_roi_give_the_same_part_of_the_rectified_image() -> None:
    camera = replace(calibration(), binning=(2, 2), roi=(80, 60, 480, 360))
    assert camera.image_size == (240, 180)
    full = np.array([(x, y) for y in range(140, 360, 40) for x in range(160, 500, 40)], float)
    raw = (raw_points(replace(camera, binning=(0, 0), roi=(0, 0, 0, 0)), full) - (80, 60)) / 2
    rectified = Rectification(camera).apply(image_of_dots(raw, (240, 180)))
    for x, y in (full - (80, 60)) / 2:
        assert center_near(rectified, x, y, 7) == pytest.approx((x, y), abs=0.25)


@pytest.mark.parametrize("lens", [((), ""), ((0.0,) * 5, "plumb_bob"), ((0.0,) * 4, "equidistant")])
def test_without_distortion_and_rotation_nothing_changes(lens: tuple[tuple, str]) -> None:
    p = (*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0)
    camera = Calibration(WIDTH, HEIGHT, K, lens[0], p, lens[1])
    image = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    np.testing.assert_array_equal(Rectification(camera).apply(image), image)


def test_what_the_camera_does_not_see_is_black() -> None:
    wide = replace(calibration(), p=(100.0, 0.0, 320.0, 0.0, 0.0, 100.0, 240.0, 0.0, *P[8:]))
    rectified = Rectification(wide).apply(np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    assert not rectified[0, 0].any() and rectified[HEIGHT // 2, WIDTH // 2].tolist() == [200] * 3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"k": (0.0,) * 9}, r"no calibration: K is \[0, "),
        ({"p": (0.0,) * 12}, r"no calibration: P is \[0, "),
        ({"r": (0.0,) * 9}, r"the invalid R \[0, .*expected a rotation"),
        ({"r": (-1.0, *TURNED[1:])}, "the invalid R"),
        ({"k": (math.nan, *K[1:])}, "the invalid K"),
        ({"d": (math.inf, 0.0, 0.0, 0.0)}, "the invalid D"),
        ({"d": (0.1, 0.2)}, "distortion model 'plumb_bob' with 2 coefficients"),
        ({"model": "thin_prism"}, "distortion model 'thin_prism'"),
        ({"p": (380.0, 0.0, 1e5, 0.0, *P[4:])}, "maps no pixel of the image"),
    ],
)
def test_an_unusable_calibration_is_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Rectification(replace(calibration(), **changes))


def test_an_image_of_another_size_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"for 640x480 images .* but the images are 320x240"):
        Rectification(calibration()).apply(np.zeros((240, 320, 3), np.uint8))
