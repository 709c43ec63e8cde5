"""One answer against its truth, in the window's time tokens: the values that metrics average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llava_st_ros.evaluation import metrics
from llava_st_ros.evaluation.metrics import Tube
from llava_st_ros.records import Answer, Task
from llava_st_ros.text.answer_format import NO_MATCH_TASKS

Values = Mapping[str, float]


def score(answer: Answer, truth: Answer, attributes: Sequence[str] = ()) -> dict[str, float]:
    """The per-case values of the truth's subject (see ``subject``), each in [0, 1].

    STVG: tIoU, vIoU, sIoU. SVG: sIoU over every frame asked about. TVG: tIoU. REC: IoU. ELC: tIoU,
    vIoU, and of the words in ``attributes``, which a right caption holds, the share that it holds
    and whether it holds all. What an answer lacks counts 0; ``parsed`` is 1 where nothing was
    lacking or malformed, ``answered`` where it did not say that nothing matches. Where nothing
    does: ``refused``. Frames of the true span in which the object can't be seen have no truth and
    are left out.
    """
    if truth.no_match:
        return {"refused": float(answer.no_match)}
    values = {"parsed": float(_parsed(answer, truth.task))}
    if truth.task in NO_MATCH_TASKS:
        values["answered"] = float(not answer.no_match)
    if truth.task is Task.ELC:
        values |= _score_caption(answer, attributes)
    return values | _SCORES[truth.task](answer, truth)


def subject(truth: Answer) -> str:
    """What a case is an example of: its task, or NO_MATCH."""
    return NO_MATCH if truth.no_match else truth.task.value


def answer_tube(answer: Answer, *, without: frozenset[int] = frozenset()) -> Tube[int | None]:
    """The answer's tube: the frames of its span (of its boxes where it has none), with boxes."""
    boxes = dict(answer.boxes)
    frames: Iterable[int | None] = boxes
    if answer.span is not None:
        frames = range(answer.span[0], answer.span[1] + 1)
    return {frame: boxes.get(frame) for frame in frames if frame not in without}


def _parsed(answer: Answer, task: Task) -> bool:
    if answer.no_match:
        return not answer.problems
    spanned = task in (Task.STVG, Task.TVG, Task.ELC) and answer.span is None
    boxed = task is not Task.TVG and not answer.boxes
    return not (answer.problems or spanned or boxed)


def _unseen(truth: Answer) -> frozenset[int]:
    if truth.span is None:
        return frozenset()
    return frozenset(range(truth.span[0], truth.span[1] + 1)) - dict(truth.boxes).keys()


def _span_iou(answer: Answer, truth: Answer) -> float:
    if answer.span is None or truth.span is None:
        return 0.0
    return metrics.span_iou(metrics.frame_span(*answer.span), metrics.frame_span(*truth.span))


def _score_stvg(answer: Answer, truth: Answer) -> dict[str, float]:
    predicted = answer_tube(answer, without=_unseen(truth))
    actual: Tube[int | None] = dict(truth.boxes)
    return {
        "tIoU": _span_iou(answer, truth),
        "vIoU": metrics.viou(predicted, actual),
        "sIoU": metrics.siou(predicted, actual),
    }


def _score_elc(answer: Answer, truth: Answer) -> dict[str, float]:
    predicted = answer_tube(answer, without=_unseen(truth))
    actual: Tube[int | None] = dict(truth.boxes)
    return {"tIoU": _span_iou(answer, truth), "vIoU": metrics.viou(predicted, actual)}


def _score_caption(answer: Answer, attributes: Sequence[str]) -> dict[str, float]:
    said = f" {answer.caption or ''} "
    held = [f" {words} " in said for words in attributes]
    return {
        "attributes": metrics.mean([float(h) for h in held]) if held else 0.0,
        "caption": float(bool(held) and all(held)),
    }


def _score_svg(answer: Answer, truth: Answer) -> dict[str, float]:
    boxes = dict(answer.boxes)
    asked: Tube[int | None] = {frame: boxes.get(frame) for frame, _ in truth.boxes}
    actual: Tube[int | None] = dict(truth.boxes)
    return {"sIoU": metrics.siou(asked, actual)}


def _score_tvg(answer: Answer, truth: Answer) -> dict[str, float]:
    return {"tIoU": _span_iou(answer, truth)}


def _score_rec(answer: Answer, truth: Answer) -> dict[str, float]:
    if not answer.boxes:
        return {"IoU": 0.0}
    return {"IoU": answer.boxes[0][1].iou(truth.boxes[0][1])}


_SCORES: Mapping[Task, Callable[[Answer, Answer], dict[str, float]]] = {
    Task.STVG: _score_stvg,
    Task.SVG: _score_svg,
    Task.TVG: _score_tvg,
    Task.REC: _score_rec,
    Task.ELC: _score_elc,
}
NO_MATCH = "no_match"  # questions that nothing answers, of every task that may say so
SUBJECTS = (*(task.value for task in _SCORES), NO_MATCH)


@dataclass(frozen=True)
class Metric:
    """A published figure: the mean over cases of ``value(per-case value named key)``."""

    name: str
    key: str
    value: Callable[[float], float] = float


def _above(threshold: float) -> Callable[[float], float]:
    return lambda value: metrics.share_above([value], threshold)


def _reaching(threshold: float) -> Callable[[float], float]:
    return lambda value: metrics.share_reaching([value], threshold)


METRICS: Mapping[str, Sequence[Metric]] = {
    "STVG": (
        Metric("m_tIoU", "tIoU"),
        Metric("m_vIoU", "vIoU"),
        Metric("m_sIoU", "sIoU"),
        Metric("vIoU@0.3", "vIoU", _above(0.3)),
        Metric("vIoU@0.5", "vIoU", _above(0.5)),
        Metric("answered", "answered"),
        Metric("parsed", "parsed"),
    ),
    "SVG": (
        Metric("m_sIoU", "sIoU"),
        Metric("sIoU@0.3", "sIoU", _reaching(0.3)),
        Metric("sIoU@0.5", "sIoU", _reaching(0.5)),
        Metric("answered", "answered"),
        Metric("parsed", "parsed"),
    ),
    "TVG": (
        Metric("mIoU", "tIoU"),
        Metric("R1@0.3", "tIoU", _above(0.3)),
        Metric("R1@0.5", "tIoU", _above(0.5)),
        Metric("R1@0.7", "tIoU", _above(0.7)),
        Metric("answered", "answered"),
        Metric("parsed", "parsed"),
    ),
    "REC": (
        Metric("Acc@0.5", "IoU", _reaching(0.5)),
        Metric("mIoU", "IoU"),
        Metric("answered", "answered"),
        Metric("parsed", "parsed"),
    ),
    "ELC": (
        Metric("m_tIoU", "tIoU"),
        Metric("m_vIoU", "vIoU"),
        Metric("attributes", "attributes"),
        Metric("caption", "caption"),
        Metric("parsed", "parsed"),
    ),
    NO_MATCH: (Metric("refused", "refused"),),
}
