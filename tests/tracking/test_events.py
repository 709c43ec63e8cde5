"""Events begin once and end once over the answers of overlapping windows."""

from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from llava_st_ros.records import Answer, BoxTube, Event, EventState, Grounding, Query, Span, Task
from llava_st_ros.tracking.events import EventTracker

SECOND = 1_000_000_000
QUERY = Query("fall", "the cup falls")
BEGUN, ONGOING, ENDED = EventState.BEGUN, EventState.ONGOING, EventState.ENDED


def grounding(newest: float, span: tuple[float, float] | None) -> Grounding:
    window = tuple(round((newest - 6 + i * 6 / 19) * SECOND) for i in range(19))
    window += (round(newest * SECOND),)
    return Grounding(
        query=QUERY,
        answer=Answer(Task.STVG),
        window=window,
        span=span and Span(*(round(s * SECOND) for s in span)),
        tube=BoxTube(),
        confidence=0.8,
        camera="front",
        frame_id="front_optical",
        width=640,
        height=480,
    )


def tracker(gap: float = 1.0) -> EventTracker:
    return EventTracker(QUERY, itertools.count(), gap)


def summary(events: tuple[Event, ...]) -> list[tuple[int, EventState, float, float]]:
    return [(e.event_id, e.state, e.span.start / SECOND, e.span.end / SECOND) for e in events]


def seen(newest: float, start: float, end: float) -> Grounding:
    """The answer of a perfect model to an event from start to end, in the window up to newest."""
    first, last = max(start, newest - 6), min(end, newest)
    return grounding(newest, (first, last) if first <= last else None)


def test_an_event_begins_continues_and_ends():
    t = tracker()
    assert summary(t.update(seen(7, 8, 11))) == []
    assert summary(t.update(seen(9, 8, 11))) == [(0, BEGUN, 8, 9)]
    assert summary(t.update(seen(10, 8, 11))) == [(0, ONGOING, 8, 10)]
    assert summary(t.update(seen(11, 8, 11))) == [(0, ONGOING, 8, 11)]
    assert summary(t.update(seen(11.8, 8, 11))) == []  # within the gap, and unchanged
    assert summary(t.update(seen(12.5, 8, 11))) == [(0, ENDED, 8, 11)]
    for newest in range(13, 30):
        assert summary(t.update(seen(newest, 8, 11))) == []


def test_an_event_has_its_camera_and_query():
    (event,) = tracker().update(seen(9, 8, 11))
    assert (event.query_id, event.text) == ("fall", "the cup falls")
    assert (event.camera, event.frame_id, event.confidence) == ("front", "front_optical", 0.8)


def test_an_event_that_is_already_over_begins_and_ends_at_once():
    t = tracker()
    assert summary(t.update(seen(9, 5, 6))) == [(0, BEGUN, 5, 6), (0, ENDED, 5, 6)]
    assert summary(t.update(seen(10, 5, 6))) == []


def test_an_event_longer_than_the_window_keeps_its_start():
    t = tracker()
    for newest in range(8, 40):
        events = t.update(seen(newest, 7, 30))
        for event in events:
            assert (event.event_id, event.span.start) == (0, 7 * SECOND)
    assert t.update(seen(40, 7, 30)) == ()


def test_the_start_is_refined_while_it_is_in_the_window():
    t = tracker()
    t.update(grounding(9, (8.0, 9.0)))
    assert summary(t.update(grounding(10, (7.5, 10.0)))) == [(0, ONGOING, 7.5, 10)]


def test_an_answer_without_the_event_ends_it():
    t = tracker()
    t.update(seen(9, 8, 20))
    assert summary(t.update(grounding(10, None))) == [(0, ENDED, 8, 9)]
    assert summary(t.update(grounding(11, None))) == []


def test_two_separate_events():
    t = tracker()
    t.update(seen(9, 8, 9))
    t.update(seen(11, 8, 9))
    assert summary(t.update(grounding(13, (12, 13)))) == [(1, BEGUN, 12, 13)]
    # An answer with the first event again does not change it; the second one is missing.
    assert summary(t.update(grounding(13.5, (8, 9)))) == [(1, ENDED, 12, 13)]
    assert summary(t.update(grounding(14, (8, 9)))) == []


def test_a_new_event_ends_the_active_one_first():
    t = tracker()
    t.update(grounding(9, (4, 9)))
    assert summary(t.update(grounding(13, (12, 13)))) == [(0, ENDED, 4, 9), (1, BEGUN, 12, 13)]


