"""Asks a benchmark's queries about their media and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import LlavaStError, one_line
from llava_st_ros.evaluation.benchmarks.conversion import benchmark_sample, prediction
from llava_st_ros.evaluation.benchmarks.media import BenchmarkMedia, Clip
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkQuery,
    MomentTruth,
    RegionTruth,
    VideoTruth,
)
from llava_st_ros.evaluation.clip_window import ClipWindow
from llava_st_ros.evaluation.conventions.records import Convention, Prediction
from llava_st_ros.evaluation.results import Case, Timeline
from llava_st_ros.records import NANOSECONDS
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
        captions: The predicted caption and the expected one; None for tasks without.
    """

    case: Case
    notes: tuple[str, ...] = ()
    answered: bool = True
    seconds: Mapping[str, float] = field(default_factory=dict)
    captions: tuple[str, str] | None = None


class SampleEvaluator:
    """Evaluates samples one by one; consecutive ones about the same clip share its frames.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        media: The media folder.
        conventions: The scoring conventions.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        media: Path,
        conventions: Sequence[Convention],
    ) -> None:
        model = backend.describe().model
        self._media = BenchmarkMedia(media, model.num_frames, model.image_size)
        self._window = ClipWindow(backend, tokenizer)
        self._conventions = conventions
        self._loaded: Clip | None = None

    def evaluate(self, query: BenchmarkQuery) -> SampleOutcome:
        """Evaluate one sample. An exception costs only its own answer."""
        clip, predicted, no_match = None, Prediction(parsed=False), False
        problems: list[str] = []
        seconds: dict[str, float] = {}
        started = time.perf_counter()
        try:
            clip = self._media.clip(query)
            seconds["media"] = time.perf_counter() - started
            if clip is not self._loaded:
                self._window.load(clip.images)
                self._loaded = clip
            answer = self._window.ask(query.query).answer
            seconds["answer"] = time.perf_counter() - started - seconds["media"]
            predicted = prediction(query, answer, clip)
            problems += answer.problems
            no_match = answer.no_match
            if no_match:
                problems.append('answered "no match"')
        except LlavaStError as error:
            problems.append(str(error))
        except Exception as error:  # of any kind: the other samples are independent of it
            problems.append(f"the evaluation failed: {one_line(error)}")
        if clip is None:
            return unanswered(query, self._media.index.folder, self._conventions, *problems)
        case = Case(
            id=query.id,
            source=str(clip.path),
            task=query.category,
            query=query.query.text,
            values={
                **_values(query, clip, predicted, self._conventions),
                "answered": float("answer" in seconds and not no_match),
            },
            expected=expected_timeline(query, clip),
            predicted=predicted_timeline(predicted, clip),
            problems=tuple(problems),
        )
        notes = (*clip.notes, *_late_ends(query, clip))
        captions = _captions(query, predicted)
        return SampleOutcome(case, notes, "answer" in seconds, seconds, captions)


def unanswered(
    query: BenchmarkQuery, media: Path, conventions: Sequence[Convention], problem: str
) -> SampleOutcome:
    """Return the outcome of a sample whose media could not be read.

    Args:
        query: The sample.
        media: The media folder.
        conventions: The scoring conventions.
        problem: Why, in one line.
    """
    predicted = Prediction(parsed=False)
    case = Case(
        id=query.id,
        source=str(media / query.media[0]),
        task=query.category,
        query=query.query.text,
        values={**_values(query, None, predicted, conventions), "answered": 0.0},
        problems=(problem,),
    )
    return SampleOutcome(case, answered=False, captions=_captions(query, predicted))


def _values(
    query: BenchmarkQuery,
    clip: Clip | None,
    predicted: Prediction,
    conventions: Sequence[Convention],
) -> dict[str, float]:
    sample = benchmark_sample(query, clip)
    return {
        key: value
        for convention in conventions
        if convention.applies_to(sample)
        for key, value in convention.values(sample, predicted).items()
    }


def _captions(query: BenchmarkQuery, predicted: Prediction) -> tuple[str, str] | None:
    if not isinstance(query.truth, VideoTruth) or query.truth.caption is None:
        return None
    return predicted.caption, query.truth.caption


def _late_ends(query: BenchmarkQuery, clip: Clip) -> list[str]:
    """Note a moment in seconds that ends after the video by more than a frame."""
    truth = query.truth
    if not isinstance(truth, MomentTruth) or truth.normalized:
        return []
    duration = clip.duration / NANOSECONDS
    if truth.end <= duration + clip.interval / NANOSECONDS:
        return []
    return [
        f"{query.place}: the span ends at {truth.end:g} s, after {clip.path} ({duration:.2f} s); "
        "it is used as it is"
    ]


def expected_timeline(sample: BenchmarkQuery, clip: Clip) -> Timeline:
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


def predicted_timeline(predicted: Prediction, clip: Clip) -> Timeline:
    """Return a prediction in the stamps of the media."""
    span = predicted.span
    return Timeline(
        () if span is None else ((clip.stamp(span[0]), clip.stamp(span[1])),),
        {clip.stamp(frame): box for frame, box in sorted(predicted.boxes.items())},
    )
