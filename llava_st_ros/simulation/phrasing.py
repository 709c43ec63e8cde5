"""The simulator's small language: sentences about objects and events, lower-case.

The first predicate of each kind is the one that answers use; questions use all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llava_st_ros.simulation.descriptions import (
    Description,
    by_color_and_shape,
    distinguishing_descriptions,
    sample_description,
    vocabulary,
)
from llava_st_ros.simulation.events import EventKind, SimulatedEvent
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.spatial_relations import ORDINALS, VisibleObjects, placed

PREDICATES: dict[EventKind, tuple[str, ...]] = {
    EventKind.PUSHED: ("is pushed", "is pushed across the table", "gets pushed", "is shoved"),
    EventKind.LIFTED: ("is lifted", "is lifted up", "is picked up", "is raised"),
    EventKind.DROPPED: ("is dropped", "falls onto the table", "falls down"),
    EventKind.ROLLS: ("rolls", "rolls across the table", "is rolling"),
    EventKind.ENTERS: ("enters", "enters the scene", "comes into view", "appears"),
    EventKind.LEAVES: ("leaves", "leaves the scene", "goes out of view", "disappears"),
    EventKind.COLLIDES: ("collides with the @", "hits the @", "bumps into the @"),
    EventKind.STOPS: ("stops", "comes to a stop", "comes to rest"),
}
BEHIND = ("rolls behind the @", "passes behind the @")
# What an onlooker may also say of a subject to which the first thing happens: an event is asked
# about only in words that fit no other, and nothing is denied that may be said.
_SLIDING = {EventKind.PUSHED, EventKind.ROLLS, EventKind.STOPS}
COMPATIBLE_KINDS: dict[EventKind, set[EventKind]] = {
    EventKind.PUSHED: _SLIDING,
    EventKind.ROLLS: _SLIDING,
    EventKind.STOPS: _SLIDING,
    EventKind.ENTERS: _SLIDING,
    EventKind.LEAVES: _SLIDING,
    EventKind.COLLIDES: _SLIDING,
    EventKind.LIFTED: {EventKind.STOPS},
    EventKind.DROPPED: {EventKind.STOPS, EventKind.COLLIDES},
}
_PLACED = 0.35  # how often an object is told by its place where it can be


def predicates(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> tuple[str, ...]:
    """What can be said of the event's subject, the answer's wording first."""
    if event.other is None:
        return PREDICATES[event.kind]
    behind = event.kind is EventKind.ROLLS
    said = BEHIND + PREDICATES[event.kind] if behind else PREDICATES[event.kind]
    return tuple(p.replace("@", objects[event.other].name) for p in said)


def event_sentence(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> str:
    """The event as answers say it, for example "the red ball is lifted"."""
    return f"the {objects[event.subject].name} {predicates(event, objects)[0]}"


def required_words(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> tuple[str, ...]:
    """What a right sentence about the event must hold: color, shape, what happens, and to what."""
    item = objects[event.subject]
    said = (item.color, item.shape, PREDICATES[event.kind][0].replace(" the @", ""))
    if event.kind is EventKind.COLLIDES and event.other is not None:
        return (*said, objects[event.other].name)
    return said


def plausible_subjects(kind: EventKind, event: SimulatedEvent) -> set[int]:
    """The objects of which it may be said that an event of ``kind`` happens to them, in ``event``:
    its subject, what it hits, or none."""
    found = {event.subject} if kind is event.kind or kind in COMPATIBLE_KINDS[event.kind] else set()
    if event.kind is EventKind.COLLIDES and kind in (_SLIDING | {EventKind.COLLIDES}):
        assert event.other is not None
        found.add(event.other)
    return found


def event_text(clip: SimulatedClip, event: SimulatedEvent, rng: np.random.Generator) -> str | None:
    """Words that mean this event and no other of the clip; None where there are none."""
    said = predicates(event, clip.objects)
    predicate = said[int(rng.integers(len(said)))]
    joined = "that " if rng.random() < 0.3 else ""
    rivals = [
        clip.objects[i]
        for other in clip.events
        if other is not event
        for i in plausible_subjects(event.kind, other)
    ]
    if event.kind is EventKind.COLLIDES and event.other is not None:
        rivals.append(clip.objects[event.other])
    ways = distinguishing_descriptions(clip.objects[event.subject], rivals)
    if not ways:
        return _in_order(clip, event, predicate, rng)
    if Description() in ways and rng.random() < 0.1:
        return f"what {predicate}?"
    words = sample_description(rng, ways).words(rng)
    if rng.random() < _PLACED:
        scenery = VisibleObjects.of(clip.objects, clip.boxes[event.span[0]])
        by_place = placed(event.subject, scenery, rng)
        if by_place:
            # "the ball left of the box that is pushed" would be the box that is pushed.
            words, joined = by_place[int(rng.integers(len(by_place)))], ""
    return f"the {words} {joined}{predicate}"


def _in_order(
    clip: SimulatedClip, event: SimulatedEvent, predicate: str, rng: np.random.Generator
) -> str | None:
    """ "the ball that is pushed first": of events of one kind that each happen to another object
    of the same description."""
    alike = [e for e in clip.events if e.kind is event.kind]
    rivals = [e for e in clip.events if e not in alike and plausible_subjects(event.kind, e)]
    subject = clip.objects[event.subject]
    shared = all(by_color_and_shape(subject).matches(clip.objects[e.subject]) for e in alike)
    apart = len({e.subject for e in alike}) == len(alike) > 1
    if rivals or not apart or event.other is not None:
        return None
    order = sorted(alike, key=lambda e: e.span).index(event)
    description = by_color_and_shape(subject) if shared else Description()
    if not shared and all(clip.objects[e.subject].shape == subject.shape for e in alike):
        description = Description(shape=subject.shape)
    return f"the {description.words(rng)} that {predicate} {ORDINALS[order]}"


def object_text(index: int, scenery: VisibleObjects, rng: np.random.Generator) -> str | None:
    """Words that mean an object and no other that is seen; None where there are none."""
    ways = distinguishing_descriptions(scenery.objects[index], scenery.others(index))
    if not ways or rng.random() < _PLACED:
        by_place = placed(index, scenery, rng)
        if by_place:
            return f"the {by_place[int(rng.integers(len(by_place)))]}"
    return f"the {sample_description(rng, ways).words(rng)}" if ways else None


def object_phrase(item: SimulatedObject) -> str:
    """As answers name an object: "a small red ball"."""
    return f"a {item.full_name}"


def caption(items: Sequence[SimulatedObject]) -> str:
    """One clause that names the objects in the given order."""
    names = [object_phrase(item) for item in items]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def all_texts() -> Iterator[str]:
    """Every word that questions and answers of the simulator hold, in its usual company, for a
    tokenizer."""
    predicate = [p for said in (*PREDICATES.values(), BEHIND) for p in said]
    places = ["leftmost", "rightmost", *ORDINALS]
    for number, word in enumerate(vocabulary()):
        yield f"the {word} {predicate[number % len(predicate)].replace('@', word)}"
        yield f"the {places[number % len(places)]} {word} left of the {word}"
        yield f"the {word} right of the {word} that"
        yield f"the {word} next to the {word}"
        yield f"the {word} farthest to the left"
        yield f"the {word} on the right"
        yield f"the second {word} from the left"
    for color in COLORS:
        for shape in SHAPES:
            for number, size in enumerate(SIZES):
                name = f"{color} {shape}"
                yield f"a {size} {name}, a {size} {name} and a {size} {name}"
                for said in predicate[number :: len(SIZES)]:
                    yield f"the {name} {said.replace('@', name)}"
                    yield f"the {size} {name} that {said.replace('@', f'{color} object')}"
    for said in predicate:
        yield f"what {said.replace('@', 'red ball')}?"
        yield from (f"the object that {said.replace('@', 'box')} {nth}" for nth in ORDINALS[:3])
