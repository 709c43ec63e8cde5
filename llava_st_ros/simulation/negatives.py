"""Questions that nothing in a clip answers: another object, another event, another place."""

from __future__ import annotations

import numpy as np

from llava_st_ros.simulation.descriptions import (
    Description,
    by_color_and_shape,
    distinguishing_descriptions,
    sample_description,
)
from llava_st_ros.simulation.descriptions import descriptions as descriptions_of
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.phrasing import BEHIND, PREDICATES, plausible_subjects
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.spatial_relations import MARGIN, VisibleObjects
from llava_st_ros.simulation.worlds import HELD_OUT

_ATTEMPTS = 12


def absent_event_text(clip: SimulatedClip, rng: np.random.Generator) -> str | None:
    """Words for an event that does not happen in the clip; None where chance finds none.

    Mostly about an object that is there, and that does something else or nothing.
    """
    kinds = tuple(EventKind)
    for _ in range(_ATTEMPTS):
        if rng.random() < 0.6:
            subject = _of(clip.objects[int(rng.integers(len(clip.objects)))], rng)
        else:
            subject = _mixed(clip.objects, rng)
        kind = kinds[int(rng.integers(len(kinds)))]
        if rng.random() < 0.5:  # what does happen, but to another object
            kind = clip.events[int(rng.integers(len(clip.events)))].kind
        told = {i for event in clip.events for i in plausible_subjects(kind, event)}
        if any(subject.matches(clip.objects[i]) for i in told):
            continue
        said = PREDICATES[kind]
        if kind is EventKind.ROLLS and rng.random() < 0.3:
            said = BEHIND
        # As where it does happen (wording.predicates): words must not tell what only eyes can.
        others = [item for item in clip.objects if not subject.matches(item)] or clip.objects
        other = others[int(rng.integers(len(others)))].name
        predicate = said[int(rng.integers(len(said)))].replace("@", other)
        joined = "that " if rng.random() < 0.3 else ""
        return f"the {subject.words(rng)} {joined}{predicate}"
    return None


def absent_object_text(scenery: VisibleObjects, rng: np.random.Generator) -> str | None:
    """Words for an object that is not in the picture; None where chance finds none.

    Objects of the clip that are out of sight count as there.
    """
    if len(scenery.indices) > 1 and rng.random() < 0.25:
        return _misplaced(scenery, rng)
    return absent_name_text(scenery.objects, rng)


def absent_name_text(objects: tuple[SimulatedObject, ...], rng: np.random.Generator) -> str | None:
    """Attributes in words that fit none of the objects; None where chance finds none."""
    for _ in range(_ATTEMPTS):
        description = _mixed(objects, rng)
        if not any(description.matches(item) for item in objects):
            return f"the {description.words(rng)}"
    return None


def _misplaced(scenery: VisibleObjects, rng: np.random.Generator) -> str | None:
    """Two objects that are there, but on the other side of each other."""
    one, other = (int(i) for i in rng.choice(scenery.indices, 2, replace=False))
    gap = float(scenery.center(one)[0] - scenery.center(other)[0])
    ways = [
        distinguishing_descriptions(scenery.objects[i], scenery.others(i)) for i in (one, other)
    ]
    if not all(ways) or abs(gap) < MARGIN:
        return None
    words = [sample_description(rng, known).words(rng) for known in ways]
    return f"the {words[0]} {'left' if gap > 0 else 'right'} of the {words[1]}"


def _of(item: SimulatedObject, rng: np.random.Generator) -> Description:
    """A description of an object that is there, naming its color or shape."""
    ways = [d for d in descriptions_of(item) if d.color or d.shape]
    return by_color_and_shape(item) if rng.random() < 0.4 else sample_description(rng, ways)


def _mixed(objects: tuple[SimulatedObject, ...], rng: np.random.Generator) -> Description:
    """Attributes of different objects, or of none, put together.

    Never a combination that no training clip holds: that it is never there would be learned.
    """

    def drawn(attribute: str, names: tuple[str, ...]) -> str:
        if rng.random() < 0.5:
            return str(getattr(objects[int(rng.integers(len(objects)))], attribute))
        return names[int(rng.integers(len(names)))]

    size = drawn("size", tuple(SIZES))
    color, shape = drawn("color", tuple(COLORS)), drawn("shape", SHAPES)
    while (color, shape) in HELD_OUT:
        color, shape = drawn("color", tuple(COLORS)), drawn("shape", SHAPES)
    mixed = Description(size, color, shape)
    left_out = rng.random()
    if left_out < 0.6:
        return Description(None, mixed.color, mixed.shape)
    if left_out < 0.7:
        return Description(mixed.size, None, mixed.shape)
    if left_out < 0.8:
        return Description(None, mixed.color, None)
    if left_out < 0.85:
        return Description(None, None, mixed.shape)
    return mixed
