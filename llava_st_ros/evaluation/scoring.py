"""Scores one answer against its ground truth, in the window's time tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from llava_st_ros.evaluation import metrics
from llava_st_ros.evaluation.metric_kinds import MeanMetric, Metric, above, reaching
from llava_st_ros.evaluation.metrics import Tube
from llava_st_ros.evaluation.results import Case, MetricRow, rows_of
from llava_st_ros.records import Answer, Task
from llava_st_ros.text.answer_format import NO_MATCH_TASKS

Values = Mapping[str, float]


def score(answer: Answer, expected: Answer, attributes: Sequence[str] = ()) -> dict[str, float]:
    """Return the values of one case, each in [0, 1], by name.

    ======== ==================================================================================
    category values
    ======== ==================================================================================
    STVG     tIoU, vIoU, sIoU
    SVG      sIoU over every frame with a ground-truth box
    TVG      tIoU
    REC      IoU
    ELC      tIoU, vIoU; ``attributes``, the share of the attributes in the caption; ``caption``,
             1 if it contains all of them
    no_match ``accuracy``, 1 if the answer is "no match" (alone)
    ======== ==================================================================================

    Every category but no_match also has ``parsed``, 1 if nothing of the answer is missing or
    malformed, and ``false_no_match``, 1 if it is "no match" (tasks with that option only). What an
    answer lacks counts as 0. Frames of the expected span in which the object is hidden have no box
    and are ignored.

    Args:
        answer: The model's answer.
        expected: The ground truth.
        attributes: Words that a correct ELC caption contains.
    """
    if expected.no_match:
        return {"accuracy": float(answer.no_match)}
    values = {"parsed": float(is_parsed(answer, expected.task))}
    if expected.task in NO_MATCH_TASKS:
        values["false_no_match"] = float(answer.no_match)
    if expected.task is Task.ELC:
        values |= _score_caption(answer, attributes)
    return values | _SCORES[expected.task](answer, expected)


def category(expected: Answer) -> str:
    """Return the category of a case with this ground truth: its task, or NO_MATCH."""
    return NO_MATCH if expected.no_match else expected.task.value


def answer_tube(answer: Answer, *, without: frozenset[int] = frozenset()) -> Tube[int | None]:
    """Return the answer's tube over the frames of its span, or of its boxes if it has no span."""
    boxes = dict(answer.boxes)
    frames: Iterable[int | None] = boxes
    if answer.span is not None:
        frames = range(answer.span[0], answer.span[1] + 1)
    return {frame: boxes.get(frame) for frame in frames if frame not in without}


def is_parsed(answer: Answer, task: Task) -> bool:
    """Return whether nothing of a task's answer is missing or malformed."""
    if answer.no_match:
        return not answer.problems
    lacks_span = task in (Task.STVG, Task.TVG, Task.ELC) and answer.span is None
    lacks_boxes = task is not Task.TVG and not answer.boxes
    return not (answer.problems or lacks_span or lacks_boxes)


def _hidden_frames(expected: Answer) -> frozenset[int]:
    if expected.span is None:
        return frozenset()
    return frozenset(range(expected.span[0], expected.span[1] + 1)) - dict(expected.boxes).keys()


def _span_iou(answer: Answer, expected: Answer) -> float:
    if answer.span is None or expected.span is None:
        return 0.0
    return metrics.span_iou(metrics.frame_span(*answer.span), metrics.frame_span(*expected.span))


def _score_stvg(answer: Answer, expected: Answer) -> dict[str, float]:
    predicted = answer_tube(answer, without=_hidden_frames(expected))
    boxes: Tube[int | None] = dict(expected.boxes)
    return {
        "tIoU": _span_iou(answer, expected),
        "vIoU": metrics.viou(predicted, boxes),
        "sIoU": metrics.siou(predicted, boxes),
    }


def _score_elc(answer: Answer, expected: Answer) -> dict[str, float]:
    predicted = answer_tube(answer, without=_hidden_frames(expected))
    boxes: Tube[int | None] = dict(expected.boxes)
    return {"tIoU": _span_iou(answer, expected), "vIoU": metrics.viou(predicted, boxes)}


