"""Simulated videos of half a minute and more, as a robot's camera sees them.

A clip follows a script of up to three events and is rejected if one fails. A video has many events
and would hardly ever succeed, so it is directed while it runs: when it is time for an event, one
that is possible is chosen and executed. If it does not happen as intended or is not visible, the
scene is put back to where it was, and another event or none takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_st_ros.errors import DataError
from llava_st_ros.simulation.clip_rendering import render_boxes
from llava_st_ros.simulation.event_labels import label_event
from llava_st_ros.simulation.events import (
    EventKind,
    InfeasibleError,
    ScriptedEvent,
    SimulatedEvent,
    sample_video_event,
    state_after,
)
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.physics import Tabletop, make_bouncy
from llava_st_ros.simulation.planning import MotionPlanner
from llava_st_ros.simulation.rollout import (
    REST_SPEED,
    ExecutedEvent,
    StateRecord,
    check_bystanders,
    hold_in_air,
    start_motion,
)
from llava_st_ros.simulation.scenes import Scene, sample_scene
from llava_st_ros.simulation.simulator import (
    OBJECT_COUNTS,
    SimulatedClip,
    UnrenderedClip,
    check_video,
)
from llava_st_ros.simulation.worlds import sample, world_for_seed

DURATION = (30.0, 60.0)  # s: the range of a stream's duration
_VIDEO = 1  # distinguishes a video's random numbers from those of the clip with the same seed
_ATTEMPTS = 200
_FIRST_ATTEMPT = 10  # lower numbers seed the times of a video's frames
_EVENT_ATTEMPTS = 8  # events that are tried in one place of a video
# Lengths of events and of the rests after them: probability, and range in seconds.
_LENGTHS = ((0.35, 0.5, 1.2), (0.4, 1.2, 2.4), (0.25, 2.4, 4.2))
_RESTS = ((0.6, 0.3, 2.5), (0.22, 2.5, 6.0), (0.18, 8.0, 13.0))
_SETTLING = 2.0  # s: how long an event may last after its rest should be over
_CAMERA_RATES = (10.0, 15.0, 30.0)  # Hz, of training videos
_CELLS_PER_END = 4
_SECONDS_PER_EVENT = 15.0  # a video with fewer events is rejected
_FALLING = 0.2  # s: a released object is at rest at first
_STILL = 1e-3  # m/s: slower objects are at rest, and no physics is computed for them


def simulate_stream(
    seed: int, *, duration: float | None = None, fps: float = 15.0, size: int = 144
) -> SimulatedClip:
    """Simulate a video at camera rate with one to eight objects and all kinds of events.

    The seed's split selects the world. Rests between events last up to 13 s. Objects may be the
    subject of several events, of one kind or of different ones.

    Args:
        seed: See ``split_seed``. It may be a clip's: the video shows another scene.
        duration: In seconds, at least 10; None: 30 to 60 s, by the seed.
        fps: Frames per second, at least 1.
        size: Width and height of the frames in pixels, at least 32.

    Raises:
        ConfigError: An argument is too small.
        BackendError: There is no headless OpenGL.
        DataError: No video was found.
    """
    return simulate_unrendered_stream(seed, duration=duration, fps=fps, size=size).render(seed)


def simulate_unrendered_stream(
    seed: int, *, duration: float | None = None, fps: float = 15.0, size: int = 144
) -> UnrenderedClip:
    """Simulate a video as ``simulate_stream`` does, without rendering its frames."""
    if duration is None:
        duration = float(np.random.default_rng([seed, 0, _VIDEO]).uniform(*DURATION))
    check_video(duration, fps, size)
    return simulate_unrendered_at(seed, np.arange(int(duration * fps)) / fps, size)


def simulate_training_video(seed: int, *, num_frames: int = 120, size: int = 144) -> SimulatedClip:
    """Simulate a video with the frames that windows at many moments need (``window_stamps``).

    Args:
        seed: See ``split_seed``.
        num_frames: Number of frames; 120 last half a minute.
        size: Width and height of the frames in pixels.

    Raises:
        BackendError: There is no headless OpenGL.
        DataError: No video was found.
    """
    return simulate_unrendered_at(seed, window_stamps(seed, num_frames), size).render(seed)


def window_step(seed: int) -> float:
    """Return the interval in seconds between the frames of windows of a training video.

    It is that of a clip: windows of 20 frames last 5 to 7 s.
    """
    return float(np.random.default_rng([seed, 1, _VIDEO]).uniform(5.0, 7.0)) / 19


def window_stamps(seed: int, num_frames: int) -> np.ndarray:
    """Return the times of a training video's frames, float64 [F] in seconds; the first is 0.

    A window has the first frame of each cell of a time grid, and as its last frame the camera's
    newest, at any time within its cell (``streaming.frame_buffer``). These are the first frames of
    all cells and, in every fourth cell, a later frame, with which windows can end.
    """
    step = window_step(seed)
    rng = np.random.default_rng([seed, 2, _VIDEO])
    period = 1 / float(rng.choice(_CAMERA_RATES))
    stamps: list[float] = []
    cell = 0
    while len(stamps) < num_frames:
        first, end = (int(np.ceil(k * step / period)) for k in (cell, cell + 1))
        stamps.append(first * period)
        if cell % _CELLS_PER_END == 0 and end - first > 1:
            stamps.append(int(rng.integers(first + 1, end)) * period)
        cell += 1
    return np.array(stamps[:num_frames])


def simulate_unrendered_at(seed: int, stamps: np.ndarray, size: int) -> UnrenderedClip:
    """Simulate a video with frames at increasing ``stamps`` (s, float64 [F], the first is 0)."""
    world = world_for_seed(seed)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, _FIRST_ATTEMPT + attempt, _VIDEO])
        count = 1 + int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS))
        scene = sample_scene(rng, count, world)
        try:
            rollout = StreamRollout(rng, scene, stamps, size)
        except InfeasibleError:
            continue
        subjects = [scene.objects[event.subject] for event in rollout.events]
        if world.required and not any((o.color, o.shape) in world.required for o in subjects):
            continue
        if len(rollout.events) >= stamps[-1] / _SECONDS_PER_EVENT:
            return _seen(rollout)
    raise DataError(
        f"seed {seed} gave no video of {len(stamps)} frames with {size} px in {_ATTEMPTS} attempts",
        "choose larger frames or another seed",
    )


def _seen(rollout: StreamRollout) -> UnrenderedClip:
    """Return the video without the objects that are never visible."""
    kept = np.flatnonzero(~np.isnan(rollout.boxes[:, :, 0]).all(axis=0))
    number = {int(index): i for i, index in enumerate(kept)}
    events = tuple(
        SimulatedEvent(
            e.kind, number[e.subject], None if e.other is None else number[e.other], e.span
        )
        for e in rollout.events
    )
    objects = tuple(rollout.scene.objects[i] for i in kept)
    return UnrenderedClip(rollout, rollout.boxes[:, kept], events, objects)


class StreamRollout(StateRecord):
    """A scene in which events happen one after the other until the last frame.

    Args:
        rng: The random generator.
        scene: The scene.
        stamps: Times of the frames, float64 [F] in seconds.
        size: Width and height of the frames in pixels.

    Attributes:
        boxes: float32 [F, n, 4], as in ``SimulatedClip``.
        events: The events in order of time.

    Raises:
        InfeasibleError: There is no room for the objects, or the first event failed.
    """

    def __init__(
        self, rng: np.random.Generator, scene: Scene, stamps: np.ndarray, size: int
    ) -> None:
        super().__init__(scene, stamps, size)
        count = len(scene.objects)
        self._rng = rng
        self._planner = MotionPlanner(rng, scene, float(stamps[-1]))
        self._states = _initial_states(rng, count)
        layout = self._planner.sample_layout(self._states, [])
        self._table = Tabletop(scene, self.model, *layout)
        for index, state in enumerate(self._states):
            if state == "air":
                hold_in_air(self._table, index)
        self.data = mujoco.MjData(self.model)  # to render: the physics has the table's
        self.exposure_states = np.empty((*self.times.shape, 7 * count))
        self.boxes = np.full((len(stamps), count, 4), np.nan, dtype=np.float32)
        self.events: list[SimulatedEvent] = []
        self._awake_until = _FALLING
        self._run()

    def _run(self) -> None:
        frame = 0
        if "moving" in self._states:
            subject = self._states.index("moving")
            length = _sample_from(self._rng, _LENGTHS[1:])
            first = ScriptedEvent(EventKind.STOPS, subject, None, 0.0, length)
            frame = self._show_event(0, first, _sample_from(self._rng, _RESTS))
        else:
            frame = self._show_rest(0)
        while frame < len(self.stamps):
            frame = self._show_an_event(frame)

    def _show_rest(self, first: int) -> int:
        """Film a rest from frame ``first`` on; return the frame after it."""
        end = self._frame_at(self.stamps[first] + _sample_from(self._rng, _RESTS), first + 1)
        self._film(first, end)
        self.boxes[first:end] = render_boxes(self, first, end)
        return end

    def _show_an_event(self, first: int) -> int:
        """Film a possible event and the rest after it, or only a rest; return the next frame."""
        saved = _Saved(self._table)
        for _ in range(_EVENT_ATTEMPTS):
            start = self._start_before(first)
            length, rest = self._sample_length(), _sample_from(self._rng, _RESTS)
            if start + length + 1.0 > self.stamps[-1]:
                continue
            scripted = sample_video_event(
                self._rng, self.scene, self._states, self.events, start, start + length
            )
            if scripted is None:
                continue
            try:
                return self._show_event(first, scripted, rest)
            except InfeasibleError:
                saved.restore(self._table)
        return self._show_rest(first)

    def _show_event(self, first: int, scripted: ScriptedEvent, rest: float) -> int:
        """Film an event that starts before frame ``first``, and the rest after it.

        Raises:
            InfeasibleError: It did not happen, is not visible, or moved something else.
        """
        table = self._table
        table.step_until(scripted.start)
        before = table.positions
        table.contacts.clear()
        if scripted.kind is EventKind.DROPPED:
            make_bouncy(self.model, scripted.subject)
        motion = start_motion(table, self._planner, scripted)
        self._awake_until = scripted.start + _FALLING
        end = self._frame_at(scripted.end + rest, first + 2)
        self._film(first, end)
        latest = self._frame_at(scripted.end + rest + _SETTLING, end)
        while (table.speeds > REST_SPEED).any():
            if end >= latest:
                raise InfeasibleError("the event has not come to rest")
            self._film(end, end + 1)
            end += 1
        check_bystanders(scripted, before, table.positions)
        self.boxes[first:end] = render_boxes(self, first, end)
        context = max(0, first - 1)  # labels compare with the frame before the event
        positions = self.positions[context:end]
        executed = ExecutedEvent(
            self.scene,
            scripted,
            motion,
            before=before,
            after=positions[-1],
            until=np.inf,
            stamps=self.stamps[context:end],
            positions=positions,
            contacts=table.contacts,
        )
        event = label_event(executed, self.boxes[context:end])
        span = event.span[0] + context, event.span[1] + context
        if event.other is not None and np.isnan(self.boxes[span[0], event.other, 0]):
            raise InfeasibleError("the object that is hit is not visible")
        self.events.append(SimulatedEvent(event.kind, event.subject, event.other, span))
        self._states[event.subject] = state_after(event.kind)
        return end

    def _film(self, first: int, end: int) -> None:
        """Record the states at the exposures of frames ``first`` to ``end`` - 1."""
        table = self._table
        for frame in range(first, end):
            for exposure, time in enumerate(self.times[frame]):
                if self._is_at_rest():
                    table.data.time = max(table.data.time, float(time))
                else:
                    table.step_until(float(time))
                self.exposure_states[frame, exposure] = table.data.qpos

    def _is_at_rest(self) -> bool:
        table = self._table
        time, motions = table.data.time, table.motions.values()
        held = all(motion.lift and time > motion.end for motion in motions)
        return held and time > self._awake_until and bool((table.speeds < _STILL).all())

    def _frame_at(self, time: float, least: int) -> int:
        """Return the first frame at or after ``time`` (s), at least ``least``."""
        found = max(least, int(np.searchsorted(self.stamps, time)))
        return min(found, len(self.stamps))

    def _start_before(self, frame: int) -> float:
        """Sample a time between the exposures of the previous frame and those of ``frame``."""
        low, high = float(self.times[frame - 1, -1]), float(self.times[frame, 0])
        return float(self._rng.uniform(low, max(low, high)))

    def _sample_length(self) -> float:
        """Sample the length of an event in seconds."""
        variety = self.scene.variety
        if variety is not None and self._rng.random() < 0.5:
            return float(np.exp(sample(self._rng, variety.event_seconds)))
        return _sample_from(self._rng, _LENGTHS)


class _Saved:
    """The state of the physics at one moment."""

    def __init__(self, table: Tabletop) -> None:
        data = table.data
        self._time, self._motions = data.time, dict(table.motions)
        self._arrays = [
            (array, array.copy()) for array in (data.qpos, data.qvel, data.qacc_warmstart)
        ]
        self._contacts = table.model.geom_priority.copy(), table.model.geom_solref.copy()

    def restore(self, table: Tabletop) -> None:
        table.data.time, table.motions = self._time, dict(self._motions)
        for array, value in self._arrays:
            array[:] = value
        table.model.geom_priority[:], table.model.geom_solref[:] = self._contacts
        mujoco.mj_forward(table.model, table.data)


def _initial_states(rng: np.random.Generator, count: int) -> list[str]:
    """Sample the state in which each object starts; some object is visible from the start."""
    states = [
        str(rng.choice(["table", "air", "outside"], p=[0.66, 0.14, 0.2])) for _ in range(count)
    ]
    if rng.random() < 0.35:
        states[int(rng.integers(count))] = "moving"
    if all(state == "outside" for state in states):
        states[int(rng.integers(count))] = "table"
    return states


def _sample_from(rng: np.random.Generator, ranges: Sequence[tuple[float, float, float]]) -> float:
    """Sample from a mixture of ranges, each with its weight first."""
    weights = np.array([weight for weight, _, _ in ranges])
    _, low, high = ranges[int(rng.choice(len(ranges), p=weights / weights.sum()))]
    return float(rng.uniform(low, high))
