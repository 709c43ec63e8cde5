"""Queries about videos: what their texts are true of."""

from __future__ import annotations

import numpy as np
import pytest

from llava_st_ros.records import Task
from llava_st_ros.simulation.descriptions import SYNONYMS
from llava_st_ros.simulation.events import EventKind, SimulatedEvent
from llava_st_ros.simulation.phrasing import PREDICATES
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.video_queries import VideoQuery, sample_queries, visible_spans

PUSHED, LIFTED = EventKind.PUSHED, EventKind.LIFTED
FRAMES = 60


def item(color: str, shape: str, size: str = "small") -> SimulatedObject:
    values = {"size": size, "color": color, "shape": shape}
    fields = SimulatedObject.__dataclass_fields__
    return SimulatedObject(**{name: values.get(name, 0.1) for name in fields})


def video(*events: SimulatedEvent, objects: tuple[SimulatedObject, ...], fps: float = 10.0):
    boxes = np.tile(np.array([0.1, 0.1, 0.2, 0.2], np.float32), (FRAMES, len(objects), 1))
    frames = np.zeros((FRAMES, 8, 8, 3), np.uint8)
    return SimulatedClip(0, frames, boxes, objects, events, np.arange(FRAMES) / fps)


RED, BLUE, OTHER = item("red", "box"), item("blue", "ball"), item("red", "box", "large")
SEVERAL = video(
    SimulatedEvent(PUSHED, 0, None, (2, 8)),
    SimulatedEvent(LIFTED, 1, None, (12, 18)),
    SimulatedEvent(LIFTED, 2, None, (22, 28)),
    SimulatedEvent(PUSHED, 0, None, (32, 38)),
    SimulatedEvent(EventKind.DROPPED, 1, None, (40, 44)),
    objects=(RED, BLUE, OTHER),
)


def drawn(clip: SimulatedClip, count: int = 5, seeds: int = 40) -> list[tuple[VideoQuery, ...]]:
    return [sample_queries(clip, count, np.random.default_rng(seed)) for seed in range(seeds)]


def kind_of(text: str) -> EventKind:
    """Return the kind that a text names, by its longest predicate."""
    kinds = {p.replace(" the @", ""): kind for kind, ps in PREDICATES.items() for p in ps}
    kinds |= dict.fromkeys(("rolls behind", "passes behind"), EventKind.ROLLS)
    return kinds[max((p for p in kinds if f" {p}" in text), key=len)]


def is_described(thing: SimulatedObject, text: str) -> bool:
    """Whether an object has all attributes that a text mentions."""
    first = {synonym: word for word, synonyms in SYNONYMS.items() for synonym in synonyms}
    words = {first.get(word, word) for word in text.split()}
    mentioned = words & {*COLORS, *SHAPES, *SIZES}
    return mentioned <= {thing.color, thing.shape, thing.size}


def test_a_text_has_every_span_that_it_describes_and_no_other() -> None:
    happening = [q for qs in drawn(SEVERAL) for q in qs if q.task is Task.STVG and q.spans]
    assert {(kind_of(q.text), q.subject) for q in happening} == {
        (PUSHED, 0),
        (LIFTED, 1),
        (LIFTED, 2),
        (EventKind.DROPPED, 1),
    }
    for query in happening:
        expected = [
            e.span
            for e in SEVERAL.events
            if e.kind is kind_of(query.text) and e.subject == query.subject
        ]
        assert list(query.spans) == expected, query.text


def test_a_text_that_could_mean_two_objects_is_not_used() -> None:
    # Two red boxes are lifted: only their size tells them apart.
    twins = video(
        SimulatedEvent(LIFTED, 0, None, (2, 8)),
        SimulatedEvent(LIFTED, 1, None, (12, 18)),
        objects=(RED, OTHER),
    )
    happening = [q for qs in drawn(twins) for q in qs if q.spans]
    assert happening
    for query in happening:
        words = query.text.split()
        assert ("small" in words or "little" in words) == (query.subject == 0), query.text
        assert ("large" in words or "big" in words) == (query.subject == 1), query.text


