"""Event kinds, events, and random scripts of events.

A script lists event kinds, objects and time slots. A slot's motion is planned when the slot begins,
from the objects' actual positions (``planning``). ``physics`` executes it, and ``event_labels``
derives the ground truth from the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from llava_st_ros.simulation.scenes import Scene, SimulatedObject
from llava_st_ros.simulation.worlds import Variety, sample


class EventKind(str, Enum):
    """The kinds of event. The values appear in files and do not change."""

    PUSHED = "pushed"
    LIFTED = "lifted"
    DROPPED = "dropped"
    ROLLS = "rolls"
    ENTERS = "enters"
    LEAVES = "leaves"
    COLLIDES = "collides"
    STOPS = "stops"


@dataclass(frozen=True)
class SimulatedEvent:
    """An event that was observed in a clip.

    Attributes:
        kind: What happens to the subject.
        subject: Index of the object that moves. It is visible in every frame of ``span``.
        other: Index of the object that is hit (collides) or that the subject passes behind (rolls).
        span: First and last frame, inclusive, in which the subject moves.
    """

    kind: EventKind
    subject: int
    other: int | None
    span: tuple[int, int]


class InfeasibleError(Exception):
    """The scene cannot show the event, or the event did not happen: sample again."""


@dataclass(frozen=True)
class ScriptedEvent:
    """An event that is to happen in a time slot.

    Attributes:
        kind: What is to happen to the subject.
        subject: Index of the object.
        other: Index of the object to be hit by a collision.
        start: Start of the slot in seconds since the start of the clip.
        end: End of the slot.
    """

    kind: EventKind
    subject: int
    other: int | None
    start: float
    end: float


@dataclass(frozen=True)
class Motion:
    """The target motion of an object that the controller moves from ``origin`` to ``goal``.

    The motion eases in and out. With ``brake_at`` the speed is constant until then instead, and
    falls linearly to zero at ``end``.

    Attributes:
        origin: Target position at ``start``, [3] in meters.
        goal: Target position at ``end``, [3] in meters.
        start: In seconds since the start of the clip.
        end: In seconds since the start of the clip.
        lift: Whether the height is controlled too; then the object is held at ``goal`` afterwards.
        brake_at: When braking starts, in seconds since the start of the clip.
        bow: Displacement of the path from a straight line half-way, [3] in meters; None: none.
    """

    origin: np.ndarray
    goal: np.ndarray
    start: float
    end: float
    lift: bool = False
    brake_at: float | None = None
    bow: np.ndarray | None = None

    def target_at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the target position (m) and velocity (m/s), each [3]."""
        displacement, length = self.goal - self.origin, self.end - self.start
        elapsed = min(max(time - self.start, 0.0), length)
        if self.brake_at is not None:
            cruise = self.brake_at - self.start
            braking = length - cruise
            speed = 1.0 / (cruise + braking / 2)
            late = max(0.0, elapsed - cruise)
            fraction = speed * (elapsed - late * late / (2 * braking))
            rate = speed * (1 - late / braking)
        else:
            u = elapsed / length if length else 1.0
            fraction = u**3 * (10 - 15 * u + 6 * u * u)
            rate = 30 * u * u * (1 - u) ** 2 / length if length else 0.0
        position, velocity = self.origin + fraction * displacement, rate * displacement
        if self.bow is not None:
            position = position + 4 * fraction * (1 - fraction) * self.bow
            velocity = velocity + 4 * rate * (1 - 2 * fraction) * self.bow
        return position, velocity


