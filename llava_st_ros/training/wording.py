"""The simulator's small language: names of objects and sentences about events, lower-case.

The first predicate of each kind is the one that answers use; questions use all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

from llava_st_ros.training.events import EventKind
from llava_st_ros.training.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.training.simulator import SimulatedEvent

_PREDICATES: dict[EventKind, tuple[str, ...]] = {
    EventKind.PUSHED: ("is pushed", "is pushed across the table", "gets pushed"),
    EventKind.LIFTED: ("is lifted", "is lifted up", "is picked up"),
    EventKind.DROPPED: ("is dropped", "falls onto the table", "falls down"),
    EventKind.ROLLS: ("rolls", "rolls across the table", "is rolling"),
    EventKind.ENTERS: ("enters", "enters the scene", "comes into view"),
    EventKind.LEAVES: ("leaves", "leaves the scene", "goes out of view"),
    EventKind.COLLIDES: ("collides with the @", "hits the @", "bumps into the @"),
    EventKind.STOPS: ("stops", "comes to a stop", "comes to rest"),
}
_BEHIND = ("rolls behind the @", "passes behind the @")


def predicates(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> tuple[str, ...]:
    """What can be said of the event's subject, the answer's wording first."""
    if event.other is None:
        return _PREDICATES[event.kind]
    behind = event.kind is EventKind.ROLLS
    said = _BEHIND + _PREDICATES[event.kind] if behind else _PREDICATES[event.kind]
    return tuple(p.replace("@", objects[event.other].name) for p in said)


def sentence(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> str:
    """The event as answers say it, for example "the red ball is lifted"."""
    return f"the {objects[event.subject].name} {predicates(event, objects)[0]}"


def event_texts(
    event: SimulatedEvent,
    objects: Sequence[SimulatedObject],
    events: Sequence[SimulatedEvent],
) -> list[str]:
    """Every wording that means this event and no other of ``events`` in the same clip."""
    item = objects[event.subject]
    same_kind = [e for e in events if e.kind is event.kind]
    subjects = [item.name, item.full_name]
    if sum(objects[e.subject].shape == item.shape for e in same_kind) == 1:
        subjects.append(item.shape)
    if sum(objects[e.subject].color == item.color for e in same_kind) == 1:
        subjects.append(f"{item.color} object")
    said = predicates(event, objects)
    texts = [f"the {s} {join}{p}" for s in subjects for join in ("", "that ") for p in said]
    if len(same_kind) == 1:
        texts += [f"the object that {p}" for p in said]
        texts += [f"what {p}?" for p in said]
    return texts


def object_texts(
    index: int, objects: Sequence[SimulatedObject], visible: Sequence[int]
) -> list[str]:
    """Every wording that means object ``index`` and no other of the visible ones."""
    item = objects[index]
    others = [objects[i] for i in visible if i != index]
    texts = [f"the {item.name}", f"the {item.full_name}"]
    if all(o.shape != item.shape for o in others):
        texts.append(f"the {item.shape}")
    if all(o.color != item.color for o in others):
        texts.append(f"the {item.color} object")
    if all((o.size, o.shape) != (item.size, item.shape) for o in others):
        texts.append(f"the {item.size} {item.shape}")
    return texts


def phrase(item: SimulatedObject) -> str:
    """As answers name an object: "a small red ball"."""
    return f"a {item.full_name}"


def caption(items: Sequence[SimulatedObject]) -> str:
    """One clause that names the objects in the given order."""
    names = [phrase(item) for item in items]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def all_texts() -> Iterator[str]:
    """Every kind of text that questions and answers of the simulator hold, for a tokenizer."""
    items = [
        SimulatedObject(color, shape, size, 0.0)
        for color in COLORS
        for shape in SHAPES
        for size in SIZES
    ]
    companions = cycle(items[11:] + items[:11])
    for item in items:
        objects = (item, next(companions), next(companions))
        yield caption(objects)
        yield phrase(item)
        yield from object_texts(0, objects, (0,))
        for kind in EventKind:
            yield from event_texts(event := _example(kind, None), objects, [event])
        yield from event_texts(event := _example(EventKind.ROLLS, 1), objects, [event])


def _example(kind: EventKind, other: int | None) -> SimulatedEvent:
    return SimulatedEvent(kind, 0, 1 if kind is EventKind.COLLIDES else other, (0, 1))