def test_spans_closer_than_the_gap_are_one_event():
    t = tracker(gap=1.0)
    t.update(grounding(9, (8, 9)))
    assert summary(t.update(grounding(10.5, (9.9, 10.5)))) == [(0, ONGOING, 9.9, 10.5)]
    t = tracker(gap=0.5)
    t.update(grounding(9, (8, 9)))
    assert summary(t.update(grounding(10.5, (9.9, 10.5)))) == [
        (0, ENDED, 8, 9),
        (1, BEGUN, 9.9, 10.5),
    ]


def test_an_ended_event_that_continues_is_a_new_event_from_the_known_end():
    """An answer ended it too early; the rest must still be reported."""
    t = tracker()
    t.update(grounding(9, (8, 9)))
    assert summary(t.update(grounding(10.5, (8, 9.2)))) == [(0, ENDED, 8, 9.2)]
    assert summary(t.update(grounding(11.5, (8, 11.5)))) == [(1, BEGUN, 9.2, 11.5)]


def test_an_ended_event_with_other_ends_stays_ended():
    t = tracker()
    t.update(grounding(9, (5, 6)))
    for newest, span in ((9.5, (5.2, 6.5)), (10, (5.5, 7.3)), (10.5, (6.5, 8.2)), (11, (8.9, 9.5))):
        assert summary(t.update(grounding(newest, span))) == []


def test_end_and_reset():
    t = tracker()
    assert t.end() == ()
    t.update(seen(9, 8, 20))
    assert summary(t.end()) == [(0, ENDED, 8, 9)]
    assert t.end() == ()
    assert summary(t.update(seen(9.5, 8, 20))) == []  # the event that ended

    t.reset()
    assert summary(t.update(seen(9.5, 8, 20))) == [(1, BEGUN, 8, 9.5)]
    assert summary(t.reset()) == [(1, ENDED, 8, 9.5)]


def check_lifecycles(events: list[Event]) -> dict[int, list[Event]]:
    """Check the invariants of any sequence; return the events by id."""
    lifecycles: dict[int, list[Event]] = defaultdict(list)
    active: set[int] = set()
    for event in events:
        life = lifecycles[event.event_id]
        assert (event.state is BEGUN) == (not life), "begins exactly once, first"
        assert not life or life[-1].state is not ENDED, "no change after its end"
        life.append(event)
        (active.discard if event.state is ENDED else active.add)(event.event_id)
        assert len(active) <= 1, "at most one event is active"
    return lifecycles


answers = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),  # seconds to the next answer
        st.one_of(st.none(), st.tuples(st.integers(0, 19), st.integers(0, 19)).map(sorted)),
    ),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(answers, st.floats(0.1, 3.0))
def test_events_are_consistent_for_any_answers(sequence, gap):
    t, newest, events = tracker(gap), 10.0, []
    for step, tokens in sequence:
        newest += step
        window = grounding(newest, None).window
        span = tokens and (window[tokens[0]] / SECOND, window[tokens[1]] / SECOND)
        events.extend(t.update(grounding(newest, span)))
    events.extend(t.end())
    lifecycles = check_lifecycles(events)
    assert all(life[-1].state is ENDED for life in lifecycles.values())
    assert sorted(lifecycles) == list(range(len(lifecycles)))
    for life in lifecycles.values():
        for event in life:
            assert event.span.end <= newest * SECOND + 1


@settings(max_examples=300, deadline=None)
@given(
    st.floats(3.0, 15.0),
    st.floats(0.5, 10.0),
    st.lists(st.tuples(st.floats(0.2, 1.5), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))),
)
def test_one_event_is_reported_once_in_spite_of_jitter(start, length, answers):
    """Ends are off by up to 0.3 s, windows are 0.2 to 1.5 s apart, the gap is 1 s."""
    t, newest, events, end = tracker(1.0), 2.0, [], start + length
    for step, early, late in answers:
        newest += step
        if not start + 0.6 < newest < end + 5:
            events.extend(t.update(grounding(newest, None)))
            continue
        first, last = max(start + early, newest - 6), min(end + late, newest)
        events.extend(t.update(grounding(newest, (first, max(first, last)))))
    lifecycles = check_lifecycles(events)
    assert len(lifecycles) <= 1