def _score_caption(answer: Answer, attributes: Sequence[str]) -> dict[str, float]:
    caption = f" {answer.caption or ''} "
    found = [f" {words} " in caption for words in attributes]
    return {
        "attributes": metrics.mean([float(f) for f in found]),
        "caption": float(bool(found) and all(found)),
    }


def _score_svg(answer: Answer, expected: Answer) -> dict[str, float]:
    answered = dict(answer.boxes)
    predicted: Tube[int | None] = {frame: answered.get(frame) for frame, _ in expected.boxes}
    boxes: Tube[int | None] = dict(expected.boxes)
    return {"sIoU": metrics.siou(predicted, boxes)}


def _score_tvg(answer: Answer, expected: Answer) -> dict[str, float]:
    return {"tIoU": _span_iou(answer, expected)}


def _score_rec(answer: Answer, expected: Answer) -> dict[str, float]:
    if not answer.boxes:
        return {"IoU": 0.0}
    return {"IoU": answer.boxes[0][1].iou(expected.boxes[0][1])}


_SCORES: Mapping[Task, Callable[[Answer, Answer], dict[str, float]]] = {
    Task.STVG: _score_stvg,
    Task.SVG: _score_svg,
    Task.TVG: _score_tvg,
    Task.REC: _score_rec,
    Task.ELC: _score_elc,
}
NO_MATCH = "no_match"  # queries that match nothing, of every task in NO_MATCH_TASKS
ANSWERABLE = "answerable"  # the rows of all queries together that match something
CATEGORIES = (*(task.value for task in _SCORES), NO_MATCH)


FALSE_NO_MATCH = MeanMetric('false "no match"', "false_no_match", lower_is_better=True)
METRICS: Mapping[str, Sequence[Metric]] = {
    "STVG": (
        MeanMetric("m_tIoU", "tIoU"),
        MeanMetric("m_vIoU", "vIoU"),
        MeanMetric("m_sIoU", "sIoU"),
        MeanMetric("vIoU@0.3", "vIoU", transform=above(0.3)),
        MeanMetric("vIoU@0.5", "vIoU", transform=above(0.5)),
        FALSE_NO_MATCH,
        MeanMetric("parsed", "parsed"),
    ),
    "SVG": (
        MeanMetric("m_sIoU", "sIoU"),
        MeanMetric("sIoU@0.3", "sIoU", transform=reaching(0.3)),
        MeanMetric("sIoU@0.5", "sIoU", transform=reaching(0.5)),
        FALSE_NO_MATCH,
        MeanMetric("parsed", "parsed"),
    ),
    "TVG": (
        MeanMetric("mIoU", "tIoU"),
        MeanMetric("R1@0.3", "tIoU", transform=above(0.3)),
        MeanMetric("R1@0.5", "tIoU", transform=above(0.5)),
        MeanMetric("R1@0.7", "tIoU", transform=above(0.7)),
        FALSE_NO_MATCH,
        MeanMetric("parsed", "parsed"),
    ),
    "REC": (
        MeanMetric("Acc@0.5", "IoU", transform=reaching(0.5)),
        MeanMetric("mIoU", "IoU"),
        FALSE_NO_MATCH,
        MeanMetric("parsed", "parsed"),
    ),
    "ELC": (
        MeanMetric("m_tIoU", "tIoU"),
        MeanMetric("m_vIoU", "vIoU"),
        MeanMetric("attributes", "attributes"),
        MeanMetric("caption", "caption"),
        MeanMetric("parsed", "parsed"),
    ),
    NO_MATCH: (MeanMetric("accuracy", "accuracy"),),
}


def summarize(cases: Sequence[Case], blind: Sequence[Case] = ()) -> list[MetricRow]:
    """Return the rows of every category that has cases, as in METRICS, then those of ANSWERABLE.

    Args:
        cases: The cases, whose ``task`` is their category.
        blind: Those of the blind baseline.
    """
    rows = [
        row
        for task, metrics_of_task in METRICS.items()
        for row in rows_of(task, metrics_of_task, _of(task, cases), _of(task, blind))
    ]
    return rows + rows_of(ANSWERABLE, (FALSE_NO_MATCH,), cases, blind)


def _of(task: str, cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.task == task]
