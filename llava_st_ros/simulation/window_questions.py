"""Questions about windows of a video: which event is meant, and does it happen in this window?

Most questions of a stream have no match in most windows, though something else happens. Questions
without a match are therefore about events of the same video at other times, about another object
or another predicate than those of the window's events, and one word away from a question with an
answer. All are worded by ``phrasing.event_text``, as those with an answer are: the wording alone
does not reveal whether anything matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llava_st_ros.simulation.descriptions import (
    OBJECT,
    Description,
    choose_synonym,
    distinguishing_descriptions,
    sample_description,
)
from llava_st_ros.simulation.events import EventKind, SimulatedEvent, can_be_subject
from llava_st_ros.simulation.negatives import (
    described_object,
    may_happen,
    mix_attributes,
    sample_predicate,
)
from llava_st_ros.simulation.phrasing import (
    event_text,
    plausible_subjects,
    predicates,
    rival_subjects,
    sample_conjunction,
)
from llava_st_ros.simulation.questions import (
    EVENT_TASKS,
    Sample,
    event_sample,
    event_samples,
    no_match_sample,
)
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.spatial_relations import ORDINALS
from llava_st_ros.simulation.windows import VideoWindow
from llava_st_ros.simulation.worlds import HELD_OUT

# The kinds of questions without a match. other_time: an event of the video that is over or has not
# begun. other_subject: another object than that of an event. other_predicate: what an object of the
# video does not do. nothing: an object that is not in the video.
NO_MATCH_KINDS = ("other_time", "other_subject", "other_predicate", "nothing")
_ATTEMPTS = 10
# Probability of a text about what a shape never does, such as a ball that is pushed. It is low,
# because the words alone reveal that nothing matches.
_IMPOSSIBLE_SHARE = 0.1
_OF_VIDEO_SHARE = 0.7  # probability that a kind is that of an event of the video
_BEHIND_SHARE = 0.03  # of texts about rolling objects; few do pass behind another in a video


@dataclass(frozen=True)
class Described:
    """A text, and the object of the window that it is about, if there is one."""

    text: str
    subject: int | None


def window_event_samples(window: VideoWindow, rng: np.random.Generator) -> list[Sample]:
    """Return the questions about the window's events that have an answer."""
    samples = [s for e in window.clip.events for s in event_samples(window.clip, e, rng)]
    # Which event is "the first" depends on where the window starts.
    return [s for s in samples if not s.text.endswith(ORDINALS)]


def window_no_match_samples(
    window: VideoWindow, count: int, kinds: Mapping[str, float], rng: np.random.Generator
) -> list[Sample]:
    """Return up to ``count`` STVG, TVG and SVG questions without a match.

    Args:
        window: The window.
        count: Number of questions.
        kinds: Weights of ``NO_MATCH_KINDS``.
        rng: The random generator.
    """
    names = [name for name in NO_MATCH_KINDS if kinds.get(name, 0) > 0]
    weights = np.array([kinds[name] for name in names])
    samples: list[Sample] = []
    for _ in range(count):
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        described = _SAMPLERS[name](window, rng)
        if described is not None:
            task = EVENT_TASKS[int(rng.integers(len(EVENT_TASKS)))]
            samples.append(
                no_match_sample(window.clip, task, described.text, described.subject, rng)
            )
    return samples


def window_pairs(window: VideoWindow, rng: np.random.Generator) -> list[tuple[Sample, Sample]]:
    """Return, for each event, a question with an answer and one without that differ in a word."""
    pairs = []
    for event in window.clip.events:
        pair = _pair(window, event, rng)
        if pair is not None:
            pairs.append(pair)
    return pairs


def _other_time(window: VideoWindow, rng: np.random.Generator) -> Described | None:
    if not window.absent:
        return None
    event = window.absent[int(rng.integers(len(window.absent)))]
    return _imagined(window.clip, event.kind, event.subject, event.other, rng)


