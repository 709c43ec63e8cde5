"""Simulated clips of a tabletop with exact boxes and event spans, reproducible from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_st_ros.errors import ConfigError
from llava_st_ros.training.events import EventKind, InfeasibleError, SimulatedEvent, sample_slots
from llava_st_ros.training.observation import observe
from llava_st_ros.training.recording import Take, render
from llava_st_ros.training.scenes import SimulatedObject, sample_scene

__all__ = [
    "SPLITS",
    "SimulatedClip",
    "SimulatedEvent",
    "SimulatedObject",
    "simulate_clip",
    "simulate_video",
    "split_seed",
]

SPLITS: dict[str, range] = {
    "train": range(100_000_000),
    "validation": range(100_000_000, 110_000_000),
    "test": range(200_000_000, 210_000_000),
}
_ATTEMPTS = 200
_VIDEO_ATTEMPTS = 20_000  # most fall at once, over their script
_VIDEO_KINDS = (
    EventKind.PUSHED,
    EventKind.LIFTED,
    EventKind.DROPPED,
    EventKind.ROLLS,
    EventKind.COLLIDES,
)


@dataclass(frozen=True)
class SimulatedClip:
    """Frames of one scene and the truth about them.

    ``frames`` uint8 [F, S, S, 3] RGB; ``boxes`` float32 [F, n, 4] (x1, y1, x2, y2 in [0, 1] around
    the visible pixels, NaN where fewer than 12 are); ``stamps`` float64 [F] seconds, the first 0;
    ``events`` in order of time.
    """

    seed: int
    frames: np.ndarray
    boxes: np.ndarray
    objects: tuple[SimulatedObject, ...]
    events: tuple[SimulatedEvent, ...]
    stamps: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """bool [F, n]."""
        return ~np.isnan(self.boxes[:, :, 0])


def split_seed(split: str, index: int) -> int:
    """The seed of clip ``index`` of a split; seeds of different splits never meet."""
    if split not in SPLITS or not 0 <= index < len(SPLITS[split]):
        raise ConfigError(
            f"clip {index} of split {split!r}",
            f"one of {', '.join(f'{k} (0..{len(v) - 1})' for k, v in SPLITS.items())}",
            "correct the split or the index",
        )
    return SPLITS[split][index]


def simulate_clip(seed: int, *, num_frames: int = 20, size: int = 144) -> SimulatedClip:
    """One clip of 5 to 7 s with one to four objects and one or two events.

    The same seed gives the same bytes in one environment. Raises BackendError without OpenGL.
    """
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        stamps = np.linspace(0.0, rng.uniform(5.0, 7.0), num_frames)
        scene = sample_scene(rng, int(rng.choice([1, 2, 3, 4], p=[0.1, 0.25, 0.4, 0.25])))
        num_events = int(rng.choice([1, 2], p=[0.45, 0.55]))
        try:
            slots, first = sample_slots(rng, scene, float(stamps[-1]), num_events)
            return _film(seed, Take(rng, scene, stamps, slots, first, size))
        except InfeasibleError:
            continue
    raise RuntimeError(f"no clip came of seed {seed} in {_ATTEMPTS} attempts")


def simulate_video(
    seed: int, *, duration: float = 24.0, fps: float = 15.0, size: int = 320
) -> SimulatedClip:
    """Three objects for ``duration`` seconds at camera rate: about an event every 5 s, no kind
    twice, every object at least once.

    Raises ConfigError below 10 s or 1 frame/s, BackendError without OpenGL.
    """
    if duration < 10 or fps < 1 or size < 32:
        raise ConfigError(
            f"a video of {duration} s, {fps} frames/s and {size} px",
            "at least 10 s, 1 frame/s and 32 px",
            "raise them",
        )
    stamps = np.arange(int(duration * fps)) / fps
    num_events = min(len(_VIDEO_KINDS), max(3, round(duration / 5)))
    for attempt in range(_VIDEO_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        scene = sample_scene(rng, 3)
        try:
            slots, first = sample_slots(rng, scene, duration, num_events, _VIDEO_KINDS)
            kinds, subjects = {s.kind for s in slots}, {s.subject for s in slots}
            if len(kinds) == num_events and len(subjects) == 3:
                return _film(seed, Take(rng, scene, stamps, slots, first, size))
        except InfeasibleError:
            continue
    raise RuntimeError(f"no video came of seed {seed} in {_VIDEO_ATTEMPTS} attempts")


def _film(seed: int, take: Take) -> SimulatedClip:
    frames, boxes = render(take)
    events = tuple(observe(take, slot, boxes) for slot in take.slots)
    return SimulatedClip(seed, frames, boxes, take.scene.objects, events, take.stamps)
