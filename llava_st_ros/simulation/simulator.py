"""Simulated clips of a tabletop with exact boxes and event spans, reproducible from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.simulation.clip_rendering import render_boxes, render_frames
from llava_st_ros.simulation.event_labels import label_event
from llava_st_ros.simulation.events import (
    EventKind,
    InfeasibleError,
    ScriptedEvent,
    SimulatedEvent,
    sample_script,
)
from llava_st_ros.simulation.rollout import Rollout, StateRecord
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

OBJECT_COUNTS = (0.06, 0.12, 0.18, 0.2, 0.17, 0.12, 0.09, 0.06)  # shares of 1, 2, ... 8 objects
_EVENT_COUNTS = (0.4, 0.5, 0.1)  # shares of clips with 1, 2, 3 events
_REPEAT = 0.35  # probability that an event has the kind of the previous one
_ATTEMPTS = 200
_VIDEO_ATTEMPTS = 20_000  # most are rejected early, because of their script
_VIDEO_KINDS = (
    EventKind.PUSHED,
    EventKind.LIFTED,
    EventKind.DROPPED,
    EventKind.ROLLS,
    EventKind.COLLIDES,
)


@dataclass(frozen=True)
class SimulatedClip:
    """The frames of a scene and their ground truth.

    Attributes:
        seed: The seed the clip was sampled from.
        frames: RGB uint8 [F, S, S, 3].
        boxes: float32 [F, n, 4]: x1, y1, x2, y2 in [0, 1] around the visible pixels of each object,
            NaN where fewer than 12 pixels are visible.
        objects: The n objects.
        events: In order of time.
        stamps: float64 [F] in seconds; the first is 0.
        unclear: Events of which too little is visible to ask about them (see ``windows``). A
            question may neither describe one nor claim that it does not happen.
    """

    seed: int
    frames: np.ndarray
    boxes: np.ndarray
    objects: tuple[SimulatedObject, ...]
    events: tuple[SimulatedEvent, ...]
    stamps: np.ndarray
    unclear: tuple[SimulatedEvent, ...] = ()

    @property
    def visible_events(self) -> tuple[SimulatedEvent, ...]:
        """All events of which anything is visible."""
        return (*self.events, *self.unclear)

    @property
    def is_visible(self) -> np.ndarray:
        """Whether each object is visible in each frame, bool [F, n]."""
        return ~np.isnan(self.boxes[:, :, 0])


@dataclass(frozen=True)
class UnrenderedClip:
    """A clip with its ground truth, before its frames are rendered."""

    rollout: StateRecord
    boxes: np.ndarray
    events: tuple[SimulatedEvent, ...]
    objects: tuple[SimulatedObject, ...]

    def render(self, seed: int) -> SimulatedClip:
        """Render the frames."""
        frames, stamps = render_frames(self.rollout), self.rollout.stamps
        return SimulatedClip(seed, frames, self.boxes, self.objects, self.events, stamps)


def split_seed(split: str, index: int) -> int:
    """Return the seed of clip ``index`` of a split. The splits share no seed.

    Raises:
        ConfigError: There is no such split, or it has no such clip.
    """
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 <= index < len(SPLITS[split]):
        raise ConfigError(f"the clip's index is {index}; expected 0 to {len(SPLITS[split]) - 1}")
    return SPLITS[split][index]


def simulate_clip(seed: int, *, num_frames: int = 20, size: int = 144) -> SimulatedClip:
    """Simulate a clip of 5 to 7 s with one to eight objects and one to three events.

    The seed's split selects the world. In one environment, the same seed gives the same bytes.

    Args:
        seed: See ``split_seed``.
        num_frames: Number of frames, equally spaced over the clip.
        size: Width and height of the frames in pixels.

    Raises:
        BackendError: There is no headless OpenGL.
        DataError: No clip with frames of this number and size was found.
    """
    return simulate_unrendered(seed, num_frames=num_frames, size=size).render(seed)


def simulate_unrendered(seed: int, *, num_frames: int = 20, size: int = 144) -> UnrenderedClip:
    """Simulate a clip as ``simulate_clip`` does, without rendering its frames."""
    world = world_for_seed(seed)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        stamps = np.linspace(0.0, rng.uniform(5.0, 7.0), num_frames)
        num_objects = 1 + int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS))
        num_events = 1 + int(rng.choice(len(_EVENT_COUNTS), p=_EVENT_COUNTS))
        scene = sample_scene(rng, num_objects, world)
        try:
            duration = float(stamps[-1])
            script, initial_states = _sample_script(rng, scene, world, duration, num_events)
            return _label(Rollout(rng, scene, stamps, script, initial_states, size))
        except InfeasibleError:
            continue
    raise DataError(
        f"seed {seed} gave no clip of {num_frames} frames with {size} px in {_ATTEMPTS} attempts",
        "choose larger frames or another seed",
    )


def _sample_script(
    rng: np.random.Generator, scene: Scene, world: World, duration: float, num_events: int
) -> tuple[list[ScriptedEvent], list[str]]:
    """Sample a script with a subject among the objects that ``world`` requires."""
    for _ in range(_ATTEMPTS):
        script, initial_states = sample_script(rng, scene, duration, num_events, repeat=_REPEAT)
        subjects = [scene.objects[scripted.subject] for scripted in script]
        if not world.required or any((o.color, o.shape) in world.required for o in subjects):
            return script, initial_states
    raise InfeasibleError("no required object is the subject of an event")


def _label(rollout: Rollout) -> UnrenderedClip:
    boxes = render_boxes(rollout)
    events = tuple(label_event(executed, boxes) for executed in rollout.executed_events)
    if np.isnan(boxes[:, :, 0]).all(axis=0).any():
        raise InfeasibleError("an object is never seen")
    return UnrenderedClip(rollout, boxes, events, rollout.scene.objects)


def check_video(duration: float, fps: float, size: int) -> None:
    """Check the arguments of a video.

    Raises:
        ConfigError: One of them is too small.
    """
    if duration < 10 or fps < 1 or size < 32:
        raise ConfigError(
            f"a video of {duration:g} s, {fps:g} frames/s and {size} px"
            "; expected at least 10 s, 1 frame/s and 32 px"
        )


def simulate_video(
    seed: int, *, duration: float = 24.0, fps: float = 15.0, size: int = 320
) -> SimulatedClip:
    """Simulate a video of three objects at camera rate, with an event about every 5 s.

    No kind of event occurs twice, and every object is the subject of an event.

    Args:
        seed: See ``split_seed``.
        duration: In seconds, at least 10.
        fps: Frames per second, at least 1.
        size: Width and height of the frames in pixels, at least 32.

    Raises:
        ConfigError: An argument is too small.
        BackendError: There is no headless OpenGL.
    """
    check_video(duration, fps, size)
    world, stamps = world_for_seed(seed), np.arange(int(duration * fps)) / fps
    num_events = min(len(_VIDEO_KINDS), max(3, round(duration / 5)))
    for attempt in range(_VIDEO_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        scene = sample_scene(rng, 3, world, same_name=False)
        try:
            script, initial_states = sample_script(rng, scene, duration, num_events, _VIDEO_KINDS)
            kinds, subjects = {s.kind for s in script}, {s.subject for s in script}
            if len(kinds) == num_events and len(subjects) == 3:
                rollout = Rollout(rng, scene, stamps, script, initial_states, size)
                return _label(rollout).render(seed)
        except InfeasibleError:
            continue
    raise RuntimeError(f"seed {seed} gave no video in {_VIDEO_ATTEMPTS} attempts")
