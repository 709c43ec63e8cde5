"""Clips and questions on which the answers of an engine and the reference are compared.

Plain shapes of one color each on a table; one of them moves. Like the reference inputs they depend
on a fixed seed and the model's geometry only, and need no simulator. On them a trained model is
certain of most answers, so that a difference is the engine's and not a coin toss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Query, Task

SEED = 20283
CLIPS = 4
SHAPES = 3  # per clip
COLORS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (220, 200, 40),
}
VERBS = {"ball": "rolls", "box": "is pushed"}
HORIZON = 0.35  # height of the wall, as a fraction of the frame
DISTANCE = 0.3  # that the moving shape covers, as a fraction of the frame


@dataclass(frozen=True)
class ReferenceClip:
    """A window of frames, RGB uint8 [F, S, S, 3], and questions about it."""

    frames: np.ndarray
    queries: tuple[Query, ...]


def reference_clips(config: ModelConfig) -> Iterator[ReferenceClip]:
    """Yield CLIPS clips: STVG and SVG about the moving shape, REC about each shape."""
    rng = np.random.default_rng(SEED)
    for _ in range(CLIPS):
        shapes = _random_shapes(rng)
        event = f"{shapes[0].name} {VERBS[shapes[0].kind]}"
        queries = (
            Query("event", event, Task.STVG),
            Query("tube", event, Task.SVG, span=(0.0, 1.0)),
            *(Query("object", shape.name, Task.REC) for shape in shapes),
        )
        yield ReferenceClip(_render(shapes, config.num_frames, config.image_size), queries)


@dataclass(frozen=True)
class _Shape:
    """A ball or a box; positions are fractions of the frame, times fractions of the clip."""

    color: str
    kind: str
    radius: float
    x: float
    y: float
    distance: float = 0.0
    start: float = 0.0
    end: float = 1.0

    @property
    def name(self) -> str:
        return f"the {self.color} {self.kind}"

    def x_at(self, time: float) -> float:
        share = (time - self.start) / (self.end - self.start)
        return self.x + self.distance * min(max(share, 0.0), 1.0)


def _random_shapes(rng: np.random.Generator) -> list[_Shape]:
    """Return shapes in lanes of their own; the first one moves."""
    colors = rng.permutation(list(COLORS))[:SHAPES]
    lanes = rng.permutation([0.2, 0.5, 0.8])
    shapes = []
    for number, (color, x) in enumerate(zip(colors, lanes)):
        kind = list(VERBS)[int(rng.integers(len(VERBS)))]
        radius, y = rng.uniform(0.07, 0.11), rng.uniform(0.5, 0.8)
        start = rng.uniform(0.1, 0.3)
        end = start + rng.uniform(0.3, 0.5)
        distance = float(rng.choice([-1, 1])) * DISTANCE
        if not 0.1 <= x + distance <= 0.9:
            distance = -distance
        moves = distance if number == 0 else 0.0
        shapes.append(_Shape(str(color), kind, radius, float(x), y, moves, start, end))
    return shapes


def _render(shapes: list[_Shape], frames: int, size: int) -> np.ndarray:
    down, across = np.mgrid[:size, :size] / size
    scene = np.where((down < HORIZON)[..., None], (190.0, 195.0, 200.0), (150.0, 140.0, 130.0))
    scene = scene + 20 * (1 - down)[..., None]
    images = []
    for frame in range(frames):
        image = scene
        for shape in shapes:
            x, y = shape.x_at(frame / max(frames - 1, 1)), shape.y
            beside, below = across - x, down - y
            is_ball = shape.kind == "ball"
            far = np.hypot(beside, below) if is_ball else np.maximum(abs(beside), abs(below))
            light = 0.75 + 0.35 * np.clip(0.5 - (beside + below) / (2 * shape.radius), 0, 1)
            shaded = np.array(COLORS[shape.color]) * light[..., None]
            image = np.where((far < shape.radius)[..., None], shaded, image)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(images)