_SHAPES = {
    EventKind.PUSHED: ("box", "cylinder"),
    EventKind.ROLLS: ("ball", "capsule"),
    EventKind.COLLIDES: ("ball", "box", "cylinder"),
}
# Uneven, because some kinds are discarded more often: the resulting clips are nearly balanced.
_WEIGHTS = {
    EventKind.PUSHED: 1.8,
    EventKind.LIFTED: 0.9,
    EventKind.DROPPED: 0.9,
    EventKind.ROLLS: 2.0,
    EventKind.ENTERS: 1.2,
    EventKind.LEAVES: 1.1,
    EventKind.COLLIDES: 2.0,
    EventKind.STOPS: 1.2,
}
# Of a video's events. "Stops" is only possible at its start.
_VIDEO_WEIGHTS = {
    EventKind.PUSHED: 1.6,
    EventKind.LIFTED: 0.5,
    EventKind.DROPPED: 1.5,
    EventKind.ROLLS: 2.4,
    EventKind.ENTERS: 3.0,
    EventKind.LEAVES: 0.9,
    EventKind.COLLIDES: 2.6,
    EventKind.STOPS: 0.0,
}
_AGAIN = 0.1  # probability that an event of a video has the kind and subject of the previous one
_LIKE = 0.25  # probability that it has the kind of the previous one, and a similar subject
# The state that an event requires of its subject, and the state after it; "table" if not listed.
STATE_BEFORE = {EventKind.DROPPED: "air", EventKind.ENTERS: "outside", EventKind.STOPS: "moving"}
# An object that has stopped does not move again: "stops" would be ambiguous.
STATE_AFTER = {EventKind.LIFTED: "air", EventKind.LEAVES: "gone", EventKind.STOPS: "done"}


def sample_script(
    rng: np.random.Generator,
    scene: Scene,
    duration: float,
    num_events: int,
    kinds: Sequence[EventKind] = tuple(EventKind),
    *,
    repeat: float = 0.0,
) -> tuple[list[ScriptedEvent], list[str]]:
    """Sample a script of events and the state in which each object starts.

    Args:
        rng: The random generator.
        scene: The scene that the events happen in.
        duration: Length of the clip in seconds.
        num_events: Number of events.
        kinds: The kinds to choose from.
        repeat: Probability that an event has the kind of the previous event. Its subject is then
            preferably an object that resembles the previous subject.

    Returns:
        The events in order of time, and for each object "table", "air", "outside" or "moving".

    Raises:
        InfeasibleError: No script was found.
    """
    times = _sample_times(rng, duration, num_events)
    if scene.variety is not None:
        times = [_other_length(rng, start, end, scene.variety) for start, end in times]
    objects = scene.objects
    states: list[str | None] = [None] * len(objects)
    initial_states = ["table"] * len(objects)
    script: list[ScriptedEvent] = []
    weights = np.array([_WEIGHTS[k] for k in kinds])
    for index, (start, end) in enumerate(times):
        again = index > 0 and rng.random() < repeat
        for attempt in range(60):
            kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
            subject = int(rng.integers(len(objects)))
            if again and attempt < 20:
                kind = script[-1].kind
                subject = _lookalike(rng, objects, script[-1].subject)
            if not _is_possible(kind, subject, objects[subject].shape, states[subject], script):
                continue
            other = None
            if kind is EventKind.COLLIDES:
                other = choose_hit(rng, states, subject)
                if other is None:
                    continue
                states[other] = "table"
            if states[subject] is None:
                initial_states[subject] = STATE_BEFORE.get(kind, "table")
            states[subject] = STATE_AFTER.get(kind, "table")
            begin = 0.0 if kind is EventKind.STOPS else start
            script.append(ScriptedEvent(kind, subject, other, begin, end))
            break
        else:
            raise InfeasibleError("no event fits")
    return script, initial_states


def can_be_subject(kind: EventKind, shape: str) -> bool:
    """Whether objects of a shape can be the subject of an event of the kind."""
    return shape in _SHAPES.get(kind, (shape,))


def choose_hit(rng: np.random.Generator, states: Sequence[str | None], subject: int) -> int | None:
    """Choose the object that the subject of a collision hits.

    Args:
        rng: The random generator.
        states: The state of each object, None if it is still open.
        subject: Index of the subject.

    Returns:
        An object that is or may be on the table; None if there is no other.
    """
    others = [i for i, s in enumerate(states) if i != subject and s in (None, "table")]
    return int(rng.choice(others)) if others else None


