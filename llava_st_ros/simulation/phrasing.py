"""The simulator's language: lower-case sentences about objects and events.

Answers use the first predicate of an event's kind, questions use all of them.
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
from llava_st_ros.simulation.spatial_relations import ORDINALS, VisibleObjects, relational_phrases

# Predicates by kind; "@" is the name of the other object.
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
_SLIDING = {EventKind.PUSHED, EventKind.ROLLS, EventKind.STOPS}
# The other kinds that an observer may also see in an event of a kind. Questions about an event use
# only words that match no other event, and no-match questions only words that match none.
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
_RELATIONAL = 0.35  # probability of a phrase by place, where there is one


def predicates(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> tuple[str, ...]:
    """Return the predicates that describe the event, the one that answers use first."""
    if event.other is None:
        return PREDICATES[event.kind]
    behind = event.kind is EventKind.ROLLS
    choices = BEHIND + PREDICATES[event.kind] if behind else PREDICATES[event.kind]
    return tuple(p.replace("@", objects[event.other].name) for p in choices)


def event_sentence(event: SimulatedEvent, objects: Sequence[SimulatedObject]) -> str:
    """Return the sentence for the event in answers, for example "the red ball is lifted"."""
    return f"the {objects[event.subject].name} {predicates(event, objects)[0]}"


def caption_attributes(
    event: SimulatedEvent, objects: Sequence[SimulatedObject]
) -> tuple[str, ...]:
    """Return the words of a correct caption: color, shape, predicate and the object that is hit."""
    item = objects[event.subject]
    attributes = (item.color, item.shape, PREDICATES[event.kind][0].replace(" the @", ""))
    if event.kind is EventKind.COLLIDES and event.other is not None:
        return (*attributes, objects[event.other].name)
    return attributes


def plausible_subjects(kind: EventKind, event: SimulatedEvent) -> set[int]:
    """Return the objects that an observer of ``event`` may consider the subject of a ``kind``.

    These are its subject, the object that it hits, or none.
    """
    found = {event.subject} if kind is event.kind or kind in COMPATIBLE_KINDS[event.kind] else set()
    if event.kind is EventKind.COLLIDES and kind in (_SLIDING | {EventKind.COLLIDES}):
        assert event.other is not None
        found.add(event.other)
    return found


def rival_subjects(clip: SimulatedClip, event: SimulatedEvent) -> list[SimulatedObject]:
    """Return the objects that a description of the event's subject must not match."""
    rivals = [
        clip.objects[i]
        for other in clip.visible_events
        if other is not event
        for i in plausible_subjects(event.kind, other)
    ]
    if event.kind is EventKind.COLLIDES and event.other is not None:
        rivals.append(clip.objects[event.other])
    return rivals


def sample_conjunction(rng: np.random.Generator) -> str:
    """Sample what is between subject and predicate.

    All questions share it, so that it does not reveal whether anything matches.
    """
    return "that " if rng.random() < 0.3 else ""


def event_text(clip: SimulatedClip, event: SimulatedEvent, rng: np.random.Generator) -> str | None:
    """Sample a text that matches this event only; None if no text does."""
    choices = predicates(event, clip.objects)
    predicate = choices[int(rng.integers(len(choices)))]
    conjunction = sample_conjunction(rng)
    rivals = rival_subjects(clip, event)
    descriptions = distinguishing_descriptions(clip.objects[event.subject], rivals)
    if not descriptions:
        return _text_by_order(clip, event, predicate, rng)
    if Description() in descriptions and rng.random() < 0.1:
        return f"what {predicate}?"
    words = sample_description(rng, descriptions).sample_phrase(rng)
    if rng.random() < _RELATIONAL:
        visible = VisibleObjects.from_boxes(clip.objects, clip.boxes[event.span[0]])
        phrases = relational_phrases(event.subject, visible, rng)
        if phrases:
            # Without "that": in "the ball left of the box that is pushed" the box is pushed.
            words, conjunction = phrases[int(rng.integers(len(phrases)))], ""
    return f"the {words} {conjunction}{predicate}"


def _text_by_order(
    clip: SimulatedClip, event: SimulatedEvent, predicate: str, rng: np.random.Generator
) -> str | None:
    """Return a text such as "the ball that is pushed first".

    It needs several events of the kind, each with another subject, that one description matches.
    """
    similar = [e for e in clip.events if e.kind is event.kind]
    others = [e for e in clip.visible_events if e not in similar]
    rivals = [e for e in others if plausible_subjects(event.kind, e)]
    subject = clip.objects[event.subject]
    same_name = all(by_color_and_shape(subject).matches(clip.objects[e.subject]) for e in similar)
    are_distinct = len({e.subject for e in similar}) == len(similar) > 1
    if rivals or not are_distinct or event.other is not None:
        return None
    order = sorted(similar, key=lambda e: e.span).index(event)
    description = by_color_and_shape(subject) if same_name else Description()
    if not same_name and all(clip.objects[e.subject].shape == subject.shape for e in similar):
        description = Description(shape=subject.shape)
    return f"the {description.sample_phrase(rng)} that {predicate} {ORDINALS[order]}"


def object_text(index: int, visible: VisibleObjects, rng: np.random.Generator) -> str | None:
    """Sample a text that matches this visible object only; None if no text does."""
    descriptions = distinguishing_descriptions(visible.objects[index], visible.other_objects(index))
    if not descriptions or rng.random() < _RELATIONAL:
        phrases = relational_phrases(index, visible, rng)
        if phrases:
            return f"the {phrases[int(rng.integers(len(phrases)))]}"
    return (
        f"the {sample_description(rng, descriptions).sample_phrase(rng)}" if descriptions else None
    )


def object_phrase(item: SimulatedObject) -> str:
    """Return the phrase for an object in answers, for example "a small red ball"."""
    return f"a {item.full_name}"


def objects_caption(items: Sequence[SimulatedObject]) -> str:
    """Return a clause that names the objects in the given order."""
    names = [object_phrase(item) for item in items]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def all_texts() -> Iterator[str]:
    """Yield texts with every word of questions and answers in typical contexts, for a tokenizer."""
    choices = [p for predicates in (*PREDICATES.values(), BEHIND) for p in predicates]
    ranks = ["leftmost", "rightmost", *ORDINALS]
    for number, word in enumerate(vocabulary()):
        yield f"the {word} {choices[number % len(choices)].replace('@', word)}"
        yield f"the {ranks[number % len(ranks)]} {word} left of the {word}"
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
                for predicate in choices[number :: len(SIZES)]:
                    yield f"the {name} {predicate.replace('@', name)}"
                    yield f"the {size} {name} that {predicate.replace('@', f'{color} object')}"
    for predicate in choices:
        yield f"what {predicate.replace('@', 'red ball')}?"
        yield from (
            f"the object that {predicate.replace('@', 'box')} {nth}" for nth in ORDINALS[:3]
        )
