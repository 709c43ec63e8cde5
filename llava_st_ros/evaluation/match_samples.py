"""A model's answers to questions whose answers are known: the data of a calibration.

Each question is decoded as if "no match" were no choice, so that there is an answer to judge. The
probabilities are the model's own, without a calibration that it may have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.backends.base import Backend, BackendDescription
from llava_st_ros.backends.wrapped import WrappedBackend
from llava_st_ros.calibration import Calibration, log_odds
from llava_st_ros.config import GrounderConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag
from llava_st_ros.evaluation.clip_window import ClipWindow
from llava_st_ros.evaluation.remembered_answers import NEVER, Key, RememberingRunner
from llava_st_ros.evaluation.scoring import NO_MATCH, score
from llava_st_ros.evaluation.simulated import simulated_questions
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.evaluation.streams.windows import WindowKind, window_kind, window_viou
from llava_st_ros.records import Grounding, Modality, Task
from llava_st_ros.text.tokenizer import Tokenizer

CLIPS, STREAMS = "clips", "streams"
RIGHT_IOU = 0.5  # of a right answer
_OVERLAPS = {Task.STVG: "vIoU", Task.SVG: "sIoU", Task.TVG: "tIoU", Task.REC: "IoU"}


@dataclass(frozen=True)
class MatchSample:
    """One question and the model's answer.

    Attributes:
        origin: CLIPS or STREAMS.
        source: The clip or stream; samples of one are not independent.
        modality: Of its task.
        log_odds: Those of a match, by the model.
        coordinates: Mean probability of the answer's coordinates.
        matches: Whether something matches.
        is_right: Whether the answer has an IoU (vIoU, sIoU, tIoU) of at least RIGHT_IOU.
    """

    origin: str
    source: str
    modality: Modality
    log_odds: float
    coordinates: float
    matches: bool
    is_right: bool


class UncalibratedBackend(WrappedBackend):
    """A backend whose model has no calibration."""

    def describe(self) -> BackendDescription:
        description = self._backend.describe()
        model = replace(description.model, calibration=Calibration())
        return replace(description, model=model)


def clip_samples(
    backend: Backend, tokenizer: Tokenizer, split: str, clips: range
) -> Iterator[list[MatchSample]]:
    """Yield the samples of each clip of a simulated split: a question of every category.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        split: The split.
        clips: Indices of the clips.

    Raises:
        LlavaStError: As ``simulated_questions`` does.
    """
    backend = UncalibratedBackend(backend)
    window = ClipWindow(backend, tokenizer)
    categories = (*(task.value for task in _OVERLAPS), NO_MATCH)
    config = backend.describe().model
    for clip in simulated_questions(split, clips, config, categories=categories):
        window.load(clip.frames)
        samples = []
        for question in clip.questions:
            answer = window.ask(question.query, question.frame, NEVER)
            expected = question.expected
            overlap = 0.0
            if not expected.no_match:
                overlap = score(answer.answer, expected)[_OVERLAPS[expected.task]]
            source = f"{split} clip {clip.index}"
            samples.append(make_sample(CLIPS, source, answer, not expected.no_match, overlap))
        yield samples


def stream_samples(
    backend: Backend, tokenizer: Tokenizer, bag: Path, config: GrounderConfig, source: str
) -> list[MatchSample]:
    """Return the samples of a recorded stream: every window of every query.

    Windows that show an event too briefly to judge (``windows.MIN_SLOTS``), and frames in which a
    followed object is hidden, are left out.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        bag: The stream, an annotated bag with one camera.
        config: How its windows are made.
        source: Its name.

    Raises:
        DataError: As ``evaluate_bag`` does.
    """
    backend = UncalibratedBackend(backend)
    answers: dict[Key, Grounding] = {}
    runner = RememberingRunner(backend, tokenizer, config, answers)
    job = BagJob(source, bag, annotation_path(bag), config=config)
    evaluate_bag(job, backend, tokenizer, runner=runner)
    annotations = read_annotations(job.annotations)
    truths = {query.id: QueryTruth.of(query, annotations) for query in annotations.queries}
    samples = []
    for (query, _), answer in answers.items():
        judged = judge_answer(truths[query.id], answer)
        if judged is not None:
            samples.append(make_sample(STREAMS, source, answer, *judged))
    return samples


def judge_answer(truth: QueryTruth, answer: Grounding) -> tuple[bool, float] | None:
    """Return whether something in an answer's window matches, and how well the answer overlaps it.

    Args:
        truth: The query's ground truth.
        answer: An answer to it.

    Returns:
        None for a window or frame that ``stream_samples`` leaves out.
    """
    if answer.query.task.modality is Modality.IMAGE:
        stamp = answer.window[-1]
        boxes = truth.expected(stamp)
        if truth.is_active(stamp) and not boxes:
            return None
        found = answer.tube.boxes[:1]
        return bool(boxes), max((a.iou(b) for a in found for b in boxes.values()), default=0.0)
    kind = window_kind(truth.query.spans, answer.window)
    if kind is None:
        return None
    if kind is WindowKind.WITHOUT:
        return False, 0.0
    return True, window_viou(truth, answer)


def make_sample(
    origin: str, source: str, answer: Grounding, matches: bool, overlap: float
) -> MatchSample:
    """Return the sample of an answer; arguments as in MatchSample, and the answer's overlap."""
    match = answer.match_probability
    assert match is not None
    coordinates = answer.confidence / match if match > 0 else 0.0
    return MatchSample(
        origin,
        source,
        answer.query.task.modality,
        log_odds(match),
        min(1.0, coordinates),
        matches,
        matches and overlap >= RIGHT_IOU,
    )
