"""Evidence: votes of overlapping windows per slot; its order, bounds and monotonicity."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    Candidate,
    Grounding,
    Query,
    Span,
    Task,
)
from llava_st_ros.streaming.frame_buffer import frame_interval
from llava_st_ros.tracking.evidence import (
    EDGE_WEIGHT,
    MAX_VOTES,
    Evidence,
    Sighting,
    Slot,
    Vote,
    edge_weights,
    weighted_median,
)

SECOND = 1_000_000_000
STEP = frame_interval(6.0, 7)  # one slot a second
BOX, OTHER = Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.5, 0.9, 0.9)


def window(newest: float) -> tuple[int, ...]:
    return tuple(round((newest - 6 + i) * SECOND) for i in range(7))


def sighting(
    newest: float, probability: float = 0.9, span: tuple[float, float] | None = None, box: Box = BOX
) -> Sighting:
    stamps = window(newest)
    if span is None:
        return Sighting(stamps, probability)
    inside = tuple(s for s in stamps if span[0] * SECOND <= s <= span[1] * SECOND)
    tube = BoxTube(inside, (box,) * len(inside))
    return Sighting(stamps, probability, Span(*(round(s * SECOND) for s in span)), tube, 0.5)


def probabilities(evidence: Evidence) -> dict[float, float]:
    return {slot.stamp / SECOND: round(slot.probability, 6) for slot in evidence.slots}


def test_an_answer_gives_its_probability_to_the_slots_of_its_span() -> None:
    evidence = Evidence(6.0)
    evidence.add(sighting(16, 0.8, (12, 13)))
    assert probabilities(evidence) == {10: 0, 11: 0, 12: 0.8, 13: 0.8, 14: 0, 15: 0, 16: 0}
    assert [slot.box for slot in evidence.slots] == [None, None, BOX, BOX, None, None, None]
    assert evidence.window == (10 * SECOND, 16 * SECOND)


def test_votes_weigh_less_near_the_edges_of_their_windows() -> None:
    """At 16 s: the newest edge of one window (0.2), and 1 of 6 s inside the next."""
    evidence = Evidence(6.0)
    evidence.add(sighting(16, 0.9, (16, 16)))
    evidence.add(sighting(17))
    inner = EDGE_WEIGHT + (1 - EDGE_WEIGHT) * (1 / 6) / 0.3
    expected = EDGE_WEIGHT * 0.9 / (EDGE_WEIGHT + inner)
    assert probabilities(evidence)[16] == pytest.approx(expected, abs=1e-6)
    assert list(edge_weights(window(6)).values()) == pytest.approx(
        [0.2, inner, 1, 1, 1, inner, 0.2]
    )
    assert edge_weights((5, 5, 5)) == {5: 1.0}


def test_the_box_is_the_weighted_median_of_the_voters() -> None:
    evidence = Evidence(6.0)
    for newest, box in ((13, BOX), (14, BOX), (15, OTHER)):
        evidence.add(sighting(newest, 0.9, (12, 12), box))
    (slot,) = (slot for slot in evidence.slots if slot.stamp == 12 * SECOND)
    assert slot.box == BOX


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5)), min_size=1, max_size=9))
def test_the_weighted_median_is_that_of_repeated_values(pairs: list[tuple[float, int]]) -> None:
    repeated = [value for value, weight in pairs for _ in range(weight)]
    values, weights = zip(*pairs)
    assert weighted_median(values, weights) == statistics.median_low(repeated)


def test_the_frame_that_most_answers_saw_gives_the_stamp_and_the_box() -> None:
    """The newest frame of a window is not the one that later windows have in its slot."""
    votes = [Vote(16, 16, 0.2, 0.9, OTHER), Vote(17, 15, 0.8, 0.9, BOX)]
    assert (Slot(tuple(votes)).stamp, Slot(tuple(votes)).box) == (15, BOX)
    assert (Slot(tuple(votes[:1])).stamp, Slot(tuple(votes[:1])).box) == (16, OTHER)


def test_slots_are_forgotten_after_two_windows() -> None:
    evidence = Evidence(6.0)
    for newest in range(6, 60):
        evidence.add(sighting(newest))
    stamps = [slot.stamp / SECOND for slot in evidence.slots]
    assert stamps == list(range(59 - 12, 60))
    assert max(len(slot.votes) for slot in evidence.slots) == 7
    evidence.add(Sighting((900 * SECOND,) * 7, 0.9))  # after a pause only the new frame is left
    assert [slot.stamp for slot in evidence.slots] == [900 * SECOND]
    evidence.clear()
    assert (evidence.slots, evidence.window) == ((), None)


def test_the_votes_of_a_slot_are_bounded() -> None:
    evidence = Evidence(6.0)
    for i in range(2 * MAX_VOTES):
        evidence.add(Sighting((0, 10 * SECOND + i), 0.5, Span(0, 0)))
    (first, _) = evidence.slots
    assert len(first.votes) == MAX_VOTES
    assert first.votes[0].newest == 10 * SECOND + MAX_VOTES


def grounding(**values) -> Grounding:
    span, tube = Span(12 * SECOND, 13 * SECOND), BoxTube((12 * SECOND,), (BOX,))
    base = Grounding(
        Query("q", "it falls"), Answer(Task.STVG), window(16), span, tube, 0.7, "c", "f", 4, 4
    )
    return replace(base, **values)


def test_what_an_answer_says() -> None:
    answer = grounding(match_probability=0.9)
    span, tube = answer.span, answer.tube
    assert Sighting.of(answer) == Sighting(window(16), 0.9, span, tube, 0.7)
    assert Sighting.of(answer, min_confidence=0.8) == Sighting(window(16), 0.0)
    assert Sighting.of(grounding()).probability == 1.0  # no choice between match and no match
    nothing = grounding(
        answer=Answer(Task.STVG, no_match=True),
        span=None,
        tube=BoxTube(),
        match_probability=0.4,
        confidence=0.6,
    )
    assert Sighting.of(nothing) == Sighting(window(16), 0.0)
    candidate = replace(nothing, candidate=Candidate(span, tube, 0.3))
    assert Sighting.of(candidate) == Sighting(window(16), 0.4, span, tube, 0.3)
    assert Sighting.of(candidate, min_confidence=0.5) == Sighting(window(16), 0.0)


# Answers with irregular windows: (newest, offsets of the older frames, probability, span, box).
corners = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda c: Box(min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


BOXES = st.lists(corners, min_size=7, max_size=7)


@st.composite
def sightings(draw: st.DrawFn, newest: int | None = None) -> Sighting:
    end = draw(st.integers(0, 20 * SECOND)) if newest is None else newest
    ages = draw(st.lists(st.integers(0, 60).map(lambda tenth: tenth * SECOND // 10), max_size=6))
    stamps = tuple(sorted([end, *(end - age for age in ages)]))
    if not draw(st.booleans()):
        return Sighting(stamps, draw(st.floats(0, 1)))
    a, b = sorted(draw(st.tuples(*[st.integers(0, len(stamps) - 1)] * 2)))
    boxed = sorted(set(stamps[a : b + 1]))
    tube = BoxTube(tuple(boxed), tuple(draw(BOXES)[: len(boxed)]))
    return Sighting(stamps, draw(st.floats(0, 1)), Span(stamps[a], stamps[b]), tube, 0.5)


def test_votes_with_and_without_a_box_have_an_order() -> None:
    stamp = 9 * SECOND
    tube = BoxTube((stamp,), (Box(0.0, 0.0, 0.0, 0.0),))
    answers = [Sighting((stamp,), 0.0), Sighting((stamp,), 0.0, Span(stamp, stamp), tube, 0.5)]
    slots = []
    for ordered in (answers, answers[::-1]):
        evidence = Evidence(6.0)
        for answer in ordered:
            evidence.add(answer)
        slots.append(evidence.slots)
    assert slots[0] == slots[1]
    assert [vote.box is None for vote in slots[0][0].votes] == [True, False]


@settings(max_examples=60, deadline=None)
@given(st.lists(sightings(newest=9 * SECOND), min_size=1, max_size=4), st.randoms())
def test_the_order_of_equal_time_answers_does_not_matter(answers, random) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)
    one, two = Evidence(6.0), Evidence(6.0)
    for a, b in zip(answers, shuffled):
        one.add(a)
        two.add(b)
    assert one.window == two.window
    assert one.slots == two.slots


@settings(max_examples=60, deadline=None)
@given(st.lists(sightings(newest=9 * SECOND), min_size=1, max_size=4), st.data())
def test_evidence_is_monotone(answers, data) -> None:
    """A surer answer lowers no slot; means lie between the votes, boxes in their hull."""
    number = data.draw(st.integers(0, len(answers) - 1))
    more = data.draw(st.floats(answers[number].probability, 1))
    one, two = Evidence(6.0), Evidence(6.0)
    for i, answer in enumerate(answers):
        one.add(answer)
        two.add(replace(answer, probability=more) if i == number else answer)
    for before, after in zip(one.slots, two.slots, strict=True):
        assert before.stamp == after.stamp
        assert after.probability >= before.probability - 1e-12
        votes = [vote.probability for vote in after.votes]
        assert min(votes) - 1e-12 <= after.probability <= max(votes) + 1e-12
        if after.box is not None:
            boxes = np.array(
                [[v.box.x1, v.box.y1, v.box.x2, v.box.y2] for v in after.votes if v.box]
            )
            found = np.array([after.box.x1, after.box.y1, after.box.x2, after.box.y2])
            assert (boxes.min(axis=0) <= found).all() and (found <= boxes.max(axis=0)).all()
            assert after.box.x1 <= after.box.x2 and after.box.y1 <= after.box.y2
