"""What every scoring convention reads: a benchmark's sample, a prediction, and the interface.

Readers of benchmarks convert their files to one form: frames are numbered from 0, spans include
both ends, boxes are fractions of the image. A convention that numbers or counts frames in another
way (an exclusive end, frames numbered from 1) restores that from ``Dataset``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.metric_kinds import Metric
from llava_st_ros.records import Box, BoxTube, Task
from llava_st_ros.tracking.association import box_at

IMAGE = 0  # the frame id of an image


class Dataset(Enum):
    """Where a sample is from."""

    HC_STVG = "HC-STVG"  # v1 and v2; its files number frames from 1
    VIDSTG = "VidSTG"
    ST_ALIGN = "ST-Align"
    CHARADES_STA = "Charades-STA"
    REFCOCO = "RefCOCO"
    OTHER = "other"

    @property
    def first_frame_number(self) -> int:
        """The number of the first frame in the data set's files."""
        return 1 if self is Dataset.HC_STVG else 0


@dataclass(frozen=True)
class BenchmarkSample:
    """One annotated video or image of a benchmark.

    Attributes:
        id: Unique in the benchmark.
        dataset: Where it is from.
        task: What is asked.
        num_frames: Number of frames of the video file; 1 for an image.
        fps: Frames per second of the video (HC-STVG: ``img_num / 20``); 0 for an image.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        span: First and last annotated frame, numbered from 0, both included; None without a span.
        boxes: Annotated box by frame id (0-based), in [0, 1]; an image's frame id is IMAGE.
        segment: First and last frame of the part that the model is shown, both included (VidSTG:
            ``used_segment``; ST-Align: ``split``); None for the complete video.
        fractions: The annotated span as fractions of the segment, where the data set states it
            so (Charades-STA: seconds divided by the duration); None: computed from ``span``.

    Raises:
        DataError: A span, segment or box is empty, outside the video or not a number.
    """

    id: str
    dataset: Dataset
    task: Task
    num_frames: int
    fps: float
    width: int
    height: int
    span: tuple[int, int] | None = None
    boxes: Mapping[int, Box] = field(default_factory=dict)
    segment: tuple[int, int] | None = None
    fractions: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if min(self.num_frames, self.width, self.height) < 1:
            raise DataError(
                f"{self.id}: {self.num_frames} frames of {self.width} x {self.height} pixels; "
                "expected at least one of each"
            )
        if not (math.isfinite(self.fps) and self.fps >= 0):
            raise DataError(f"{self.id}: {self.fps} frames per second")
        for name, frames in (("span", self.span), ("segment", self.segment)):
            if frames is not None and not 0 <= frames[0] <= frames[1] < self.num_frames:
                raise DataError(
                    f"{self.id}: the {name} is frames {frames[0]} to {frames[1]} of "
                    f"{self.num_frames} (numbered from 0)"
                )
        if self.fractions is not None and not self.fractions[0] <= self.fractions[1]:
            raise DataError(f"{self.id}: the span is {self.fractions} of the video")
        for frame, box in self.boxes.items():
            if not 0 <= frame < self.num_frames:
                raise DataError(f"{self.id}: a box at frame {frame} of {self.num_frames}")
            if not is_finite(box) or box.x1 > box.x2 or box.y1 > box.y2:
                raise DataError(f"{self.id}: frame {frame} has the box {box}")

    @property
    def shown_segment(self) -> tuple[int, int]:
        """First and last frame of the part that the model is shown, both included."""
        return self.segment or (0, self.num_frames - 1)

    def span_fractions(self) -> tuple[float, float] | None:
        """Return the annotated span as fractions of the segment; None without a span.

        Frame f of a segment [a, b] is (f - a) / (b - a); in a segment of one frame it is 0.
        """
        if self.fractions is not None or self.span is None:
            return self.fractions
        return frame_fractions(self.span, self.shown_segment)


