"""A ray caster: shapes on a ground plane with hard shadows, and whose surface each ray meets.

Light is computed in linear values, the squares of displayed ones: a hemisphere of ambient light,
darkened on the ground below objects, and directional lights with Lambert's cosine and Blinn and
Phong's highlight. Each pixel is the mean of 2 x 2 rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.second_renderer.camera import CameraPose
from benchmarks.second_renderer.shapes import Shape

RAYS = 2  # per pixel along each side
NOTHING = -1  # the surface of rays that meet the ground or the sky
_REACH = 5.0  # radii around an object within which it hides ambient light from the ground


@dataclass(frozen=True)
class Paint:
    """The surface of an object.

    Attributes:
        color: RGB in [0, 1], as displayed.
        stripe: Factor of the color on every second stripe across the object's x axis; 1: plain.
        width: Of a stripe in meters.
        gloss: Strength of the highlight.
        exponent: Of the highlight.
    """

    color: tuple[float, float, float]
    stripe: float
    width: float
    gloss: float
    exponent: float


@dataclass(frozen=True)
class Ground:
    """The plane z = 0 and what is above the horizon.

    Attributes:
        pattern: "plain", "checker", "planks" or "patches".
        colors: The two colors of the pattern, RGB as displayed.
        cell: Size of the pattern in meters.
        turn: Of the pattern in radians.
        seed: Of the pattern's noise.
        sky: RGB above the horizon.
    """

    pattern: str
    colors: tuple[tuple[float, float, float], tuple[float, float, float]]
    cell: float
    turn: float
    seed: int
    sky: tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """A directional light.

    Attributes:
        direction: Unit vector [3] towards it.
        color: RGB of its linear intensity.
    """

    direction: np.ndarray
    color: np.ndarray


@dataclass(frozen=True)
class Look:
    """The surfaces and the light of a scene.

    Attributes:
        paints: Of each object.
        ground: The ground.
        ambient: RGB of the linear intensity of ambient light.
        lights: Directional lights; none: ambient light only.
        exposure: Gain.
    """

    paints: tuple[Paint, ...]
    ground: Ground
    ambient: np.ndarray
    lights: tuple[Light, ...]
    exposure: float


@dataclass(frozen=True)
class Placed:
    """A shape in the world: its center [3] and rotation [3, 3] from its own frame."""

    shape: Shape
    center: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class Surfaces:
    """What the rays of an image meet.

    Attributes:
        ids: Index of the object, or NOTHING, int8 [R, R].
        depths: Along the optical axis, inf for the sky, [R, R].
        normals: Of objects in the world, [R, R, 3].
    """

    ids: np.ndarray
    depths: np.ndarray
    normals: np.ndarray


def trace(objects: tuple[Placed, ...], pose: CameraPose, size: int) -> Surfaces:
    """Return what the rays of an image of ``size`` pixels meet; R = RAYS * size."""
    rays = RAYS * size
    directions = pose.directions(rays)
    with np.errstate(divide="ignore"):
        depths = -pose.eye[2] / directions[:, :, 2]
    depths[depths <= 0] = np.inf
    ids = np.full((rays, rays), NOTHING, dtype=np.int8)
    normals = np.zeros((rays, rays, 3))
    for index, item in enumerate(objects):
        x1, y1, x2, y2 = np.array(pose.extent(item.center, item.shape.bound)) * rays
        rows = slice(max(0, int(y1) - 1), max(0, min(rays, int(y2) + 2)))
        columns = slice(max(0, int(x1) - 1), max(0, min(rays, int(x2) + 2)))
        part = directions[rows, columns]
        if not part.size:
            continue
        t, local = item.shape.intersect(
            (pose.eye - item.center) @ item.rotation, part.reshape(-1, 3) @ item.rotation
        )
        t = t.reshape(part.shape[:2])
        nearer = t < depths[rows, columns]
        depths[rows, columns][nearer] = t[nearer]
        ids[rows, columns][nearer] = index
        normals[rows, columns][nearer] = local[nearer.ravel()] @ item.rotation.T
    return Surfaces(ids, depths, normals)


def render(objects: tuple[Placed, ...], pose: CameraPose, size: int, look: Look) -> np.ndarray:
    """Return an image, RGB uint8 [S, S, 3]."""
    found = trace(objects, pose, size)
    rays = RAYS * size
    directions = pose.directions(rays)
    light = np.empty((rays, rays, 3), dtype=np.float32)
    light[:] = np.square(look.ground.sky)
    ground = (found.ids == NOTHING) & np.isfinite(found.depths)
    light[ground] = _shade_ground(
        objects, pose.eye, found.depths[ground], directions[ground].T, look
    ).T
    for index in range(len(objects)):
        mine = found.ids == index
        if mine.any():
            points = pose.eye + found.depths[mine, None] * directions[mine]
            light[mine] = _shade_object(objects, index, points, found.normals[mine], pose.eye, look)
    displayed = np.sqrt(np.minimum(np.float32(look.exposure) * light, 1))
    offsets = [(row, column) for row in range(RAYS) for column in range(RAYS)]
    total = sum(displayed[row::RAYS, column::RAYS] for row, column in offsets)
    return np.asarray(np.rint(total * np.float32(255 / RAYS**2)), dtype=np.uint8)


def _shade_ground(
    objects: tuple[Placed, ...],
    eye: np.ndarray,
    depths: np.ndarray,
    directions: np.ndarray,
    look: Look,
) -> np.ndarray:
    """Return the light that points of the ground send to the eye, [3, N].

    Args:
        objects: What casts shadows.
        eye: [3].
        depths: Of the rays, [N].
        directions: Of the rays, [3, N].
        look: Surfaces and light.
    """
    x = eye[0] + depths * directions[0]
    y = eye[1] + depths * directions[1]
    distances = depths * np.sqrt((directions * directions).sum(axis=0))
    openness = np.ones(len(x))
    for item in objects:
        _darken_below(item, x, y, openness)
    light = look.ambient[:, None] * openness
    for source in look.lights:
        lit = np.ones(len(x), dtype=bool)
        for item in objects:
            lit &= ~_shadow_on_ground(item, x, y, source.direction)
        light = light + (source.direction[2] * source.color)[:, None] * lit
    return np.asarray(light * _ground_color(look.ground, x, y, distances))


def _darken_below(item: Placed, x: np.ndarray, y: np.ndarray, openness: np.ndarray) -> None:
    """Multiply ``openness`` by the share of ambient light that an object leaves to ground points.

    It hides as much as a ball of its size does: radius^2 / distance^2 * cosine.
    """
    radius = 0.9 * float(np.prod(item.shape.half)) ** (1 / 3)
    aside2 = (x - item.center[0]) ** 2 + (y - item.center[1]) ** 2
    near = np.flatnonzero(aside2 < (_REACH * radius) ** 2)
    height = max(float(item.center[2]), radius)
    distance2 = aside2[near] + height**2
    openness[near] *= 1 - 0.8 * radius**2 / distance2 * height / np.sqrt(distance2)


def _shadow_on_ground(
    item: Placed, x: np.ndarray, y: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Return where an object hides a light from ground points, bool [N]."""
    shadow = np.zeros(len(x), dtype=bool)
    along = item.center[2] / direction[2]
    dx = x - (item.center[0] - along * direction[0])
    dy = y - (item.center[1] - along * direction[1])
    near = np.flatnonzero(dx * dx + dy * dy < (item.shape.bound / direction[2]) ** 2)
    points = np.column_stack([x[near], y[near], np.zeros(len(near))])
    shadow[near] = _hidden_by(item, points, direction)
    return shadow


