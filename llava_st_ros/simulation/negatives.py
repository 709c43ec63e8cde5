"""Texts for no-match questions: about objects, events or places that a clip does not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_st_ros.simulation.descriptions import (
    Description,
    all_descriptions,
    by_color_and_shape,
    distinguishing_descriptions,
    sample_description,
)
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.phrasing import (
    BEHIND,
    PREDICATES,
    plausible_subjects,
    sample_conjunction,
)
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.spatial_relations import MARGIN, VisibleObjects
from llava_st_ros.simulation.worlds import HELD_OUT

_ATTEMPTS = 12


def absent_event_text(
    clip: SimulatedClip, rng: np.random.Generator, *, existing_share: float = 0.6
) -> str | None:
    """Sample a text about an event that does not happen in the clip; see ``absent_event``."""
    found = absent_event(clip, rng, existing_share=existing_share)
    return None if found is None else found[0]


def absent_event(
    clip: SimulatedClip, rng: np.random.Generator, *, existing_share: float = 0.6
) -> tuple[str, Description] | None:
    """Sample a text about an event that does not happen in the clip, None if none was found.

    Args:
        clip: The clip.
        rng: The random generator.
        existing_share: Share of texts that are about an object of the clip, which does something
            else or nothing.

    Returns:
        The text, and its description of the subject.
    """
    kinds = tuple(EventKind)
    for _ in range(_ATTEMPTS):
        if rng.random() < existing_share:
            subject = _describe(clip.objects[int(rng.integers(len(clip.objects)))], rng)
        else:
            subject = mix_attributes(clip.objects, rng)
        kind = kinds[int(rng.integers(len(kinds)))]
        if rng.random() < 0.5 and clip.events:  # a kind that does happen, but to another object
            kind = clip.events[int(rng.integers(len(clip.events)))].kind
        if may_happen(clip, kind, subject):
            continue
        predicate = sample_predicate(clip, kind, subject, rng, behind_share=0.3)
        conjunction = sample_conjunction(rng)
        return f"the {subject.sample_phrase(rng)} {conjunction}{predicate}", subject
    return None


def may_happen(clip: SimulatedClip, kind: EventKind, description: Description) -> bool:
    """Whether a described object may be seen as the subject of an event of the kind."""
    subjects = {i for event in clip.visible_events for i in plausible_subjects(kind, event)}
    return any(description.matches(clip.objects[i]) for i in subjects)


def sample_predicate(
    clip: SimulatedClip,
    kind: EventKind,
    description: Description,
    rng: np.random.Generator,
    *,
    behind_share: float,
) -> str:
    """Sample a predicate of the kind; an object that it mentions is not the described one.

    It is worded as in questions with an answer (``phrasing.predicates``): the wording alone must
    not reveal that nothing matches.

    Args:
        clip: The clip.
        kind: The kind of event.
        description: The subject.
        rng: The random generator.
        behind_share: Probability that a rolling object passes behind another one.
    """
    choices = PREDICATES[kind]
    if kind is EventKind.ROLLS and rng.random() < behind_share:
        choices = BEHIND
    landmarks = [item for item in clip.objects if not description.matches(item)] or clip.objects
    landmark = landmarks[int(rng.integers(len(landmarks)))].name
    return choices[int(rng.integers(len(choices)))].replace("@", landmark)


def described_object(description: Description, objects: Sequence[SimulatedObject]) -> int | None:
    """Return the index of the only object that a description matches, None if there is none."""
    matching = [i for i, item in enumerate(objects) if description.matches(item)]
    return matching[0] if len(matching) == 1 else None


def absent_object_text(visible: VisibleObjects, rng: np.random.Generator) -> str | None:
    """Sample a text about an object that is not in the frame, None if none was found.

    No text matches an object of the clip that is merely not visible in the frame.
    """
    if len(visible.indices) > 1 and rng.random() < 0.25:
        return _misplaced_object_text(visible, rng)
    return absent_name_text(visible.objects, rng)


def absent_name_text(objects: tuple[SimulatedObject, ...], rng: np.random.Generator) -> str | None:
    """Sample a text whose attributes match none of the objects, None if none was found."""
    for _ in range(_ATTEMPTS):
        description = mix_attributes(objects, rng)
        if not any(description.matches(item) for item in objects):
            return f"the {description.sample_phrase(rng)}"
    return None


def _misplaced_object_text(visible: VisibleObjects, rng: np.random.Generator) -> str | None:
    """Return a text that places a visible object on the wrong side of another one."""
    subject, landmark = (int(i) for i in rng.choice(visible.indices, 2, replace=False))
    gap = float(visible.center(subject)[0] - visible.center(landmark)[0])
    descriptions = [
        distinguishing_descriptions(visible.objects[i], visible.other_objects(i))
        for i in (subject, landmark)
    ]
    if not all(descriptions) or abs(gap) < MARGIN:
        return None
    phrases = [sample_description(rng, choices).sample_phrase(rng) for choices in descriptions]
    return f"the {phrases[0]} {'left' if gap > 0 else 'right'} of the {phrases[1]}"


def _describe(item: SimulatedObject, rng: np.random.Generator) -> Description:
    """Sample a description of an object that mentions its color or shape."""
    choices = [d for d in all_descriptions(item) if d.color or d.shape]
    return by_color_and_shape(item) if rng.random() < 0.4 else sample_description(rng, choices)


def mix_attributes(objects: tuple[SimulatedObject, ...], rng: np.random.Generator) -> Description:
    """Combine attributes of different objects and random ones.

    Held-out combinations are avoided: the model would learn that they never occur.
    """

    def sample(attribute: str, names: tuple[str, ...]) -> str:
        if rng.random() < 0.5:
            return str(getattr(objects[int(rng.integers(len(objects)))], attribute))
        return names[int(rng.integers(len(names)))]

    size = sample("size", tuple(SIZES))
    color, shape = sample("color", tuple(COLORS)), sample("shape", SHAPES)
    while (color, shape) in HELD_OUT:
        color, shape = sample("color", tuple(COLORS)), sample("shape", SHAPES)
    choice = rng.random()
    if choice < 0.6:
        return Description(None, color, shape)
    if choice < 0.7:
        return Description(size, None, shape)
    if choice < 0.8:
        return Description(None, color, None)
    if choice < 0.85:
        return Description(None, None, shape)
    return Description(size, color, shape)