@dataclass(frozen=True)
class Prediction:
    """What a model answered about a sample. Without a span and boxes: no answer.

    Attributes:
        span: First and last frame, numbered from 0, both included; None without a span.
        boxes: Box by frame id (0-based), in [0, 1].
        shown: The frame ids that the model saw, in order; empty if they are not known.
        fractions: The span as the model wrote it, as fractions of the segment (time token k of F
            is k / (F - 1)); None: computed from ``span``.
        parsed: Whether nothing of the answer is missing or malformed.
        caption: The caption of an ELC answer.
    """

    span: tuple[int, int] | None = None
    boxes: Mapping[int, Box] = field(default_factory=dict)
    shown: tuple[int, ...] = ()
    fractions: tuple[float, float] | None = None
    parsed: bool = True
    caption: str = ""

    def span_fractions(self, segment: tuple[int, int]) -> tuple[float, float] | None:
        """Return the span as fractions of the segment (first and last frame).

        None without a span, or with a NaN or infinite one.
        """
        found = self.fractions
        if found is None and self.span is not None:
            found = frame_fractions(self.span, segment)
        return found if found is not None and all(map(math.isfinite, found)) else None

    def boxes_at(self, frames: Iterable[int]) -> dict[int, Box]:
        """Return the boxes at frames of the span, where there is one. Without a span all count.

        A model that sees every n-th frame answers no boxes between them. A frame between two frames
        that it saw one after the other gets the linear interpolation of their boxes, or the box of
        the one that has a box. A frame that it saw without answering a box has none.

        >>> left, right = Box(0, 0, 0.25, 1), Box(0.5, 0, 0.75, 1)
        >>> Prediction((0, 4), {0: left, 4: right}, shown=(0, 4)).boxes_at([2, 9])
        {2: Box(x1=0.25, y1=0.0, x2=0.5, y2=1.0)}
        >>> Prediction((0, 4), {0: left, 4: right}, shown=(0, 2, 4)).boxes_at([1, 2])
        {1: Box(x1=0, y1=0, x2=0.25, y2=1)}
        """
        known = sorted(set(self.shown) | self.boxes.keys())
        found = {}
        for frame in frames:
            if self.span is not None and not self.span[0] <= frame <= self.span[1]:
                continue
            box = self._box_at(frame, known)
            if box is not None:
                found[frame] = box
        return found

    def _box_at(self, frame: int, known: Sequence[int]) -> Box | None:
        after = bisect_left(known, frame)
        if known[after : after + 1] == [frame]:
            return self.boxes.get(frame)
        neighbours = known[max(0, after - 1) : after + 1]
        answered = tuple(frame for frame in neighbours if frame in self.boxes)
        if not answered:
            return None
        return box_at(BoxTube(answered, tuple(self.boxes[frame] for frame in answered)), frame)


class Convention(ABC):
    """One way to score predictions.

    Attributes:
        name: Its name in tables, as in ``Metric.convention``.
        differs: What sets it apart, one line: frames, ends, missing boxes, thresholds.
        metrics: The published figures, computed from the values of cases.
    """

    name: str
    differs: str
    metrics: Sequence[Metric]

    @abstractmethod
    def applies_to(self, sample: BenchmarkSample) -> bool:
        """Return whether the convention scores samples of this kind."""

    @abstractmethod
    def values(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        """Return the values of one sample, for ``results.Case.values``.

        Keys start with the convention's name (``key``), so that the values of several conventions
        can be stored in one case. A sample without a key is left out of the metric's mean.
        """

    def key(self, value: str) -> str:
        """Return the key of a value in ``Case.values``, e.g. "TubeDETR vIoU"."""
        return f"{self.name} {value}"


def frame_fractions(span: tuple[int, int], segment: tuple[int, int]) -> tuple[float, float]:
    """Return frames as fractions of a segment [a, b]: (f - a) / (b - a); 0 if a = b.

    >>> frame_fractions((10, 15), (10, 20))
    (0.0, 0.5)
    """
    length = max(segment[1] - segment[0], 1)
    return (span[0] - segment[0]) / length, (span[1] - segment[0]) / length


def is_finite(box: Box) -> bool:
    """Return whether all four corners are numbers.

    >>> is_finite(Box(0, 0, float("nan"), 1))
    False
    """
    return all(math.isfinite(value) for value in (box.x1, box.y1, box.x2, box.y2))


def box_iou(predicted: Box, expected: Box) -> float:
    """Return the IoU of two boxes; 0 for a predicted box with a NaN or infinite corner.

    >>> box_iou(Box(0, 0, float("nan"), 1), Box(0, 0, 1, 1))
    0.0
    """
    return predicted.iou(expected) if is_finite(predicted) else 0.0
