"""Which answers of a calibration's data are right: each worked out by hand, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from llava_st_ros.annotations.records import AnnotatedObject, AnnotatedQuery
from llava_st_ros.backends import load_backend
from llava_st_ros.calibration import log_odds
from llava_st_ros.evaluation import match_samples
from llava_st_ros.evaluation.match_samples import (
    CLIPS,
    STREAMS,
    clip_samples,
    judge_answer,
    make_sample,
)
from llava_st_ros.evaluation.remembered_answers import NEVER
from llava_st_ros.evaluation.simulated import ClipQuestion, ClipQuestions
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.records import Answer, Box, BoxTube, Grounding, Modality, Query, Span, Task

SLOTS = (10, 11, 12, 13, 14)
A, HALF = Box(0.0, 0.0, 0.4, 0.4), Box(0.0, 0.0, 0.2, 0.4)  # IoU 1/2
FAR = Box(0.6, 0.6, 1.0, 1.0)


def truth(span: tuple[int, int] | None, task: Task, boxes: Mapping[int, Box]) -> QueryTruth:
    spans = () if span is None else (Span(*span),)
    query = AnnotatedQuery("q", "the ball rolls", task, "", spans)
    return QueryTruth(query, (AnnotatedObject("ball", "ball", "", boxes),))


def answer(
    task: Task,
    boxes: Mapping[int, Box],
    window: Sequence[int] = SLOTS,
    match: float = 0.75,
    confidence: float = 0.6,
    parsed: Answer | None = None,
) -> Grounding:
    tube = BoxTube(tuple(boxes), tuple(boxes.values()))
    span = Span(tube.stamps[0], tube.stamps[-1]) if boxes and task is not Task.REC else None
    query = Query("q", "the ball rolls", task)
    parsed = parsed or Answer(task)
    return Grounding(
        query, parsed, tuple(window), span, tube, confidence, "", "", 8, 8, match_probability=match
    )


@pytest.mark.parametrize(
    ("span", "boxes", "judged"),
    [
        ((11, 13), {11: A, 12: A, 13: A}, (True, 1.0)),
        ((11, 13), {12: HALF, 13: HALF, 14: A}, (True, 0.25)),
        ((5, 11), {10: A, 11: A}, (True, 1.0)),  # the part in the window
        ((11, 13), {}, (True, 0.0)),
        ((5, 10), {10: A}, None),  # one slot
        ((20, 25), {10: A}, (False, 0.0)),
        (None, {10: A}, (False, 0.0)),
    ],
)
def test_an_answer_about_a_window_is_compared_with_the_event(span, boxes, judged) -> None:
    of = truth(span, Task.STVG, dict.fromkeys(range(30), A))
    assert judge_answer(of, answer(Task.STVG, boxes)) == judged


@pytest.mark.parametrize(
    ("stamp", "box", "judged"),
    [
        (10, A, (True, 1.0)),
        (10, HALF, (True, pytest.approx(0.5))),
        (10, FAR, (True, 0.0)),
        (10, None, (True, 0.0)),
        (12, A, None),  # hidden
        (14, A, (False, 0.0)),
    ],
)
def test_an_answer_about_a_frame_is_compared_with_its_box(stamp, box, judged) -> None:
    of = truth((10, 13), Task.REC, {10: A, 11: A, 13: A, 14: A})
    boxes = {} if box is None else {stamp: box}
    assert judge_answer(of, answer(Task.REC, boxes, window=(stamp,))) == judged


def test_an_answer_is_right_if_something_matches_and_it_overlaps_that_by_half() -> None:
    found = answer(Task.STVG, {10: A})
    sample = make_sample(STREAMS, "s", found, True, 0.5)
    assert (sample.origin, sample.source, sample.modality) == (STREAMS, "s", Modality.VIDEO)
    assert sample.log_odds == log_odds(0.75) and sample.coordinates == pytest.approx(0.8)
    assert sample.matches and sample.is_right
    assert not make_sample(STREAMS, "s", found, True, 0.49).is_right
    assert not make_sample(STREAMS, "s", found, False, 1.0).is_right
    assert make_sample(STREAMS, "s", answer(Task.STVG, {}, match=0.0), True, 0.0).coordinates == 0


def test_answers_about_clips_are_compared_with_what_is_expected(
    random_checkpoint, monkeypatch
) -> None:
    def question(name: str, expected: Answer) -> ClipQuestion:
        return ClipQuestion(Query(name, "the ball rolls", Task.TVG), None, expected)

    def ask(window, query, frame, no_match_threshold):
        assert no_match_threshold == NEVER
        return answer(Task.TVG, {}, parsed=Answer(Task.TVG, span=(4, 7)))

    questions = (
        question("same", Answer(Task.TVG, span=(4, 7))),
        question("other", Answer(Task.TVG, span=(7, 9))),
        question("never", Answer(Task.TVG, no_match=True)),
    )
    clip = ClipQuestions(3, np.zeros((0, 8, 8, 3), np.uint8), questions)
    monkeypatch.setattr(match_samples, "simulated_questions", lambda *args, **kwargs: [clip])
    monkeypatch.setattr(match_samples.ClipWindow, "load", lambda window, frames: None)
    monkeypatch.setattr(match_samples.ClipWindow, "ask", ask)
    (samples,) = clip_samples(*load_backend(random_checkpoint), "test", range(3, 4))
    assert {(sample.origin, sample.source) for sample in samples} == {(CLIPS, "test clip 3")}
    found = [(sample.matches, sample.is_right) for sample in samples]
    assert found == [(True, True), (True, False), (False, False)]
