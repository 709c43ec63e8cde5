"""Event kinds, events, and random scripts of events.

A script lists event kinds, objects and time slots. A slot's motion is planned when the slot begins,
from the objects' actual positions (``planning``). ``physics`` executes it, and ``event_labels``
derives the ground truth from the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from llava_st_ros.simulation.scenes import Scene, SimulatedObject


class EventKind(str, Enum):
    """The kinds of event; the values are stable names for files."""

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
    """``span`` is (first, last) frame, both included, in which the subject really moves.

    The subject is visible in every frame of the span.

    ``other`` is the object hit by a collision, or the one a rolling object passes behind.
    """

    kind: EventKind
    subject: int
    other: int | None
    span: tuple[int, int]


class InfeasibleError(Exception):
    """This scene can't host this event, or it did not come about: sample another clip."""


@dataclass(frozen=True)
class ScriptedEvent:
    """An event to come: seconds since the clip began; ``other`` is what a collision hits."""

    kind: EventKind
    subject: int
    other: int | None
    start: float
    end: float


@dataclass(frozen=True)
class Motion:
    """Where the hand wants an object to be: from ``origin`` to ``goal`` while start..end.

    ``lift`` steers the height too and holds the object up afterwards. With ``brake_at`` the speed
    is constant until then and falls to zero at the end; without it the motion eases in and out.
    """

    origin: np.ndarray
    goal: np.ndarray
    start: float
    end: float
    lift: bool = False
    brake_at: float | None = None

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Wanted position (m) and velocity (m/s), each [3]."""
        way, length = self.goal - self.origin, self.end - self.start
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
        return self.origin + fraction * way, rate * way


_SHAPES = {
    EventKind.PUSHED: ("box", "cylinder"),
    EventKind.ROLLS: ("ball", "capsule"),
    EventKind.COLLIDES: ("ball", "box", "cylinder"),
}
# Uneven, so that after the discarded clips the kinds come out nearly even.
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
# Where an object must be for an event, and where it is afterwards.
_BEFORE = {EventKind.DROPPED: "air", EventKind.ENTERS: "outside", EventKind.STOPS: "moving"}
# What has stopped does not start again: "stops" would mean both ends.
_AFTER = {EventKind.LIFTED: "air", EventKind.LEAVES: "gone", EventKind.STOPS: "done"}


def sample_script(
    rng: np.random.Generator,
    scene: Scene,
    duration: float,
    num_events: int,
    kinds: Sequence[EventKind] = tuple(EventKind),
    *,
    repeat: float = 0.0,
) -> tuple[list[ScriptedEvent], list[str]]:
    """A script and each object's first state: "table", "air", "outside" or "moving".

    With probability ``repeat`` an event is of the kind of the one before, its subject mostly one
    that is easily confused with that one's.
    """
    times = _sample_times(rng, duration, num_events)
    objects = scene.objects
    state: list[str | None] = [None] * len(objects)
    first = ["table"] * len(objects)
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
            if any(s.kind is kind and s.subject == subject for s in script):
                continue
            if objects[subject].shape not in _SHAPES.get(kind, (objects[subject].shape,)):
                continue
            before = _BEFORE.get(kind, "table")
            if state[subject] not in (None, before) or (before == "moving" and index > 0):
                continue
            other = None
            if kind is EventKind.COLLIDES:
                others = [i for i, s in enumerate(state) if i != subject and s in (None, "table")]
                if not others:
                    continue
                other = int(rng.choice(others))
                state[other] = "table"
            if state[subject] is None:
                first[subject] = before
            state[subject] = _AFTER.get(kind, "table")
            begin = 0.0 if kind is EventKind.STOPS else start
            script.append(ScriptedEvent(kind, subject, other, begin, end))
            break
        else:
            raise InfeasibleError("no event fits")
    return script, first


def _lookalike(rng: np.random.Generator, objects: Sequence[SimulatedObject], index: int) -> int:
    """An object, the likelier the more it has in common with object ``index``."""
    item = objects[index]
    alike = [
        1.0
        + 3.0 * (o.shape == item.shape)
        + 2.0 * (o.color == item.color)
        + 8.0 * (o.name == item.name)
        for o in objects
    ]
    return int(rng.choice(len(objects), p=np.array(alike) / sum(alike)))


def _sample_times(
    rng: np.random.Generator, duration: float, num_events: int
) -> list[tuple[float, float]]:
    """Slots in order with rest before, between and (mostly) after them."""
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