def state_after(kind: EventKind) -> str:
    """Return the state of the subject of a video's event when it is over.

    Unlike in a clip, an object that has left is "outside" and may enter again.
    """
    state = STATE_AFTER.get(kind, "table")
    return "outside" if state == "gone" else state


def sample_video_event(
    rng: np.random.Generator,
    scene: Scene,
    states: Sequence[str],
    events: Sequence[SimulatedEvent],
    start: float,
    end: float,
) -> ScriptedEvent | None:
    """Sample the next event of a video, in which an object may do the same thing again.

    Args:
        rng: The random generator.
        scene: The scene that the event happens in.
        states: The current state of each object.
        events: The video's events so far. Often the next one is like the last one.
        start: Start of the slot in seconds.
        end: End of the slot.

    Returns:
        The event; None if none was found.
    """
    kinds, objects = tuple(EventKind), scene.objects
    weights = np.array([_VIDEO_WEIGHTS[kind] for kind in kinds])
    likeness = rng.random() if events else 1.0
    for attempt in range(40):
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        subject = int(rng.integers(len(objects)))
        if attempt < 15 and likeness < _AGAIN + _LIKE:
            kind, subject = events[-1].kind, events[-1].subject
            if likeness > _AGAIN:
                subject = _lookalike(rng, objects, subject)
        before = STATE_BEFORE.get(kind, "table")
        fits = can_be_subject(kind, objects[subject].shape)
        if kind is EventKind.STOPS or not fits or states[subject] != before:
            continue
        other = None
        if kind is EventKind.COLLIDES:
            other = choose_hit(rng, states, subject)
            if other is None:
                continue
        return ScriptedEvent(kind, subject, other, start, end)
    return None


def _is_possible(
    kind: EventKind, subject: int, shape: str, state: str | None, script: list[ScriptedEvent]
) -> bool:
    """Whether an event can follow ``script``; ``state`` is the subject's, None if still open."""
    if any(s.kind is kind and s.subject == subject for s in script):
        return False
    if not can_be_subject(kind, shape):
        return False
    before = STATE_BEFORE.get(kind, "table")
    return state in (None, before) and not (before == "moving" and script)


def _lookalike(rng: np.random.Generator, objects: Sequence[SimulatedObject], index: int) -> int:
    """Sample an object, preferring those that resemble object ``index``."""
    item = objects[index]
    alike = [
        1.0
        + 3.0 * (o.shape == item.shape)
        + 2.0 * (o.color == item.color)
        + 8.0 * (o.name == item.name)
        for o in objects
    ]
    return int(rng.choice(len(objects), p=np.array(alike) / sum(alike)))


def _other_length(
    rng: np.random.Generator, start: float, end: float, variety: Variety
) -> tuple[float, float]:
    """Return a slot within another slot whose length is drawn from the variety's durations."""
    length = min(math.exp(sample(rng, variety.event_seconds)), end - start)
    begin = start + float(rng.uniform(0, end - start - length))
    return begin, begin + length


def _sample_times(
    rng: np.random.Generator, duration: float, num_events: int
) -> list[tuple[float, float]]:
    """Sample time slots with rest before, between and after them."""
    if num_events == 1:
        lengths = rng.uniform(0.35, 0.65, 1) * duration
    else:
        lengths = rng.uniform(0.8, 1.2, num_events) * 0.65 * duration / num_events
    gaps = rng.dirichlet(np.full(num_events + 1, 2.0))
    spare = duration - lengths.sum()
    least = 0.35 * spare / (num_events + 1)
    gaps = least + gaps * (spare - least * (num_events + 1))
    starts = np.cumsum(gaps[:-1]) + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    return [(float(s), float(s + n)) for s, n in zip(starts, lengths)]
