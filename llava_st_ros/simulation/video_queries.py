"""Standing queries about a simulated video, with the frames in which they are true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_st_ros.records import Task
from llava_st_ros.simulation.descriptions import distinguishing_descriptions, sample_description
from llava_st_ros.simulation.events import EventKind, SimulatedEvent
from llava_st_ros.simulation.negatives import absent_event_text
from llava_st_ros.simulation.phrasing import (
    PREDICATES,
    event_sentence,
    plausible_subjects,
    predicates,
    sample_conjunction,
)
from llava_st_ros.simulation.simulator import SimulatedClip

NEVER_SHARE = 1 / 3  # of queries about events that do not happen
FOLLOWED_SHARE = 1 / 5  # of queries that follow an object
MAX_GAP = 1.0  # seconds without a box within one span of a followed object
_EXISTING_SHARE = 0.8  # of events that do not happen, to an object that is in the video
_ATTEMPTS = 20


@dataclass(frozen=True)
class VideoQuery:
    """A standing query about a video.

    Attributes:
        name: What it is about, in short; several queries may have the same.
        text: The query's words.
        task: How it is asked.
        spans: First and last frame, inclusive, of each time when it is true; none: it never is.
        subject: Index of the object that it describes; None if it is never true.
    """

    name: str
    text: str
    task: Task
    spans: tuple[tuple[int, int], ...] = ()
    subject: int | None = None


def event_queries(
    video: SimulatedClip, events: Sequence[SimulatedEvent] | None = None
) -> tuple[VideoQuery, ...]:
    """Return a query for each sentence and object, with every event that the sentence describes.

    Args:
        video: The video.
        events: The events to ask for; by default the first one of each object.
    """
    if events is None:
        first: dict[int, SimulatedEvent] = {}
        for event in video.events:
            first.setdefault(event.subject, event)
        events = tuple(first.values())
    spans: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for event in sorted(video.events, key=lambda event: event.span):
        described = event_sentence(event, video.objects), event.subject
        spans.setdefault(described, []).append(event.span)
    queries = {}
    for event in events:
        text = event_sentence(event, video.objects)
        found = tuple(spans[text, event.subject])
        queries[text, event.subject] = _event_query(video, event, text, found)
    return tuple(queries.values())


def object_query(video: SimulatedClip, index: int) -> VideoQuery:
    """Return a query that follows an object by its name, true in the complete video."""
    name = video.objects[index].name
    span = (0, len(video.stamps) - 1)
    return VideoQuery(name, f"the {name}", Task.REC, (span,), index)


def sample_queries(
    video: SimulatedClip, count: int, rng: np.random.Generator
) -> tuple[VideoQuery, ...]:
    """Sample queries: about events of the video, about others that never happen, about objects.

    The shares are NEVER_SHARE and FOLLOWED_SHARE, on average over videos. No text occurs twice; a
    text is true of one object only, in all spans that it describes.

    Args:
        video: The video.
        count: Number of queries. There are fewer if the video has too few events or objects that a
            text can tell apart.
        rng: The random generator.
    """
    never, followed = (_rounded(share * count, rng) for share in (NEVER_SHARE, FOLLOWED_SHARE))
    queries: dict[str, VideoQuery] = {}
    asked: set[tuple] = set()  # two texts about the same events would be one query
    for event in _shuffled(video.events, rng):
        query = _sample_event_query(video, event, rng)
        if query is not None and len(queries) < count - never - followed:
            if (query.subject, query.spans) not in asked:
                _add(queries, query)
            asked.add((query.subject, query.spans))
    about_events = len(queries)
    for index in _shuffled(range(len(video.objects)), rng):
        if len(queries) < about_events + followed:
            _add(queries, _sample_object_query(video, index, rng))
    happening = len(queries)
    for _ in range(_ATTEMPTS * never):
        if len(queries) < happening + never:
            text = absent_event_text(video, rng, existing_share=_EXISTING_SHARE)
            _add(queries, VideoQuery("never", text, Task.STVG) if text else None)
    return tuple(queries.values())


def visible_spans(video: SimulatedClip, index: int) -> tuple[tuple[int, int], ...]:
    """Return the runs of frames in which an object is visible; gaps up to MAX_GAP are bridged."""
    frames = np.flatnonzero(video.is_visible[:, index])
    if not len(frames):
        return ()
    starts = np.flatnonzero(np.diff(video.stamps[frames]) > MAX_GAP) + 1
    return tuple((int(run[0]), int(run[-1])) for run in np.split(frames, starts))


def _sample_event_query(
    video: SimulatedClip, event: SimulatedEvent, rng: np.random.Generator
) -> VideoQuery | None:
    """Sample a query about an event; None if a text for it could also mean another object's."""
    choices = predicates(event, video.objects)
    predicate = choices[int(rng.integers(len(choices)))]
    names_other = predicate not in PREDICATES[event.kind]
    described, rivals = [], []
    for other in video.events:
        if other.kind is event.kind and other.subject == event.subject:
            if not names_other or _name_of_other(video, other) == _name_of_other(video, event):
                described.append(other)
            continue
        rivals += [video.objects[i] for i in plausible_subjects(event.kind, other)]
    if event.kind is EventKind.COLLIDES and event.other is not None:
        rivals.append(video.objects[event.other])
    descriptions = distinguishing_descriptions(video.objects[event.subject], rivals)
    if not descriptions:
        return None
    conjunction = sample_conjunction(rng)
    phrase = sample_description(rng, descriptions).sample_phrase(rng)
    spans = tuple(sorted(other.span for other in described))
    return _event_query(video, event, f"the {phrase} {conjunction}{predicate}", spans)


def _sample_object_query(
    video: SimulatedClip, index: int, rng: np.random.Generator
) -> VideoQuery | None:
    """Sample a query that follows an object while it is visible; None if it is not unique."""
    others = [item for other, item in enumerate(video.objects) if other != index]
    descriptions = distinguishing_descriptions(video.objects[index], others)
    spans = visible_spans(video, index)
    if not descriptions or not spans:
        return None
    text = f"the {sample_description(rng, descriptions).sample_phrase(rng)}"
    return VideoQuery(video.objects[index].name, text, Task.REC, spans, index)


def _event_query(
    video: SimulatedClip,
    event: SimulatedEvent,
    text: str,
    spans: tuple[tuple[int, int], ...],
) -> VideoQuery:
    name = f"{video.objects[event.subject].name} {event.kind.value}"
    return VideoQuery(name, text, Task.STVG, spans, event.subject)


def _name_of_other(video: SimulatedClip, event: SimulatedEvent) -> str | None:
    return None if event.other is None else video.objects[event.other].name


def _add(queries: dict[str, VideoQuery], query: VideoQuery | None) -> None:
    if query is not None:
        queries.setdefault(query.text, query)


def _rounded(value: float, rng: np.random.Generator) -> int:
    """Round up or down at random, so that the mean is ``value``."""
    lower = int(value)
    return lower + bool(rng.random() < value - lower)


def _shuffled(items: Sequence, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]