def _other_subject(window: VideoWindow, rng: np.random.Generator) -> Described | None:
    clip = window.clip
    events = clip.events or window.absent
    if len(clip.objects) < 2 or not events:
        return None
    event = events[int(rng.integers(len(events)))]
    subject = int(rng.integers(len(clip.objects)))
    return _imagined(clip, event.kind, subject, None, rng)


def _other_predicate(window: VideoWindow, rng: np.random.Generator) -> Described | None:
    clip = window.clip
    subject = int(rng.integers(len(clip.objects)))
    if clip.events and rng.random() < 0.6:
        subject = clip.events[int(rng.integers(len(clip.events)))].subject
    return _imagined(clip, _sample_kind(window, rng), subject, None, rng)


def _nothing(window: VideoWindow, rng: np.random.Generator) -> Described | None:
    clip = window.clip
    kind = _sample_kind(window, rng)
    for _ in range(_ATTEMPTS):
        description = mix_attributes(clip.objects, rng)
        possible = _is_likely(kind, description.shape, rng)
        if possible and not any(description.matches(item) for item in clip.objects):
            conjunction = sample_conjunction(rng)
            words = description.sample_phrase(rng)
            predicate = sample_predicate(clip, kind, description, rng, behind_share=_BEHIND_SHARE)
            return Described(f"the {words} {conjunction}{predicate}", None)
    return None


_SAMPLERS = {
    "other_time": _other_time,
    "other_subject": _other_subject,
    "other_predicate": _other_predicate,
    "nothing": _nothing,
}


def _sample_kind(window: VideoWindow, rng: np.random.Generator) -> EventKind:
    """Sample a kind as often as it occurs, so that it does not reveal whether anything matches."""
    events = (*window.clip.visible_events, *window.absent)
    if events and rng.random() < _OF_VIDEO_SHARE:
        return events[int(rng.integers(len(events)))].kind
    return tuple(EventKind)[int(rng.integers(len(EventKind)))]


def _is_likely(kind: EventKind, shape: str | None, rng: np.random.Generator) -> bool:
    possible = shape is None or can_be_subject(kind, shape)
    return possible or rng.random() < _IMPOSSIBLE_SHARE


def _imagined(
    clip: SimulatedClip,
    kind: EventKind,
    subject: int,
    other: int | None,
    rng: np.random.Generator,
) -> Described | None:
    """Describe an event that does not happen in the window, as if it did.

    ``event_text`` finds words that distinguish it from all events that do happen, so that these do
    not match the text, also under a generous reading.

    Returns:
        None if there are no such words.
    """
    if not _is_likely(kind, clip.objects[subject].shape, rng):
        return None
    others = [i for i in range(len(clip.objects)) if i != subject]
    needs_other = kind is EventKind.COLLIDES or (
        kind is EventKind.ROLLS and rng.random() < _BEHIND_SHARE
    )
    if other is None and others and needs_other:
        other = int(rng.choice(others))
    if kind is EventKind.COLLIDES and other is None:
        return None
    similar = [e for e in clip.visible_events if plausible_subjects(kind, e)]
    visible = np.flatnonzero(clip.is_visible[:, subject])
    boxes = clip.boxes
    if len(similar) == 1 and clip.is_visible[similar[0].span[0], subject]:
        # A place must distinguish the subject from that of the event when that begins.
        frame = similar[0].span[0]
    elif similar or not len(visible):
        frame, boxes = 0, np.full_like(boxes, np.nan)  # no place does
    else:
        frame = int(rng.choice(visible))
    event = SimulatedEvent(kind, subject, other, (frame, frame))
    imagined = replace(clip, boxes=boxes, events=(*clip.events, event))
    text = event_text(imagined, event, rng)
    if text is None or text.endswith(ORDINALS):
        return None
    return Described(text, None if text.startswith("what ") else subject)


