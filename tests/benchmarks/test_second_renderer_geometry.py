"""Shapes, cameras and light of the second renderer against closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.second_renderer.camera import CameraPose
from benchmarks.second_renderer.footage import box_of
from benchmarks.second_renderer.rendering import (
    RAYS,
    Ground,
    Light,
    Look,
    Paint,
    Placed,
    render,
    trace,
)
from benchmarks.second_renderer.shapes import Shape, contact_distance
from llava_st_ros.simulation.scenes import SimulatedObject

SIZE = 150
PIXEL = 1 / (RAYS * SIZE)
BALL = Shape("ball", (0.05, 0.05, 0.05))
BOX = Shape("box", (0.03, 0.05, 0.08))
CYLINDER = Shape("cylinder", (0.04, 0.04, 0.07))
CAPSULE = Shape("capsule", (0.03, 0.03, 0.09))
POSE = CameraPose.looking_at(
    np.array([0.02, 0.0, 0.03]), (0.7, math.radians(35), 1.2), math.radians(4), (2.1, 1.7)
)
WHITE_PAINT = Paint((1.0, 1.0, 1.0), 1.0, 1.0, 0.0, 1.0)
GROUND = Ground("plain", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 0.1, 0.0, 0, (0.0, 0.0, 1.0))


def ball_box(pose: CameraPose, center: np.ndarray, radius: float) -> list[float]:
    """The outline of a ball is a conic: x = f (X Z -+ r sqrt(X^2 + Z^2 - r^2)) / (Z^2 - r^2)."""
    local = pose.axes @ (center - pose.eye)
    edges = []
    for sign in (-1, 1):
        for axis in (0, 1):
            x, z = local[axis], local[2]
            slope = (x * z + sign * radius * math.sqrt(x * x + z * z - radius**2)) / (
                z * z - radius**2
            )
            edges.append(0.5 + 0.5 * pose.focal[axis] * slope)
    return edges


def seen_box(item: Placed, pose: CameraPose = POSE) -> np.ndarray:
    return box_of(trace((item,), pose, SIZE).ids == 0)


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.05), (0.3, -0.2, 0.4), (-0.2, 0.25, 0.05)])
def test_a_balls_box_is_that_of_its_conic(center: tuple[float, float, float]) -> None:
    place = np.array(center)
    expected = ball_box(POSE, place, BALL.half[0])
    assert POSE.extent(place, BALL.half[0]) == pytest.approx(expected, abs=1e-9)
    assert seen_box(Placed(BALL, place, np.eye(3))) == pytest.approx(expected, abs=1.01 * PIXEL)


@pytest.mark.parametrize("seed", range(3))
def test_a_boxs_box_is_that_of_its_corners(seed: int) -> None:
    item = Placed(BOX, np.array([0.1, -0.05, 0.2]), rotation(seed))
    corners = [np.array(signs) * BOX.half for signs in itertools.product((-1, 1), repeat=3)]
    points = POSE.project(item.center + np.array(corners) @ item.rotation.T)[:, :2]
    expected = [*points.min(axis=0), *points.max(axis=0)]
    assert seen_box(item) == pytest.approx(expected, abs=1.01 * PIXEL)


@pytest.mark.parametrize("seed", range(3))
def test_a_cylinders_box_is_that_of_its_two_circles(seed: int) -> None:
    item = Placed(CYLINDER, np.array([-0.1, 0.05, 0.2]), rotation(seed))
    angles = np.linspace(0, 2 * math.pi, 2000)
    radius, _, half = CYLINDER.half
    circle = radius * np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])
    up = np.array([0, 0, half])
    rims = np.concatenate([circle + up, circle - up])
    points = POSE.project(item.center + rims @ item.rotation.T)[:, :2]
    expected = [*points.min(axis=0), *points.max(axis=0)]
    assert seen_box(item) == pytest.approx(expected, abs=1.01 * PIXEL)


@pytest.mark.parametrize("seed", range(3))
def test_a_capsules_box_is_that_of_its_two_balls(seed: int) -> None:
    item = Placed(CAPSULE, np.array([0.05, 0.0, 0.2]), rotation(seed))
    radius, _, half = CAPSULE.half
    axis = item.rotation[:, 2] * (half - radius)
    boxes = [ball_box(POSE, item.center + sign * axis, radius) for sign in (-1, 1)]
    expected = [*np.min(boxes, axis=0)[:2], *np.max(boxes, axis=0)[2:]]
    assert seen_box(item) == pytest.approx(expected, abs=1.01 * PIXEL)


def signed_distance(shape: Shape, points: np.ndarray) -> np.ndarray:
    """Distance to the surface, negative inside, [N]: written without rays."""
    x, _, z = shape.half
    if shape.kind == "ball":
        return np.linalg.norm(points, axis=1) - x
    if shape.kind == "box":
        over = np.abs(points) - shape.half
        return np.linalg.norm(np.maximum(over, 0), axis=1) + np.minimum(over.max(axis=1), 0)
    if shape.kind == "cylinder":
        over = np.column_stack([np.hypot(points[:, 0], points[:, 1]) - x, np.abs(points[:, 2]) - z])
        return np.linalg.norm(np.maximum(over, 0), axis=1) + np.minimum(over.max(axis=1), 0)
    axial = points * [0, 0, 1]
    axial[:, 2] = np.clip(axial[:, 2], x - z, z - x)
    return np.linalg.norm(points - axial, axis=1) - x


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from([BALL, BOX, CYLINDER, CAPSULE]), seed=st.integers(0, 10**6))
def test_rays_hit_the_surface_first_where_marching_along_them_does(shape: Shape, seed: int) -> None:
    rng = np.random.default_rng(seed)
    origin = rng.normal(size=3)
    origin *= rng.uniform(0.2, 1.5) / np.linalg.norm(origin)
    directions = rng.normal(0, 0.06, (20, 3)) - origin
    t, normals = shape.intersect(origin, directions)
    marched = np.zeros(len(directions))
    speed = np.linalg.norm(directions, axis=1)
    for _ in range(400):
        marched += (
            np.maximum(0, signed_distance(shape, origin + marched[:, None] * directions)) / speed
        )
    rest = signed_distance(shape, origin + marched[:, None] * directions)
    grazing = (rest > 1e-9) & (rest < 1e-4)
    hit = np.isfinite(t)
    assert (hit == (rest < 1e-4))[~grazing].all()
    sure = hit & ~grazing
    assert t[sure] == pytest.approx(marched[sure], abs=1e-5)
    # The distance grows along the outward normal as fast as one moves.
    out = origin + t[sure, None] * directions[sure] + 1e-4 * normals[sure]
    assert signed_distance(shape, out) == pytest.approx(1e-4, rel=1e-2)


def test_the_nearer_object_is_seen_and_the_ground_behind_it() -> None:
    pose = CameraPose.looking_at(np.zeros(3), (0.0, math.radians(30), 1.0), 0.0, (1.5, 1.5))
    towards = pose.eye / np.linalg.norm(pose.eye)
    near, far = (Placed(BALL, d * towards, np.eye(3)) for d in (0.4, 0.2))
    found = trace((far, near), pose, SIZE)
    middle = RAYS * SIZE // 2
    assert found.ids[middle, middle] == 1
    assert found.depths[middle, middle] == pytest.approx(1.0 - 0.4 - 0.05, abs=1e-4)
    assert found.normals[middle, middle] == pytest.approx(towards, abs=0.03)
    assert found.ids[-1, 0] == -1
    assert trace((), pose, SIZE).depths[middle, middle] == pytest.approx(1.0, abs=0.01)


def test_nothing_behind_the_camera_is_seen() -> None:
    pose = CameraPose.looking_at(np.zeros(3), (0.0, 0.3, 1.0), 0.0, (1.0, 1.0))
    behind = Placed(BALL, 2 * pose.eye, np.eye(3))
    assert not (trace((behind,), pose, SIZE).ids == 0).any()
    assert pose.extent(behind.center, 0.05)[0] > 1


def test_a_light_from_the_side_casts_a_shadow_of_the_objects_height() -> None:
    """From 45 degrees the shadow of a ball 0.3 m above the ground is 0.3 m to the other side."""
    pose = CameraPose.looking_at(np.zeros(3), (0.0, math.pi / 2 - 1e-3, 2.0), 0.0, (2.0, 2.0))
    ball = Placed(BALL, np.array([0.0, 0.0, 0.3]), np.eye(3))
    sun = Light(np.array([math.sqrt(0.5), 0.0, math.sqrt(0.5)]), np.full(3, 0.8))
    look = Look((WHITE_PAINT,), GROUND, np.full(3, 0.2), (sun,), 1.0)
    image = render((ball,), pose, SIZE, look).astype(int)

    def brightness(x: float, y: float) -> int:
        u, v, _ = pose.project(np.array([x, y, 0.0]))
        return int(image[int(v * SIZE), int(u * SIZE), 0])

    # Display = 255 sqrt(albedo (ambient + light cosine)), with the ball's share of the ambient.
    lit = 255 * math.sqrt(0.25 * (0.2 + 0.8 * math.sqrt(0.5)))
    dark = 255 * math.sqrt(0.25 * 0.2)
    assert brightness(-0.3, 0.0) == pytest.approx(dark, abs=3)
    assert brightness(0.3, 0.0) == pytest.approx(lit, abs=3)
    assert brightness(-0.3, 0.08) == pytest.approx(lit, abs=3)


def test_ambient_light_only_casts_no_shadow() -> None:
    ball = Placed(BALL, np.array([0.0, 0.0, 0.3]), np.eye(3))
    look = Look((WHITE_PAINT,), GROUND, np.ones(3), (), 1.0)
    image = render((ball,), POSE, SIZE, look)
    ground = trace((ball,), POSE, SIZE).ids[::RAYS, ::RAYS] == -1
    assert image[ground].min() > 120  # 128 where nothing is near


def test_touching_distances() -> None:
    x = np.array([1.0, 0.0])
    diagonal = np.array([1.0, 1.0]) / math.sqrt(2)
    cube = Shape("box", (0.05, 0.05, 0.05))
    assert contact_distance(BALL, CYLINDER, (0.0, 0.0), diagonal) == pytest.approx(0.09, abs=5e-4)
    assert contact_distance(cube, BOX, (0.0, 0.0), x) == pytest.approx(0.08, abs=1e-3)
    # Along its diagonal a square meets a circle with its corner.
    expected = 0.05 * math.sqrt(2) + 0.05
    assert contact_distance(BALL, cube, (0.0, 0.0), diagonal) == pytest.approx(expected, abs=1e-3)
    turned = contact_distance(BALL, cube, (0.0, math.pi / 4), diagonal)
    assert turned == pytest.approx(0.1, abs=1e-3)
    lying = contact_distance(CAPSULE, CAPSULE, (0.0, math.pi / 2), x)
    assert lying == pytest.approx(0.09 + 0.03, abs=1e-3)


def test_capsules_lie_and_others_stand() -> None:
    item = SimulatedObject("red", "capsule", "small", 0.05, (1.0, 1.0, 1.5))
    shape = Shape.of(item)
    assert shape.rest_height == pytest.approx(0.03)
    assert shape.rotation(0.0) @ [0, 0, 1] == pytest.approx([1, 0, 0])
    assert shape.radius == pytest.approx(0.03 + 0.7 * 0.075)
    box = Shape.of(SimulatedObject("red", "box", "small", 0.05, (0.8, 1.0, 1.25)))
    assert box.half == pytest.approx((0.04, 0.05, 0.0625))
    assert box.rest_height == pytest.approx(0.0625)