def _hidden_by(item: Placed, points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return whether an object is between points [N, 3] and a light, bool [N]."""
    starts = (points - item.center) @ item.rotation
    towards = np.broadcast_to(direction @ item.rotation, starts.shape)
    return np.isfinite(item.shape.intersect(starts, towards)[0])


def _shade_object(
    objects: tuple[Placed, ...],
    index: int,
    points: np.ndarray,
    normals: np.ndarray,
    eye: np.ndarray,
    look: Look,
) -> np.ndarray:
    """Return the light [N, 3] that points of an object send to the eye."""
    item, paint = objects[index], look.paints[index]
    albedo = _object_color(paint, (points - item.center) @ item.rotation)
    light = albedo * ((0.6 + 0.4 * normals[:, 2:]) * look.ambient)
    view = eye - points
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    for source in look.lights:
        cosine = normals @ source.direction
        lit = cosine > 0
        for other, blocker in enumerate(objects):
            if other != index and lit.any():
                lit[lit] = ~_hidden_by(blocker, points[lit], source.direction)
        light[lit] += source.color * albedo[lit] * cosine[lit, None]
        if paint.gloss:
            half = view[lit] + source.direction
            half /= np.linalg.norm(half, axis=1, keepdims=True)
            highlight = np.maximum((normals[lit] * half).sum(axis=1), 0.0) ** paint.exponent
            light[lit] += source.color * (paint.gloss * highlight)[:, None]
    return light


def _object_color(paint: Paint, local: np.ndarray) -> np.ndarray:
    """Return the linear colors [N, 3] at points of the object's own frame."""
    base = np.broadcast_to(np.square(paint.color), local.shape)
    odd = np.floor(local[:, 0] / paint.width).astype(int) % 2 == 1
    return np.where(odd[:, None], base * paint.stripe, base)


def _ground_color(
    ground: Ground, x: np.ndarray, y: np.ndarray, distances: np.ndarray
) -> np.ndarray:
    """Return the linear colors [3, N] of ground points; the pattern fades with the distance."""
    first, second = (np.square(color) for color in ground.colors)
    c, s = np.cos(ground.turn), np.sin(ground.turn)
    u = (c * x + s * y) / ground.cell
    v = (c * y - s * x) / ground.cell
    if ground.pattern == "plain":
        share = np.full(len(u), 0.5)
    elif ground.pattern == "checker":
        share = ((np.floor(u) + np.floor(v)) % 2).astype(float)
    elif ground.pattern == "planks":
        row = np.floor(v)
        share = _hash(row, np.floor((u + 7 * _hash(row, 0 * row, 1)) / 5), ground.seed)
    else:
        share = _smooth_noise(u, v, ground.seed)
    share = 0.5 + (share - 0.5) / (1 + (distances / (40 * ground.cell)) ** 4)
    return np.asarray(first[:, None] + share * (second - first)[:, None])


def _hash(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Return noise in [0, 1) that depends on the integers x and y, [N]."""
    mixed = x.astype(np.int64) * 73856093 ^ y.astype(np.int64) * 19349663 ^ (seed * 83492791)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((mixed ^ (mixed >> 11)) % 1024) / 1024.0


def _smooth_noise(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Interpolate noise between the corners of unit cells, [N] in [0, 1)."""
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = (1 - u) * _hash(column, row, seed) + u * _hash(column + 1, row, seed)
    high = (1 - u) * _hash(column, row + 1, seed) + u * _hash(column + 1, row + 1, seed)
    return np.asarray((1 - v) * low + v * high)
