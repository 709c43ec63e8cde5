"""Scores of answers by task, and evaluation on clips through the Grounder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.backends import load_backend
from llava_st_ros.evaluation.results import Case
from llava_st_ros.evaluation.scoring import METRICS, NO_MATCH, score, summarize
from llava_st_ros.evaluation.simulated import (
    BlindBackend,
    ClipQuestion,
    ClipQuestions,
    SimulatedEvaluation,
)
from llava_st_ros.records import Answer, Box, Query, Task

pytestmark = pytest.mark.renderer

A, HALF = Box(0.0, 0.0, 0.4, 0.4), Box(0.0, 0.0, 0.2, 0.4)


def answer(task: Task, span=None, boxes=(), problems=()) -> Answer:
    return Answer(task, span=span, boxes=tuple(boxes), problems=tuple(problems))


def tube(first: int, last: int, box: Box = A):
    return [(t, box) for t in range(first, last + 1)]


def test_stvg_scores_span_and_boxes() -> None:
    expected = answer(Task.STVG, (4, 7), tube(4, 7))
    perfect = {"parsed": 1.0, "false_no_match": 0.0, "tIoU": 1.0, "vIoU": 1.0, "sIoU": 1.0}
    assert score(expected, expected) == perfect
    shifted = score(answer(Task.STVG, (6, 9), tube(6, 9, HALF)), expected)
    assert shifted["tIoU"] == pytest.approx(2 / 6)
    assert shifted["sIoU"] == pytest.approx(0.5)
    assert shifted["vIoU"] == pytest.approx(2 * 0.5 / 6)
    # Boxes outside the answer's span are ignored; frames without a box count as 0.
    ragged = score(answer(Task.STVG, (4, 7), tube(4, 5) + tube(9, 12)), expected)
    assert ragged["vIoU"] == pytest.approx(2 / 4)


def test_frames_with_hidden_object_are_ignored() -> None:
    seen = [*tube(4, 5), *tube(7, 8)]
    expected = answer(Task.STVG, (4, 8), seen)
    assert score(answer(Task.STVG, (4, 8), tube(4, 8)), expected)["vIoU"] == 1.0


def test_svg_counts_every_expected_frame() -> None:
    expected = answer(Task.SVG, None, tube(4, 7))
    assert score(answer(Task.SVG, None, tube(4, 5)), expected)["sIoU"] == 0.5
    assert score(answer(Task.SVG, None, tube(0, 9)), expected)["sIoU"] == 1.0


def test_rec_scores_the_box_and_tvg_the_span() -> None:
    assert score(answer(Task.REC, None, [(None, HALF)]), answer(Task.REC, None, [(None, A)]))[
        "IoU"
    ] == pytest.approx(0.5)
    assert score(answer(Task.TVG, (0, 4)), answer(Task.TVG, (0, 9)))["tIoU"] == 0.5


def test_caption_is_scored_by_its_attributes() -> None:
    caption = "the red ball hits the blue box"
    expected = Answer(Task.ELC, span=(4, 7), boxes=tuple(tube(4, 7)), caption=caption)
    words = ("red", "ball", "hits the", "blue box")
    assert score(expected, expected, words) == {
        "parsed": 1.0,
        "tIoU": 1.0,
        "vIoU": 1.0,
        "attributes": 1.0,
        "caption": 1.0,
    }
    other = Answer(Task.ELC, span=(4, 5), boxes=tuple(tube(4, 5)), caption="the red balloon hits")
    scores = score(other, expected, words)
    assert (scores["attributes"], scores["caption"], scores["tIoU"]) == (0.25, 0.0, 0.5)


def test_no_match_is_correct_only_where_nothing_matches() -> None:
    no_match, grounded = Answer(Task.TVG, no_match=True), answer(Task.TVG, (0, 4))
    assert score(no_match, no_match) == {"accuracy": 1.0}
    assert score(grounded, no_match) == {"accuracy": 0.0}
    assert score(no_match, grounded) == {"parsed": 1.0, "false_no_match": 1.0, "tIoU": 0.0}
    assert score(grounded, grounded)["false_no_match"] == 0.0
    rows = summarize(cases(NO_MATCH, {"accuracy": 1.0}, {"accuracy": 0.0}))
    assert [(row.task, row.metric, row.value) for row in rows] == [("no_match", "accuracy", 0.5)]


@pytest.mark.parametrize("task", [Task.STVG, Task.SVG, Task.TVG, Task.REC, Task.ELC])
def test_unparsable_answer_counts_as_zero_in_the_mean(task: Task) -> None:
    boxes = [(None, A)] if task is Task.REC else tube(2, 5)
    expected = answer(task, (2, 5), boxes)
    if task is Task.ELC:
        expected = dataclasses.replace(expected, caption="the ball rolls")
    scores = score(answer(task, problems=["unreadable"]), expected, ["ball"])
    assert scores.pop("false_no_match", 0.0) == 0.0  # an unparsable answer is not "no match"
    assert set(scores.values()) == {0.0}
    name = task.value
    rows = summarize(
        cases(name, score(expected, expected, ["ball"]), scores), blind=cases(name, scores)
    )
    found = {(row.value, row.blind, row.cases) for row in rows if not row.lower_is_better}
    assert found == {(0.5, 0.0, 2)}


def test_report_applies_the_thresholds() -> None:
    values = (0.5, 0.49, 1.0, 0.0)
    scores = [{"parsed": 1.0, "false_no_match": 0.0, "IoU": v} for v in values]
    rows = {row.metric: row for row in summarize(cases("REC", *scores))}
    assert rows["Acc@0.5"].value == 0.5  # at or above
    assert rows["mIoU"].value == pytest.approx(0.4975)
    assert rows["Acc@0.5"].low < 0.5 < rows["Acc@0.5"].high
    assert rows["Acc@0.5"].blind is None
    assert list(rows) == [m.name for m in METRICS["REC"]]


def test_false_no_match_is_reported_by_task_and_overall() -> None:
    found = summarize(
        [
            *cases("REC", {"IoU": 1.0, "false_no_match": 0.0}, {"IoU": 0.0, "false_no_match": 1.0}),
            *cases("TVG", *([{"tIoU": 1.0, "false_no_match": 0.0}] * 2)),
            *cases(NO_MATCH, {"accuracy": 1.0}),
        ]
    )
    rows = {(row.task, row.metric): row for row in found}
    shares = {task: rows[task, 'false "no match"'] for task in ("REC", "TVG", "answerable")}
    assert {task: row.value for task, row in shares.items()} == {
        "REC": 0.5,
        "TVG": 0.0,
        "answerable": 0.25,
    }
    assert shares["answerable"].cases == 4 and shares["answerable"].lower_is_better


def cases(task: str, *values: dict[str, float]) -> list[Case]:
    return [Case(str(i), "clip", task, "it rolls", v) for i, v in enumerate(values)]


class ImageRecorder:
    """A backend that records the images it encodes."""

    def __init__(self, backend) -> None:
        self.backend, self.images = backend, []

    def encode_frame(self, image):
        self.images.append(image)
        return self.backend.encode_frame(image)

    def __getattr__(self, name: str):
        return getattr(self.backend, name)


@pytest.fixture(scope="module")
def loaded(random_checkpoint: Path):
    return load_backend(random_checkpoint)


def clip() -> ClipQuestions:
    frames = np.random.default_rng(0).integers(0, 256, (20, 144, 144, 3), np.uint8)
    queries = [
        (Query("a", "the ball", Task.REC), 7, answer(Task.REC, None, [(None, A)])),
        (Query("b", "it rolls", Task.STVG), None, answer(Task.STVG, (4, 7), tube(4, 7))),
        (Query("c", "it rolls", Task.TVG), None, answer(Task.TVG, (4, 7))),
        (
            Query("d", "the ball", Task.SVG, span=(4 / 19, 7 / 19)),
            None,
            answer(Task.SVG, None, tube(4, 7)),
        ),
    ]
    return ClipQuestions(0, frames, tuple(ClipQuestion(*query) for query in queries))


def test_each_question_sees_the_complete_clip_or_its_own_frame(loaded) -> None:
    backend, tokenizer = loaded
    recorder, one = ImageRecorder(backend), clip()
    evaluation = SimulatedEvaluation(recorder, tokenizer)
    evaluation.run(one)
    assert len(evaluation.answers) == 4
    np.testing.assert_array_equal(recorder.images[0], one.frames[7])  # REC comes first
    assert len(recorder.images) == 20  # each frame once, for all four questions
    assert {tuple(i[0, 0]) for i in recorder.images} == {tuple(f[0, 0]) for f in one.frames}
    assert [case.task for case in evaluation.cases] == ["REC", "STVG", "TVG", "SVG"]
    # The grammar makes even random weights give complete answers.
    assert all(case.values["parsed"] == 1.0 for case in evaluation.cases)
    evaluation.run(one)
    assert len(evaluation.answers) == 8
    assert evaluation.answers[:4] == evaluation.answers[4:]  # no state remains from the first clip


def test_blind_baseline_sees_only_black(loaded) -> None:
    backend, tokenizer = loaded
    recorder, one = ImageRecorder(backend), clip()
    blind = SimulatedEvaluation(BlindBackend(recorder), tokenizer)
    blind.run(one)
    assert len(recorder.images) == 1
    assert not recorder.images[0].any()
    dark = SimulatedEvaluation(backend, tokenizer)
    dark.run(ClipQuestions(0, np.zeros_like(one.frames), one.questions))
    assert [a for _, a in blind.answers] == [a for _, a in dark.answers]
    seeing = SimulatedEvaluation(backend, tokenizer)
    seeing.run(one)
    assert [a for _, a in blind.answers] != [a for _, a in seeing.answers]
