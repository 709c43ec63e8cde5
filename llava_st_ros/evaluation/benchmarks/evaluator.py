"""Asks a benchmark's queries about their media and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import LlavaStError, one_line
from llava_st_ros.evaluation.benchmarks.answers import answered_boxes, answered_span
from llava_st_ros.evaluation.benchmarks.frame_scores import score_sample
from llava_st_ros.evaluation.benchmarks.media import BenchmarkMedia, Clip
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkSample,
    MomentTruth,
    RegionTruth,
    VideoTruth,
)
from llava_st_ros.evaluation.clip_window import ClipWindow
from llava_st_ros.evaluation.results import Case, Timeline
from llava_st_ros.records import NANOSECONDS, Answer, Modality
from llava_st_ros.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class SampleOutcome:
    """A sample, evaluated or not.

    Attributes:
        case: Its case.
        notes: What is damaged or missing in its media, one line each.
        answered: Whether the model was asked and answered; if not, the case's only problem says
            why.
        seconds: The time of each stage.
    """

    case: Case
    notes: tuple[str, ...] = ()
    answered: bool = True
    seconds: Mapping[str, float] = field(default_factory=dict)


class SampleEvaluator:
    """Evaluates samples one by one; consecutive ones about the same clip share its frames.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        media: The media folder.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, media: Path) -> None:
        model = backend.describe().model
        self._media = BenchmarkMedia(media, model.num_frames, model.image_size)
        self._window = ClipWindow(backend, tokenizer)
        self._loaded: Clip | None = None

    def evaluate(self, sample: BenchmarkSample) -> SampleOutcome:
        """Evaluate one sample. An exception costs only its own answer."""
        started = time.perf_counter()
        try:
            clip = self._media.clip(sample)
        except LlavaStError as error:
            return self._unanswered(sample, None, str(error))
        read = time.perf_counter()
        try:
            if clip is not self._loaded:
                self._window.load(clip.images)
                self._loaded = clip
            answer = self._window.ask(sample.query).answer
        except Exception as error:  # of any kind: the other samples are independent of it
            return self._unanswered(sample, clip, f"the evaluation failed: {one_line(error)}")
        seconds = {"media": read - started, "answer": time.perf_counter() - read}
        problems = list(answer.problems)
        if answer.no_match:
            problems.append('answered "no match"')
        case = Case(
            id=sample.id,
            source=str(clip.path),
            task=sample.category,
            query=sample.query.text,
            values=score_sample(sample, answer, clip),
            expected=expected_timeline(sample, clip),
            predicted=predicted_timeline(answer, clip),
            problems=tuple(problems),
        )
        return SampleOutcome(case, clip.notes, True, seconds)

    def _unanswered(
        self, sample: BenchmarkSample, clip: Clip | None, problem: str
    ) -> SampleOutcome:
        case = Case(
            id=sample.id,
            source=str(clip.path if clip else self._media.index.folder / sample.media[0]),
            task=sample.category,
            query=sample.query.text,
            values=score_sample(sample, Answer(sample.query.task), clip),
            expected=expected_timeline(sample, clip) if clip else None,
            problems=(problem,),
        )
        return SampleOutcome(case, clip.notes if clip else (), answered=False)


def expected_timeline(sample: BenchmarkSample, clip: Clip) -> Timeline:
    """Return the ground truth in the stamps of the media."""
    truth = sample.truth
    if isinstance(truth, RegionTruth):
        return Timeline((), {0: truth.box})
    if isinstance(truth, MomentTruth):
        unit = clip.duration if truth.normalized else NANOSECONDS
        start, end = (clip.start + round(time * unit) for time in (truth.start, truth.end))
        return Timeline(((start, end),))
    assert isinstance(truth, VideoTruth)
    first, end = truth.span
    boxes = {clip.stamp(frame): box for frame, box in truth.boxes.items()}
    return Timeline(((clip.stamp(first), clip.stamp(end - 1)),), boxes)


def predicted_timeline(answer: Answer, clip: Clip) -> Timeline:
    """Return an answer in the stamps of the media."""
    if answer.task.modality is Modality.IMAGE:
        return Timeline((), dict.fromkeys((0,), answer.boxes[0][1]) if answer.boxes else {})
    span = answered_span(answer, clip.frames)
    boxes = answered_boxes(answer, clip.frames)
    return Timeline(
        () if span is None else ((clip.stamp(span[0]), clip.stamp(span[1] - 1)),),
        {clip.stamp(frame): box for frame, box in sorted(boxes.items())},
    )