def test_what_never_happens_has_no_span_and_no_object() -> None:
    never = [q for qs in drawn(SEVERAL) for q in qs if not q.spans]
    assert never and all(q.subject is None and q.task is Task.STVG for q in never)
    about_existing = 0
    for query in never:
        subject = query.text.split(" the ")[0]  # without the other object
        described = [i for i, o in enumerate(SEVERAL.objects) if is_described(o, subject)]
        about_existing += bool(described)
        kind = kind_of(query.text)
        assert not any(e.kind is kind and e.subject in described for e in SEVERAL.events)
    assert about_existing / len(never) > 0.7


def test_a_third_never_happens_and_a_fifth_follows_an_object() -> None:
    sets = drawn(SEVERAL, 5, 300)
    assert {len(queries) for queries in sets} == {5}
    assert all(len({q.text for q in queries}) == len(queries) for queries in sets)
    never = np.mean([sum(not q.spans for q in queries) for queries in sets])
    assert never == pytest.approx(5 / 3, abs=0.1)
    followed = [sum(q.task is Task.REC for q in queries) for queries in sets]
    assert set(followed) == {1}


def test_the_same_seed_gives_the_same_queries() -> None:
    first, second = (sample_queries(SEVERAL, 5, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert first != sample_queries(SEVERAL, 5, np.random.default_rng(8))


def test_a_video_with_one_event_has_fewer_queries() -> None:
    single = video(SimulatedEvent(LIFTED, 0, None, (2, 8)), objects=(RED,))
    for queries in drawn(single, 9, 5):
        assert sum(bool(q.spans) and q.task is Task.STVG for q in queries) == 1


def test_short_gaps_of_visibility_are_bridged() -> None:
    clip = video(SimulatedEvent(LIFTED, 0, None, (2, 8)), objects=(RED,))
    clip.boxes[:5] = clip.boxes[10:20] = clip.boxes[30:45] = np.nan
    # Frames 9 and 20 are 1.1 s apart, 29 and 45 1.6 s.
    assert visible_spans(clip, 0) == ((5, 9), (20, 29), (45, 59))
    clip.boxes[19] = clip.boxes[5]
    assert visible_spans(clip, 0) == ((5, 29), (45, 59))
    clip.boxes[:] = np.nan
    assert visible_spans(clip, 0) == ()


def collision(frame: int, other: int) -> SimulatedEvent:
    return SimulatedEvent(EventKind.COLLIDES, 0, other, (frame, frame + 4))


def test_a_text_that_names_what_is_hit_has_the_spans_of_that_collision_only() -> None:
    green = item("green", "cylinder")
    clip = video(collision(2, 1), collision(12, 2), objects=(RED, BLUE, green))
    for query in (q for qs in drawn(clip) for q in qs if q.task is Task.STVG and q.spans):
        named = [thing for thing in (BLUE, green) if thing.name in query.text]
        assert len(named) == 1, query.text
        assert query.spans == (((2, 6),) if named == [BLUE] else ((12, 16),))


def test_a_subject_is_distinguished_from_what_it_hits() -> None:
    clip = video(collision(2, 1), objects=(RED, OTHER))
    texts = {q.text for qs in drawn(clip) for q in qs if q.task is Task.STVG and q.spans}
    assert texts
    for text in texts:
        assert {"small", "little"} & set(text.split()), text


def test_events_that_one_text_describes_are_one_query() -> None:
    clip = video(
        *(SimulatedEvent(PUSHED, 0, None, (f, f + 5)) for f in (2, 12, 22)), objects=(RED,)
    )
    for queries in drawn(clip, 9):
        assert sum(q.task is Task.STVG and bool(q.spans) for q in queries) == 1
