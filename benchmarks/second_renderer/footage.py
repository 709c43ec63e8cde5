"""Clips and videos of the second renderer, as ``simulation.simulator.SimulatedClip``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.second_renderer.camera import CameraPose
from benchmarks.second_renderer.planning import Plan, sample_plan
from benchmarks.second_renderer.rendering import RAYS, Placed, render, trace
from benchmarks.second_renderer.scenes import Scene, sample_scene
from llava_st_ros.errors import ConfigError
from llava_st_ros.simulation.clip_rendering import MIN_PIXELS, mask_box
from llava_st_ros.simulation.events import EventKind, InfeasibleError
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent, check_video

VERSION = 1  # grows when a seed gives other footage than before
MOVED = 0.005  # m: an object that is displaced by more is moving
COVERED = 0.15  # of its silhouette: an object that something in front covers by more is behind it
LEAST_SIZE = 0.0035  # of the image: what an object must fill, at its median, to be recognized
_EVENT_COUNTS = (0.45, 0.4, 0.15)  # shares of clips with 1, 2, 3 events
_ATTEMPTS = 2000


def make_clip(seed: int, *, num_frames: int = 20, size: int = 144) -> SimulatedClip:
    """Return a clip of 4 to 8 s with one to seven objects and one to three events.

    The same seed gives the same bytes.

    Args:
        seed: Any integer >= 0. They are unrelated to the simulator's.
        num_frames: Number of frames, equally spaced over the clip; at least 8.
        size: Width and height of the frames in pixels; at least 32.

    Raises:
        ConfigError: An argument is too small.
    """
    if num_frames < 8 or size < 32:
        raise ConfigError(
            f"a clip of {num_frames} frames and {size} px; expected at least 8 frames and 32 px"
        )

    def sample(rng: np.random.Generator) -> tuple[Scene, Plan, np.ndarray]:
        scene = sample_scene(rng)
        stamps = np.linspace(0.0, float(rng.uniform(4.0, 8.0)), num_frames)
        count = 1 + int(rng.choice(len(_EVENT_COUNTS), p=_EVENT_COUNTS))
        return scene, sample_plan(rng, scene, float(stamps[-1]), count), stamps

    return _make(seed, 0, size, sample)


def make_video(
    seed: int, *, duration: float = 40.0, fps: float = 10.0, size: int = 160
) -> SimulatedClip:
    """Return a video of three to six objects with an event about every 5 s.

    Args:
        seed: As for ``make_clip``; the videos are others than the clips.
        duration: In seconds, at least 10.
        fps: Frames per second, at least 1.
        size: Width and height of the frames in pixels, at least 32.

    Raises:
        ConfigError: An argument is too small.
    """
    check_video(duration, fps, size)

    def sample(rng: np.random.Generator) -> tuple[Scene, Plan, np.ndarray]:
        count = int(rng.integers(3, 7))
        scene = sample_scene(rng, count)
        stamps = np.arange(int(duration * fps)) / fps
        events = max(2, round(duration / float(rng.uniform(4.0, 6.5))))
        return scene, sample_plan(rng, scene, duration, events), stamps

    return _make(seed, 1, size, sample)


Sampler = Callable[[np.random.Generator], tuple[Scene, Plan, np.ndarray]]


def _make(seed: int, stream: int, size: int, sample: Sampler) -> SimulatedClip:
    """Film the first sample that shows what it plans; ``stream`` tells videos from clips."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, stream, attempt])
        try:
            return _film(seed, rng, *sample(rng), size)
        except InfeasibleError:
            continue
    raise RuntimeError(f"seed {seed} gave nothing in {_ATTEMPTS} attempts")


def _film(
    seed: int,
    rng: np.random.Generator,
    scene: Scene,
    plan: Plan,
    stamps: np.ndarray,
    size: int,
) -> SimulatedClip:
    shots = [Shot.at(scene, plan, float(stamp), size) for stamp in stamps]
    boxes = np.stack([shot.boxes for shot in shots])
    if np.isnan(boxes[:, :, 0]).all(axis=0).any():
        raise InfeasibleError("an object is never seen")
    counts = np.stack([shot.counts for shot in shots]).astype(float)
    counts[np.isnan(boxes[:, :, 0])] = np.nan
    if (np.nanmedian(counts, axis=0) < LEAST_SIZE * (RAYS * size) ** 2).any():
        raise InfeasibleError("an object is too small to be recognized")
    events = label_events(plan, stamps, boxes, shots)
    frames = np.stack([render(shot.objects, shot.pose, size, scene.look) for shot in shots])
    if scene.noise:
        noise = rng.normal(0, scene.noise, frames.shape)
        frames = np.rint(np.clip(frames + noise, 0, 255)).astype(np.uint8)
    return SimulatedClip(seed, frames, boxes, scene.objects, events, stamps)


