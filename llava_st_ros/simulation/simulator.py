"""Simulated clips of a tabletop with exact boxes and event spans, reproducible from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_st_ros.errors import ConfigError
from llava_st_ros.simulation.event_labels import label_event
from llava_st_ros.simulation.events import (
    EventKind,
    InfeasibleError,
    ScriptedEvent,
    SimulatedEvent,
    sample_script,
)
from llava_st_ros.simulation.rollout import Rollout, render_boxes, render_frames
from llava_st_ros.simulation.scenes import Scene, SimulatedObject, sample_scene
from llava_st_ros.simulation.worlds import SPLITS, World, world_for_seed

__all__ = [
    "SPLITS",
    "SimulatedClip",
    "SimulatedEvent",
    "SimulatedObject",
    "simulate_clip",
    "simulate_video",
    "split_seed",
]

_COUNTS = (0.06, 0.12, 0.18, 0.2, 0.17, 0.12, 0.09, 0.06)  # of clips with 1, 2, ... 8 objects
_EVENTS = (0.4, 0.5, 0.1)  # of clips with 1, 2, 3 events
_REPEAT = 0.35  # of events after the first: how often of the kind of the one before
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
            f"clip {index} of split {split!r}"
            f"; expected one of {', '.join(f'{k} (0..{len(v) - 1})' for k, v in SPLITS.items())}",
        )
    return SPLITS[split][index]


@dataclass(frozen=True)
class UnrenderedClip:
    """A clip of which all is known but its pictures."""

    rollout: Rollout
    boxes: np.ndarray
    events: tuple[SimulatedEvent, ...]

    def render(self, seed: int) -> SimulatedClip:
        scene, stamps = self.rollout.scene, self.rollout.stamps
        frames = render_frames(self.rollout)
        return SimulatedClip(seed, frames, self.boxes, scene.objects, self.events, stamps)


def simulate_clip(seed: int, *, num_frames: int = 20, size: int = 144) -> SimulatedClip:
    """One clip of 5 to 7 s with one to eight objects and one to three events.

    The seed's split decides which world it comes from. The same seed gives the same bytes in one
    environment. Raises BackendError without OpenGL.
    """
    return simulate_unrendered(seed, num_frames=num_frames, size=size).render(seed)


def simulate_unrendered(seed: int, *, num_frames: int = 20, size: int = 144) -> UnrenderedClip:
    """What ``simulate_clip`` shows, before it is shown."""
    world = world_for_seed(seed)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        stamps = np.linspace(0.0, rng.uniform(5.0, 7.0), num_frames)
        count = 1 + int(rng.choice(len(_COUNTS), p=_COUNTS))
        num_events = 1 + int(rng.choice(len(_EVENTS), p=_EVENTS))
        scene = sample_scene(rng, count, world)
        try:
            script, first = _script(rng, scene, world, float(stamps[-1]), num_events)
            return _label(Rollout(rng, scene, stamps, script, first, size))
        except InfeasibleError:
            continue
    raise RuntimeError(f"no clip came of seed {seed} in {_ATTEMPTS} attempts")


def _script(
    rng: np.random.Generator, scene: Scene, world: World, duration: float, num_events: int
) -> tuple[list[ScriptedEvent], list[str]]:
    """A script that shows what ``world`` wants to be shown."""
    for _ in range(_ATTEMPTS):
        script, first = sample_script(rng, scene, duration, num_events, repeat=_REPEAT)
        subjects = [scene.objects[scripted.subject] for scripted in script]
        if not world.required or any((o.color, o.shape) in world.required for o in subjects):
            return script, first
    raise InfeasibleError("nothing wanted happens")


def _label(rollout: Rollout) -> UnrenderedClip:
    boxes = render_boxes(rollout)
    events = tuple(label_event(rollout, scripted, boxes) for scripted in rollout.script)
    if np.isnan(boxes[:, :, 0]).all(axis=0).any():
        raise InfeasibleError("an object is never seen")
    return UnrenderedClip(rollout, boxes, events)


def simulate_video(
    seed: int, *, duration: float = 24.0, fps: float = 15.0, size: int = 320
) -> SimulatedClip:
    """Three objects for ``duration`` seconds at camera rate: about an event every 5 s, no kind
    twice, every object at least once.

    Raises ConfigError below 10 s or 1 frame/s, BackendError without OpenGL.
    """
    if duration < 10 or fps < 1 or size < 32:
        raise ConfigError(
            f"a video of {duration} s, {fps} frames/s and {size} px"
            "; expected at least 10 s, 1 frame/s and 32 px",
            "raise them",
        )
    world, stamps = world_for_seed(seed), np.arange(int(duration * fps)) / fps
    num_events = min(len(_VIDEO_KINDS), max(3, round(duration / 5)))
    for attempt in range(_VIDEO_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        scene = sample_scene(rng, 3, world, same_name=False)
        try:
            script, first = sample_script(rng, scene, duration, num_events, _VIDEO_KINDS)
            kinds, subjects = {s.kind for s in script}, {s.subject for s in script}
            if len(kinds) == num_events and len(subjects) == 3:
                return _label(Rollout(rng, scene, stamps, script, first, size)).render(seed)
        except InfeasibleError:
            continue
    raise RuntimeError(f"no video came of seed {seed} in {_VIDEO_ATTEMPTS} attempts")
