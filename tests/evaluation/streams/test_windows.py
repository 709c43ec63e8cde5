"""Figures of single windows, each worked out by hand.

The window has five slots, a second apart: 10 to 14 s.
"""

from __future__ import annotations

import doctest
from collections.abc import Mapping, Sequence

import pytest

from llava_st_ros.annotations.records import AnnotatedObject, AnnotatedQuery
from llava_st_ros.evaluation.streams import windows
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.evaluation.streams.windows import (
    WindowFigures,
    WindowKind,
    moves,
    window_kind,
    window_viou,
)
from llava_st_ros.records import Answer, Box, BoxTube, Grounding, Query, Span, Task

SLOTS = (10, 11, 12, 13, 14)
A, HALF = Box(0.0, 0.0, 0.4, 0.4), Box(0.0, 0.0, 0.2, 0.4)  # IoU 1/2
FAR = Box(0.6, 0.6, 1.0, 1.0)


def ball(boxes: Mapping[int, Box] = dict.fromkeys(range(30), A)) -> AnnotatedObject:
    return AnnotatedObject("ball", "ball", "", boxes)


def truth(*spans: tuple[int, int], task: Task = Task.STVG, item: AnnotatedObject | None = None):
    query = AnnotatedQuery("q", "the ball rolls", task, "", tuple(Span(*s) for s in spans))
    return QueryTruth(query, (item or ball(),) if spans else ())


def answer(
    boxes: Mapping[int, Box] | None,
    match: float = 0.5,
    *,
    task: Task = Task.STVG,
    window: Sequence[int] = SLOTS,
) -> Grounding:
    """Return an answer with these boxes; None: "no match"."""
    tube = BoxTube(tuple(boxes), tuple(boxes.values())) if boxes else BoxTube()
    span = Span(tube.stamps[0], tube.stamps[-1]) if boxes and task is Task.STVG else None
    return Grounding(
        Query("q", "the ball rolls", task),
        Answer(task, no_match=boxes is None),
        tuple(window),
        span,
        tube,
        0.5,
        "camera",
        "",
        100,
        50,
        match_probability=match,
    )


def figures(of: QueryTruth, *answers: Grounding, objects=()) -> WindowFigures:
    found = WindowFigures()
    for one in answers:
        found.add(one, of, objects or of.objects)
    return found


def test_docstring_examples() -> None:
    results = doctest.testmod(windows)
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    ("spans", "kind"),
    [
        ([(10, 14)], WindowKind.COMPLETE),
        ([(9, 14)], WindowKind.CUT),
        ([(11, 15)], WindowKind.CUT),
        ([(5, 20)], WindowKind.CUT),
        ([(5, 9), (15, 20)], WindowKind.WITHOUT),
        ([(5, 10)], None),  # one slot
        ([(14, 20)], None),
        ([(12, 12)], None),
        ([(5, 11), (13, 14)], WindowKind.COMPLETE),  # one of two is complete
        ([(5, 10), (13, 20)], WindowKind.CUT),
        ([], WindowKind.WITHOUT),
    ],
)
def test_a_window_is_classified_by_the_spans_seen_in_two_slots(spans, kind) -> None:
    assert window_kind([Span(*span) for span in spans], SLOTS) is kind


def test_slots_of_one_stamp_count_once() -> None:
    assert window_kind([Span(9, 10)], (10, 10, 10, 11)) is None


def test_windows_with_the_complete_event() -> None:
    of = truth((11, 13))
    found = figures(
        of,
        answer({11: A, 12: A, 13: A}, 0.9),
        answer({12: HALF, 13: HALF, 14: A}, 0.8),  # IoUs 1/2 and 1/2 over 4 frames
        answer(None, 0.25),
    )
    assert found.counts == {"missed_complete": (1, 3), "complete_viou": (1.25, 2)}
    assert found.samples == {"match_probability_complete": (0.9, 0.8, 0.25)}


def test_where_an_edge_cuts_the_event_its_visible_part_is_the_truth() -> None:
    of = truth((5, 11))
    found = figures(of, answer({10: A, 11: A}), answer({10: A, 11: A, 12: A, 13: A}), answer(None))
    assert found.counts == {"missed_cut": (1, 3), "cut_viou": (1.5, 2)}
    assert found.samples == {}


def test_windows_without_the_event() -> None:
    moving = ball({s: A if s < 12 else FAR for s in range(30)})
    still = answer({10: A}, 0.5), answer(None, 0.125)
    assert figures(truth((20, 25)), *still).counts == {"answered_without": (1, 2)}
    assert figures(truth((20, 25)), *still).samples == {"match_probability_without": (0.5, 0.125)}
    found = figures(truth(), *still, objects=[moving])
    assert found.counts == {"answered_without": (1, 2)}
    assert found.samples == {
        "match_probability_without": (0.5, 0.125),
        "match_probability_other": (0.5, 0.125),
    }


def test_a_glimpse_counts_for_nothing() -> None:
    found = figures(truth((5, 10)), answer({10: A}), answer(None))
    assert not found.counts and not found.samples


def test_a_followed_object_is_judged_at_the_frame() -> None:
    item = ball({10: A, 11: A, 13: A})
    of = truth((10, 13), task=Task.REC, item=item)
    at = [
        answer(boxes, task=Task.REC, window=(stamp,))
        for stamp, boxes in ((10, {10: A}), (11, None), (12, {12: A}), (14, {14: A}), (15, None))
    ]
    found = figures(of, *at)  # hidden at 12: not counted
    assert found.counts == {"missed_visible": (1, 2), "answered_invisible": (1, 2)}


def test_the_viou_is_that_of_the_span_that_the_answer_overlaps_best() -> None:
    of = truth((10, 10), (12, 13))
    assert window_viou(of, answer({12: A, 13: A})) == 1.0
    assert window_viou(of, answer({10: A, 11: A})) == 0.5
    hidden = truth((11, 13), item=ball({11: A, 13: A}))
    assert window_viou(hidden, answer({11: A, 12: FAR, 13: A})) == 1.0


def test_something_else_happens_where_an_object_moves_appears_or_disappears() -> None:
    assert not moves([ball()], SLOTS)
    assert not moves([ball({s: A if s < 12 else HALF for s in SLOTS})], SLOTS)  # IoU 1/2
    assert moves([ball(), ball({s: A if s < 14 else FAR for s in SLOTS})], SLOTS)
    assert moves([ball({10: A, 11: A})], SLOTS)
    assert moves([ball({14: A})], SLOTS)
    assert not moves([ball({})], SLOTS)