class Shot:
    """What is where, and seen where, at one moment."""

    def __init__(self, objects: tuple[Placed, ...], pose: CameraPose, size: int) -> None:
        self.objects, self.pose, self._size = objects, pose, size
        self._ids = trace(objects, pose, size).ids
        self.counts = np.array([(self._ids == i).sum() for i in range(len(objects))])
        self.boxes = np.stack([box_of(self._ids == i) for i in range(len(objects))])

    @classmethod
    def at(cls, scene: Scene, plan: Plan, time: float, size: int) -> Shot:
        """Look at a plan at a time in seconds."""
        pose = scene.camera.pose_at(time)
        objects = tuple(
            Placed(shape, *track.at(time)) for shape, track in zip(scene.shapes, plan.tracks)
        )
        return cls(objects, pose, size)

    @property
    def centers(self) -> np.ndarray:
        """The objects' positions, [n, 3] in meters."""
        return np.stack([item.center for item in self.objects])

    def covering(self, subject: int) -> set[int]:
        """Return the objects that cover more than COVERED of the subject's silhouette."""
        alone = trace((self.objects[subject],), self.pose, self._size).ids == 0
        ids = self._ids[alone]
        return {
            i
            for i in range(len(self.objects))
            if i != subject and (ids == i).sum() > COVERED * max(1, alone.sum())
        }

    def is_left_of(self, subject: int) -> np.ndarray:
        """Return whether each object's center is left of the subject's in the image, bool [n]."""
        x = self.pose.project(self.centers)[:, 0]
        return np.asarray(x < x[subject])


def box_of(mask: np.ndarray) -> np.ndarray:
    """Return the box x1, y1, x2, y2 in [0, 1] of bool [R, R], NaN below MIN_PIXELS pixels."""
    return mask_box(mask, MIN_PIXELS * RAYS**2)


def label_events(
    plan: Plan, stamps: np.ndarray, boxes: np.ndarray, shots: Sequence[Shot]
) -> tuple[SimulatedEvent, ...]:
    """Return what is seen of the planned events, as ``simulation.event_labels`` defines it.

    An event lasts from the first frame in which its subject is displaced by more than MOVED to the
    first one in which everything that it moves is within MOVED of where it ends; "stops" starts
    when braking starts; "enters" with the first frame in which the subject is visible, and
    "leaves" ends with the last one. The subject is visible in all frames of its event.

    Raises:
        InfeasibleError: An event cannot be seen.
    """
    return tuple(_label(plan, number, stamps, boxes, shots) for number in range(len(plan.events)))


def _label(
    plan: Plan, number: int, stamps: np.ndarray, boxes: np.ndarray, shots: Sequence[Shot]
) -> SimulatedEvent:
    event = plan.events[number]
    visible = ~np.isnan(boxes[:, event.subject, 0])
    first, last = _moving_frames(plan, number, stamps)
    if event.kind in (EventKind.ENTERS, EventKind.LEAVES):
        seen = np.flatnonzero(visible[first : last + 1]) + first
        if not len(seen):
            raise InfeasibleError("the event cannot be seen")
        enters = event.kind is EventKind.ENTERS
        first, last = (int(seen[0]), last) if enters else (first, int(seen[-1]))
        if visible[:first].any() if enters else visible[last + 1 :].any():
            raise InfeasibleError("it is seen where it should not be")
    if last - first < 1 or not visible[first : last + 1].all():
        raise InfeasibleError("the event cannot be seen")
    other = event.other
    if event.kind is EventKind.ROLLS:
        other = _passed_behind(event.subject, shots, first, last)
    return SimulatedEvent(event.kind, event.subject, other, (first, last))


def _moving_frames(plan: Plan, number: int, stamps: np.ndarray) -> tuple[int, int]:
    event = plan.events[number]
    end = plan.events[number + 1].start if number + 1 < len(plan.events) else np.inf
    during = (stamps >= event.start) & (stamps < end)
    started = during.copy()
    if event.kind is not EventKind.STOPS:
        started &= _distances(plan, event.subject, stamps, event.start) > MOVED
    unsettled = np.zeros(len(stamps), dtype=bool)
    for index in (event.subject, event.other):
        if index is not None:
            unsettled |= during & (_distances(plan, index, stamps, end) > MOVED)
    if not started.any() or not unsettled.any():
        raise InfeasibleError("no frame shows the motion")
    return int(np.argmax(started)), min(int(np.flatnonzero(unsettled)[-1]) + 1, len(stamps) - 1)


def _distances(plan: Plan, index: int, stamps: np.ndarray, time: float) -> np.ndarray:
    """Return how far an object is at the stamps from where it is at a time, in meters, [F]."""
    track = plan.tracks[index]
    centers = np.stack([track.at(float(stamp))[0] for stamp in stamps])
    return np.asarray(np.linalg.norm(centers - track.at(time)[0], axis=1))


def _passed_behind(subject: int, shots: Sequence[Shot], first: int, last: int) -> int | None:
    """Return the object that the subject passes behind: covered between, but not at the ends."""
    covering = [shot.covering(subject) for shot in shots[first : last + 1]]
    passed = set().union(*covering) - covering[0] - covering[-1]
    crossed = shots[max(0, first - 1)].is_left_of(subject) != shots[last].is_left_of(subject)
    return min((i for i in passed if crossed[i]), default=None)
