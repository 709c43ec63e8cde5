"""Standing queries on any answers: irregular stamps, restarts of the stream, tasks of all kinds."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llava_st_ros.config import GrounderConfig
from llava_st_ros.query_runner import PreparedQuery
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    Candidate,
    EndReason,
    EventState,
    Grounding,
    Modality,
    Query,
    Span,
    Task,
    TrackState,
)
from llava_st_ros.streaming.frame_buffer import StreamState
from llava_st_ros.tracking.association import MAX_OBJECTS
from llava_st_ros.tracking.events import MAX_TUBE_BOXES
from llava_st_ros.tracking.standing import StandingQuery

SECOND = 1_000_000_000
FINAL = (EventState.ENDED, EventState.RETRACTED)
TASKS = (Task.STVG, Task.TVG, Task.REC, Task.SVG, Task.ELC)

unit = st.sampled_from((0.0, 0.1, 0.45, 0.5, 0.55, 0.9, 1.0))
boxes = st.tuples(unit, unit, unit, unit).map(
    lambda c: Box(min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@st.composite
def answers(draw: st.DrawFn, query: Query, newest: int) -> Grounding:
    count = 1 if query.task.modality is Modality.IMAGE else 6
    ages = draw(st.lists(st.integers(0, 12), min_size=count - 1, max_size=count - 1))
    window = tuple(sorted([newest, *(newest - age * SECOND // 2 for age in ages)]))
    first, last = sorted(draw(st.tuples(*[st.integers(0, count - 1)] * 2)))
    inside = sorted(set(window[first : last + 1]))
    has_boxes = query.task is not Task.TVG and draw(st.booleans())
    tube = BoxTube(tuple(inside), tuple(draw(boxes) for _ in inside)) if has_boxes else BoxTube()
    span = Span(inside[0], inside[-1]) if count > 1 and draw(st.booleans()) else None
    found = Grounding(
        query, Answer(query.task), window, span, tube, draw(unit), "c", "f", 64, 48,
        match_probability=draw(st.one_of(st.none(), unit)),
    )  # fmt: skip
    if draw(st.booleans()):
        return found
    return replace(
        found,
        answer=Answer(query.task, no_match=True),
        span=None,
        tube=BoxTube(),
        candidate=Candidate(span, tube, draw(unit)) if draw(st.booleans()) else None,
    )


def standing_query(query: Query, config: GrounderConfig) -> StandingQuery:
    return StandingQuery(
        PreparedQuery(query, None, None),  # type: ignore[arg-type]
        config,
        itertools.count(),
        itertools.count(),
    )


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(TASKS), st.sampled_from((0.5, 1.0, 30.0)))
def test_what_is_published_is_consistent_for_any_answers(data, task, period) -> None:
    query = Query("q", "the cup", task, period=period)
    config = GrounderConfig(
        confirmations=data.draw(st.integers(1, 3)),
        provisional_events=data.draw(st.booleans()),
        min_confidence=data.draw(st.sampled_from((0.0, 0.5))),
    )
    standing = standing_query(query, config)
    newest, generation = 100 * SECOND, 0
    states: dict[int, EventState] = {}
    of_stream: dict[int, int] = {}

    def publish(events) -> None:
        for event in events:
            assert states.get(event.event_id) not in FINAL
            states[event.event_id] = event.state
            assert of_stream.setdefault(event.event_id, generation) in (generation, generation - 1)

    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.integers(0, 9)) == 0:  # the clock jumps, anywhere
            publish(standing.enter_stream("c", generation + 1))
            generation += 1
            assert all(state in FINAL for state in states.values())
            assert standing.tracks("c", newest) == ()
            newest = data.draw(st.integers(20, 200)) * SECOND
        newest += data.draw(st.sampled_from((0, 1, SECOND // 3, SECOND, 5 * SECOND, 90 * SECOND)))
        answer = data.draw(answers(query, newest))
        publish(standing.update(answer, (generation, newest)))
        for track in standing.tracks("c", newest):
            assert 0 < len(track.tube) <= MAX_TUBE_BOXES
            assert track.stamp <= newest
            assert 0.0 <= track.confidence <= 1.0
            assert track.state in (TrackState.GROUNDED, TrackState.LOST)
        assert len(standing.tracks("c", newest)) <= MAX_OBJECTS
    publish(
        standing.finish("c") if data.draw(st.booleans()) else standing.end(EndReason.QUERY_REMOVED)
    )
    assert all(state in FINAL for state in states.values())
    assert standing.finish() == standing.end(EndReason.QUERY_REMOVED) == ()


def test_an_answer_about_a_stream_that_ended_while_the_model_ran_changes_nothing() -> None:
    query, newest = Query("q", "the cup", Task.REC), 100 * SECOND
    standing = standing_query(query, GrounderConfig())
    tube = BoxTube((newest,), (Box(0.1, 0.1, 0.5, 0.5),))
    answer = Grounding(query, Answer(Task.REC), (newest,), None, tube, 0.9, "c", "f", 64, 48)
    standing.update(answer, (0, newest))
    assert len(standing.tracks("c", newest)) == 1
    standing.follow_streams({"c": 1})
    assert standing.update(answer, (0, newest)) == ()
    assert standing.tracks("c", newest) == ()
    standing.update(answer, (1, newest))
    assert len(standing.tracks("c", newest)) == 1


def test_a_query_is_due_early_while_its_event_waits_for_a_confirmation() -> None:
    query = Query("q", "the cup falls", Task.STVG, period=2.0)
    standing = standing_query(query, GrounderConfig(confirmations=2))

    def due_after(answered: float) -> float:
        """Return the seconds from an evaluation until the next one is due."""
        times = (step / 10 for step in range(1, 31))
        return next(t for t in times if standing.is_due("c", stream(answered + t)))

    def stream(seconds: float) -> StreamState:
        return StreamState(0, round(seconds * SECOND), round(seconds * SECOND), has_history=True)

    def answer(seconds: float, probability: float) -> list[EventState]:
        standing.mark_evaluated("c", stream(seconds))
        newest = round(seconds * SECOND)
        window = tuple(newest - age * SECOND for age in range(5, -1, -1))
        found = Grounding(
            query, Answer(query.task), window, Span(window[2], window[4]), BoxTube(), 0.9, "c", "f",
            64, 48, match_probability=probability,
        )  # fmt: skip
        return [event.state for event in standing.update(found, (0, newest))]

    standing.enter_stream("c", 0)
    assert answer(10.0, 0.05) == []
    assert due_after(10.0) == 2.0
    assert answer(12.0, 0.9) == [EventState.PROVISIONAL]
    assert due_after(12.0) == 1.0
    assert EventState.CONFIRMED in answer(13.0, 0.9)
    assert due_after(13.0) == 2.0