def _pair(
    window: VideoWindow, event: SimulatedEvent, rng: np.random.Generator
) -> tuple[Sample, Sample] | None:
    clip = window.clip
    item = clip.objects[event.subject]
    rivals = rival_subjects(clip, event)
    choices = [d for d in distinguishing_descriptions(item, rivals) if d != Description()]
    if not choices:
        return None
    description = sample_description(rng, choices)
    verbs = predicates(event, clip.objects)
    predicate = verbs[int(rng.integers(len(verbs)))]
    words = _words(description, rng)
    for _ in range(_ATTEMPTS):
        changed: tuple[dict[str, str], str, int | None] | None = None
        if rng.random() < 0.5:
            other_predicate = _changed_predicate(window, event, description, predicate, rng)
            if other_predicate is not None:
                changed = words, other_predicate, event.subject
        else:
            changed_words = _changed_attribute(clip, event.kind, description, words, rng)
            if changed_words is not None:
                changed = changed_words[0], predicate, changed_words[1]
        if changed is not None:
            break
    else:
        return None
    conjunction = sample_conjunction(rng)
    text = f"the {' '.join(words.values())} {conjunction}{predicate}"
    other_text = f"the {' '.join(changed[0].values())} {conjunction}{changed[1]}"
    task = EVENT_TASKS[int(rng.integers(len(EVENT_TASKS)))]
    no_match = no_match_sample(clip, task, other_text, changed[2], rng)
    answered = event_sample(clip, event, task, text)
    return answered, replace(no_match, span=answered.span)


def _changed_predicate(
    window: VideoWindow,
    event: SimulatedEvent,
    description: Description,
    predicate: str,
    rng: np.random.Generator,
) -> str | None:
    """Sample what the described object does not do; of a collision sometimes what it does not hit.

    Returns:
        None if the object may be seen to do what was sampled.
    """
    clip = window.clip
    if event.kind is EventKind.COLLIDES and rng.random() < 0.3:
        assert event.other is not None
        involved = {clip.objects[event.other].name, clip.objects[event.subject].name}
        names = sorted({item.name for item in clip.objects} - involved)
        hit = clip.objects[event.other].name
        return predicate.replace(hit, names[int(rng.integers(len(names)))]) if names else None
    kind, shape = _sample_kind(window, rng), clip.objects[event.subject].shape
    if kind is event.kind or not _is_likely(kind, shape, rng):
        return None
    if may_happen(clip, kind, description):
        return None
    return sample_predicate(clip, kind, description, rng, behind_share=_BEHIND_SHARE)


def _changed_attribute(
    clip: SimulatedClip,
    kind: EventKind,
    description: Description,
    words: dict[str, str],
    rng: np.random.Generator,
) -> tuple[dict[str, str], int | None] | None:
    """Change one attribute of a description so that no subject of such an event matches it.

    Returns:
        The words with the new one in its place, and the object that they describe, if it is in the
        video; None if the sampled attribute does not do.
    """
    name = list(words)[int(rng.integers(len(words)))]
    values = {"size": tuple(SIZES), "color": tuple(COLORS), "shape": SHAPES}[name]
    in_video = [getattr(item, name) for item in clip.objects]
    pool = in_video if rng.random() < 0.6 else values
    value = pool[int(rng.integers(len(pool)))]
    changed = replace(description, **{name: value})
    if changed == description or (changed.color, changed.shape) in HELD_OUT:
        return None
    if may_happen(clip, kind, changed) or not _is_likely(kind, changed.shape, rng):
        return None
    subject = described_object(changed, clip.objects)
    return {**words, name: choose_synonym(value, rng)}, subject


def _words(description: Description, rng: np.random.Generator) -> dict[str, str]:
    """Sample the words of a description, by attribute and in their order."""
    mentioned = {
        "size": description.size,
        "color": description.color,
        "shape": description.shape or OBJECT,
    }
    return {name: choose_synonym(word, rng) for name, word in mentioned.items() if word}
