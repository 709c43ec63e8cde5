"""Events from evidence: confirmed, retracted, ended once, over answers of overlapping windows."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_st_ros.config import GrounderConfig
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    EndReason,
    Event,
    EventState,
    Grounding,
    Query,
    Span,
    Task,
)
from llava_st_ros.tracking.events import EventTracker, find_runs
from llava_st_ros.tracking.evidence import Evidence, Sighting, Slot, Vote

SECOND = 1_000_000_000
QUERY = Query("fall", "the cup falls")
PROVISIONAL, CONFIRMED = EventState.PROVISIONAL, EventState.CONFIRMED
ENDED, RETRACTED = EventState.ENDED, EventState.RETRACTED
CONFIG = GrounderConfig(evidence_on=0.6, evidence_off=0.4, confirmations=2, event_gap_seconds=1.0)
BOX = Box(0.1, 0.1, 0.2, 0.2)
FINAL = (ENDED, RETRACTED)


class Stream:
    """A query on a camera with ten frames in every window of 4.5 s, so two a second."""

    def __init__(self, config: GrounderConfig = CONFIG, period: float = 1.0) -> None:
        query = replace(QUERY, period=period)
        self.tracker = EventTracker(query, itertools.count(), config)
        self.evidence = Evidence(4.5)

    def answer(
        self, newest: float, span: tuple[float, float] | None = None, probability: float = 0.9
    ) -> list[tuple[int, EventState, float, float]]:
        """Add an answer, with boxes in the frames of its span; return what is published."""
        window = tuple(round((newest - 4.5 + i / 2) * SECOND) for i in range(10))
        found = Sighting(window, probability)
        if span is not None:
            a, b = (round(seconds * SECOND) for seconds in span)
            inside = tuple(stamp for stamp in window if a <= stamp <= b)
            found = Sighting(window, probability, Span(a, b), BoxTube(inside, (BOX,) * len(inside)))
        self.evidence.add(found)
        return summary(self.tracker.update(self.evidence, grounding(window)))

    def see(self, newest: float, start: float, end: float):
        """Add the answer of a perfect model to an event from start to end."""
        first, last = max(start, newest - 4.5), min(end, newest)
        return self.answer(newest, (first, last) if first <= last else None)


def grounding(window: tuple[int, ...]) -> Grounding:
    return Grounding(
        QUERY, Answer(Task.STVG), window, None, BoxTube(), 0.8, "front", "front_optical", 640, 480
    )


def summary(events: tuple[Event, ...]) -> list[tuple[int, EventState, float, float]]:
    return [(e.event_id, e.state, e.span.start / SECOND, e.span.end / SECOND) for e in events]


def test_an_event_is_provisional_confirmed_and_ends_once() -> None:
    s = Stream()
    assert s.see(7, 8, 11) == []
    assert s.see(9, 8, 11) == [(0, PROVISIONAL, 8, 9)]
    assert s.see(10, 8, 11) == [(0, CONFIRMED, 8, 10)]
    assert s.see(11, 8, 11) == [(0, CONFIRMED, 8, 11)]
    assert s.see(11.5, 8, 11) == []  # unchanged
    assert s.see(12.5, 8, 11) == []  # one answer has seen that it does not go on at 12.5 s
    assert s.see(13, 8, 11) == [(0, ENDED, 8, 11)]
    for newest in range(14, 30):
        assert s.see(newest, 8, 11) == []


def test_an_event_has_its_camera_query_and_mean_probability() -> None:
    s = Stream()
    s.answer(9, (8, 9), 0.9)
    s.answer(10, (8, 9.5), 0.7)
    (event,) = s.tracker.end(EndReason.QUERY_REMOVED)
    assert (event.query_id, event.text) == ("fall", "the cup falls")
    assert (event.camera, event.frame_id) == ("front", "front_optical")
    assert event.confidence == s.tracker.tubes[0].probability
    assert 0.7 < event.confidence < 0.9


def test_an_event_that_no_other_answer_confirms_is_retracted() -> None:
    s = Stream()
    assert s.answer(9, (8, 9)) == [(0, PROVISIONAL, 8, 9)]
    assert s.answer(10) == [(0, RETRACTED, 8, 9)]
    assert s.answer(11) == []


def test_a_confirmed_event_is_retracted_when_its_evidence_is_gone() -> None:
    s = Stream()
    s.answer(10, (9, 10))
    assert s.answer(10.5, (9, 10.5)) == [(0, CONFIRMED, 9, 10.5)]
    published = [event for tenth in range(106, 115) for event in s.answer(tenth / 10)]
    assert published[-1][:2] == (0, RETRACTED)
    assert s.tracker.tubes == ()


def test_a_single_answer_does_not_contradict_several() -> None:
    s = Stream()
    for newest in (9, 10, 11):
        s.see(newest, 7, 10)
    assert s.answer(11.5) == []


def test_without_provisional_events_only_confirmed_ones_are_published() -> None:
    s = Stream(replace(CONFIG, provisional_events=False))
    assert s.answer(9, (8, 9)) == []
    assert s.answer(10) == []  # never published, so not retracted
    assert s.answer(14, (12, 13)) == []
    assert s.answer(14.5, (12, 13)) == [(0, CONFIRMED, 12, 13)]
    assert s.answer(15, (12, 13)) == [(0, ENDED, 12, 13)]


def test_one_confirmation_is_enough_if_one_is_asked_for() -> None:
    s = Stream(replace(CONFIG, confirmations=1))
    assert s.answer(9, (8, 9)) == [(0, CONFIRMED, 8, 9)]


def test_one_answer_confirms_what_no_other_one_can_see() -> None:
    s = Stream(period=20.0)
    assert s.answer(9, (6, 7)) == [(0, CONFIRMED, 6, 7), (0, ENDED, 6, 7)]
    assert s.answer(29, (28, 29)) == [(1, CONFIRMED, 28, 29)]
    assert s.answer(49) == [(1, ENDED, 28, 29)]


def test_an_event_that_leaves_the_window_is_confirmed_if_all_answers_agree() -> None:
    """A query that is evaluated more rarely than asked."""
    s = Stream()
    assert s.answer(9, (7, 8)) == [(0, PROVISIONAL, 7, 8)]
    assert s.answer(13, (9, 9.5))[:2] == [(0, CONFIRMED, 7, 8), (0, ENDED, 7, 8)]


def test_an_improbable_match_neither_begins_nor_confirms_an_event() -> None:
    s = Stream()
    assert s.answer(9, (7, 8), 0.5) == []
    assert s.answer(9.5, (7, 8), 0.5) == []
    assert s.answer(10, (7, 8), 0.95) == [(0, PROVISIONAL, 7, 8)]  # the mean of three
    assert s.answer(10.5, (7, 8), 0.95) == [(0, CONFIRMED, 7, 8), (0, ENDED, 7, 8)]


def test_runs_reach_off_and_are_joined_over_gaps() -> None:
    slots = [
        Slot((Vote(9, i * SECOND, 1.0, probability, None),))
        for i, probability in enumerate((0.1, 0.5, 0.7, 0.5, 0.1, 0.5, 0.1, 0.1, 0.7))
    ]
    runs = find_runs(slots, 0.4, round(0.9 * SECOND))
    assert [(run.span.start // SECOND, run.span.end // SECOND) for run in runs] == [
        (1, 3),
        (5, 5),
        (8, 8),
    ]
    assert [run.peak.probability >= 0.6 for run in runs] == [True, False, True]
    (joined,) = find_runs(slots, 0.4, 4 * SECOND)
    assert len(joined.slots) == 8


def test_an_event_longer_than_the_window_keeps_its_start_and_its_boxes() -> None:
    s = Stream()
    published = [event for newest in range(8, 45) for event in s.see(newest, 7, 30)]
    assert {event[0] for event in published} == {0}
    assert {event[2] for event in published} == {7}
    assert published[-1] == (0, ENDED, 7, 30)


def test_the_tube_of_an_event_covers_all_of_it() -> None:
    s = Stream()
    for newest in range(8, 31):
        s.see(newest, 7, 30)
    (found,) = s.tracker.tubes
    assert found.tube.stamps == tuple(round(s * SECOND / 2) for s in range(14, 61))
    assert not found.is_final
    for newest in (31.5, 32):
        s.see(newest, 7, 30)
    assert s.tracker.tubes == (
        replace(found, is_final=True, probability=s.tracker.tubes[0].probability),
    )
    s.see(33, 7, 30)
    assert s.tracker.tubes == ()


def test_two_separate_events_have_two_ids() -> None:
    s = Stream()
    for newest in (9, 9.5, 10, 10.5, 11):
        s.see(newest, 8, 9)
    found = [event for newest in (12, 12.5, 13) for event in s.see(newest, 11.5, 13)]
    assert [event[:2] for event in found] == [(1, PROVISIONAL), (1, CONFIRMED), (1, CONFIRMED)]


def test_an_ended_event_that_goes_on_is_a_new_event_from_the_known_end() -> None:
    s = Stream(replace(CONFIG, confirmations=1))
    published = [e for newest in (9, 9.5, 10, 10.5) for e in s.see(newest, 8, 8.5)]
    assert published[-1] == (0, ENDED, 8, 8.5)
    found = [event for newest in (11, 11.5, 12, 12.5) for event in s.see(newest, 8, 20)]
    assert found[-1][:2] == (1, CONFIRMED)
    assert all(event[2] > 8.5 for event in found)


def test_an_ended_event_with_another_end_stays_ended() -> None:
    s = Stream(replace(CONFIG, confirmations=1))
    for newest in (9, 9.5, 10):
        s.see(newest, 7, 8)
    assert s.see(10.5, 7, 8) == []
    for newest in (11, 11.5, 12):
        assert s.see(newest, 7, 8.5) == []


def test_end_and_reset() -> None:
    s = Stream()
    assert s.tracker.end(EndReason.QUERY_REMOVED) == ()
    s.answer(9, (8, 9))
    assert summary(s.tracker.end(EndReason.QUERY_REMOVED)) == [(0, RETRACTED, 8, 9)]
    assert s.tracker.end(EndReason.QUERY_REMOVED) == ()
    s.answer(9.5, (8, 9.5))
    s.answer(10, (8, 10))
    assert summary(s.tracker.reset()) == [(1, ENDED, 8, 10)]
    s.evidence.clear()
    assert s.answer(10, (8, 10)) == [(2, PROVISIONAL, 8, 10)]  # in the new stream


def test_at_the_end_of_the_footage_what_all_answers_agree_on_is_confirmed() -> None:
    s = Stream()
    s.answer(9, (7, 8))  # the only answer, as in a short video
    assert summary(s.tracker.finish()) == [(0, CONFIRMED, 7, 8), (0, ENDED, 7, 8)]
    assert [tube.is_final for tube in s.tracker.tubes] == [True]

    s = Stream(replace(CONFIG, confirmations=3))
    s.answer(9, (7, 8), 0.95)
    s.answer(9.5, (7, 8), 0.35)  # the mean is above 0.6, but this one says no
    assert summary(s.tracker.finish()) == [(0, RETRACTED, 7, 8)]


def check_lifecycles(events: list[Event]) -> dict[int, list[Event]]:
    """Check the invariants of any sequence; return the events by id."""
    lives: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        life = lives[event.event_id]
        assert not life or life[-1].state not in FINAL, "nothing follows the end"
        if event.state is PROVISIONAL:
            assert not life or life[-1].state is PROVISIONAL, "a confirmed event stays confirmed"
        elif event.state is CONFIRMED:
            assert not life or life[-1].span != event.span or life[-1].state is PROVISIONAL
        elif event.state is ENDED:
            assert life[-1].state is CONFIRMED
            assert life[-1].span == event.span, "the end is that of the last publication"
        else:
            assert life, "nothing is retracted that was not published"
            assert life[-1].span == event.span
        life.append(event)
    ended = sorted(
        (life[-1].span for life in lives.values() if life[-1].state is ENDED),
        key=lambda span: span.start,
    )
    for before, after in itertools.pairwise(ended):
        assert before.end < after.start, "an ended event is not told twice"
    return lives


answers = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),  # seconds to the next answer
        st.one_of(st.none(), st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)),
        st.sampled_from((0.2, 0.5, 0.7, 1.0)),
    ),
    max_size=30,
)


@settings(max_examples=120, deadline=None)
@given(answers, st.sampled_from((0.1, 0.6, 1.0, 3.0)), st.integers(1, 3), st.booleans())
def test_events_are_consistent_for_any_answers(sequence, gap, confirmations, provisional) -> None:
    config = replace(
        CONFIG,
        event_gap_seconds=gap,
        confirmations=confirmations,
        provisional_events=provisional,
    )
    s, newest, events = Stream(config), 10.0, []
    for step, frames, probability in sequence:
        newest += step
        window = tuple(round((newest - 4.5 + i / 2) * SECOND) for i in range(10))
        span = frames and Span(window[frames[0]], window[frames[1]])
        tube = BoxTube((span.end,), (BOX,)) if span else BoxTube()
        s.evidence.add(Sighting(window, probability, span, tube))
        events += s.tracker.update(s.evidence, grounding(window))
        assert {t.event_id for t in s.tracker.tubes if not t.is_final} == {
            event_id
            for event_id, life in check_lifecycles(events).items()
            if life[-1].state is CONFIRMED
        }
    events += s.tracker.end(EndReason.QUERY_REMOVED)
    lives = check_lifecycles(events)
    assert all(life[-1].state in FINAL for life in lives.values())
    assert sorted(lives) == list(range(len(lives)))
    assert provisional or not any(e.state is PROVISIONAL for e in events)
    assert all(e.span.end <= newest * SECOND + 1 for e in events)


@settings(max_examples=80, deadline=None)
@given(
    st.floats(5.0, 15.0),
    st.floats(1.0, 10.0),
    st.lists(
        st.tuples(st.floats(0.2, 1.5), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)), max_size=30
    ),
)
@example(5.0, 1.0, [(0.375, -0.25, 0.0), (0.25, 0.25, 0.0), (1.0, 0.0, 0.0)])  # one is retracted
def test_one_event_is_one_event_in_spite_of_jitter(start, length, jitters) -> None:
    """Ends are off by up to 0.3 s, windows are 0.2 to 1.5 s apart.

    What was seen too early, at the edge of a window, may be retracted: but that is all.
    """
    s, newest, end = Stream(), 4.5, start + length
    states: dict[int, EventState] = {}
    for step, early, late in jitters:
        newest += step
        first, last = max(start + early, newest - 4.5), min(end + late, newest)
        published = s.answer(newest, (first, last) if first < last else None)
        states |= {event[0]: event[1] for event in published}
        assert sum(state is not RETRACTED for state in states.values()) <= 1
