"""The package's records: small frozen dataclasses with their units. Independent of ROS and torch.

Stamps are integer nanoseconds, as in ``builtin_interfaces/Time`` (sec * 10**9 + nanosec).
Boxes are x1, y1, x2, y2 in [0, 1] of the frame's width and height; pixels are used only at the
edges of the system (ROS topics, JSON files, overlays). A *time token* is an integer 0..F-1: the
index of a slot in the window of F frames that the model sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import FrameError, QueryError, shown
from llava_st_ros.noun_phrases import is_noun_phrase
from llava_st_ros.query_rules import (
    MAX_EXPIRY,
    MAX_PERIOD,
    MIN_EXPIRY,
    MIN_PERIOD,
    as_float,
    checked_cameras,
    checked_name,
    checked_seconds,
    checked_text,
)

if TYPE_CHECKING:
    import numpy as np

NANOSECONDS = 1_000_000_000  # per second
UNNAMED: Any = None  # instead of a Query's task: it is chosen by the text
MAX_DURATION = 2**62  # ns; 146 years, so that a stamp plus a duration fits into 64 bits


def to_nanoseconds(seconds: float) -> int:
    """Convert a duration in seconds to ns; one beyond MAX_DURATION is as good as endless.

    >>> to_nanoseconds(0.5), to_nanoseconds(1e300) == MAX_DURATION
    (500000000, True)
    """
    return round(min(seconds * NANOSECONDS, MAX_DURATION))


@dataclass(frozen=True, order=True)
class Box:
    """An axis-aligned box, x1 <= x2 and y1 <= y2, each in [0, 1] of the frame."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)

    def iou(self, other: Box) -> float:
        """Intersection over union in [0, 1]; 0 if both boxes are empty."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        intersection = max(0.0, width) * max(0.0, height)
        union = self.area + other.area - intersection
        return intersection / union if union > 0 else 0.0

    def clipped(self) -> Box:
        """The box with its corners clamped to the frame."""
        x1, y1, x2, y2 = (min(1.0, max(0.0, v)) for v in (self.x1, self.y1, self.x2, self.y2))
        return Box(x1, y1, x2, y2)

    def to_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return x_min, y_min, x_max, y_max in pixels of a width x height image."""
        return self.x1 * width, self.y1 * height, self.x2 * width, self.y2 * height

    @classmethod
    def from_pixels(
        cls, corners: tuple[float, float, float, float], width: int, height: int
    ) -> Box:
        """Make a box from x_min, y_min, x_max, y_max in pixels of a width x height image."""
        x_min, y_min, x_max, y_max = corners
        return cls(x_min / width, y_min / height, x_max / width, y_max / height)


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: RGB, uint8 [H, W, 3].
        stamp: Acquisition time in nanoseconds.
        camera: The camera's name, as in ``Query.cameras``.
        frame_id: The tf frame of the camera (REP 105).
        arrival: When the frame arrived or was recorded: nanoseconds on a clock that never jumps,
            with which ``stamp`` is compared. None if unknown: a stamp is then never too late.

    Raises:
        FrameError: The image has another shape or dtype.
    """

    image: np.ndarray
    stamp: int
    camera: str = "camera"
    frame_id: str = ""
    arrival: int | None = None

    def __post_init__(self) -> None:
        shape, dtype = getattr(self.image, "shape", None), getattr(self.image, "dtype", None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or str(dtype) != "uint8":
            raise FrameError(
                f"the image has shape {shape} and dtype {dtype}; expected RGB uint8 [H, W, 3]",
                "convert the image first",
            )

    @property
    def nbytes(self) -> int:
        """Size of the image in bytes."""
        return int(self.image.nbytes)

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])


@dataclass(frozen=True)
class FrameFeatures:
    """A frame encoded by the vision tower and the projector.

    The features precede LAPE, so they are independent of the frame's slot in a window.

    Attributes:
        features: The backend's own array, [N, D].
        stamp: As in ``Frame``.
        camera: As in ``Frame``.
        frame_id: As in ``Frame``.
        width: Width of the source image in pixels.
        height: Height of the source image in pixels.
    """

    features: Any
    stamp: int
    camera: str
    frame_id: str
    width: int
    height: int

    @property
    def nbytes(self) -> int:
        """Size of the features in bytes; 0 if the backend's array has no ``nbytes``."""
        return int(getattr(self.features, "nbytes", 0))


@dataclass(frozen=True)
class Span:
    """A time interval in nanoseconds, both ends included."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"a span from {self.start} to {self.end} ends before it starts")

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / NANOSECONDS


@dataclass(frozen=True)
class BoxTube:
    """The boxes of one object over time.

    Attributes:
        stamps: Nanoseconds, strictly increasing.
        boxes: One box per stamp.
    """

    stamps: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        if len(self.stamps) != len(self.boxes):
            raise ValueError(f"{len(self.stamps)} stamps but {len(self.boxes)} boxes in a tube")
        if any(b <= a for a, b in zip(self.stamps, self.stamps[1:])):
            raise ValueError("a tube's stamps must be strictly increasing")

    def __len__(self) -> int:
        return len(self.stamps)

    def as_dict(self) -> dict[int, Box]:
        return dict(zip(self.stamps, self.boxes))


class Modality(Enum):
    """The visual input of a task: one image, or a video (a window of frames)."""

    IMAGE = "image"
    VIDEO = "video"


class Task(str, Enum):
    """The tasks, named as in LLaVA-ST (section 3 and ST-Align)."""

    STVG = "STVG"  # text -> span and a box tube
    SVG = "SVG"  # text and span -> box tube
    ELC = "ELC"  # start and box -> end, caption, box tube
    TVG = "TVG"  # text -> span
    TR = "TR"  # span -> text
    REC = "REC"  # text -> box in an image
    REG = "REG"  # box in an image -> text
    DGC = "DGC"  # image -> caption with a box for each phrase
    DVC = "DVC"  # video -> spans with captions

    @property
    def modality(self) -> Modality:
        on_image = self in (Task.REC, Task.REG, Task.DGC)
        return Modality.IMAGE if on_image else Modality.VIDEO

    @property
    def uses_span(self) -> bool:
        """Whether a query's span is an input."""
        return self in (Task.SVG, Task.ELC, Task.TR)

    @property
    def uses_box(self) -> bool:
        """Whether a query's box is an input."""
        return self in (Task.ELC, Task.REG)

    @classmethod
    def parse(cls, name: str) -> Task:
        """Return the task of a name in any case. Raises QueryError if there is none."""
        return _parse_task(name.strip().upper(), name)


@dataclass(frozen=True)
class Query:
    """A question in words: a standing query or a one-shot query.

    The constructor checks types and ranges (``query_rules``) and converts numbers to floats.
    ``text.tasks.question_from_query`` checks that the inputs that the task needs are present.

    Attributes:
        id: Name of a standing query.
        text: What to look for or to answer, at most ``MAX_QUERY_CHARACTERS`` characters.
        task: How to answer it. If none is named: REC for an English noun phrase without a span or
            box ("the green ball"), otherwise STVG.
        cameras: Names of the cameras to evaluate it on; empty for all.
        period: Seconds between evaluations of a standing query, 0.01 to a day.
        expiry: Seconds after which a standing query is removed, 0.01 to 366 days; None for never.
        span: (start, end) as fractions of the window, 0 <= start <= end <= 1: an input of SVG
            and TR; ELC uses the start.
        box: An input of ELC and REG, inside the frame.
        task_chosen: Whether the task was chosen because none was named.

    Raises:
        QueryError: A value is outside its range or of the wrong type.
    """

    id: str
    text: str
    task: Task = UNNAMED
    cameras: tuple[str, ...] = ()
    period: float = 1.0
    expiry: float | None = None
    span: tuple[float, float] | None = None
    box: Box | None = None
    task_chosen: bool = field(init=False, default=False, compare=False)

    def __post_init__(self) -> None:
        name = f"of query {checked_name('the id', self.id)!r}"
        values: dict[str, Any] = {
            "text": checked_text(self.text),
            "cameras": checked_cameras(self.cameras),
            "period": checked_seconds(f"period {name}", self.period, MIN_PERIOD, MAX_PERIOD),
        }
        if self.expiry is not None:
            values["expiry"] = checked_seconds(
                f"expiry {name}", self.expiry, MIN_EXPIRY, MAX_EXPIRY
            )
        if self.span is not None:
            values["span"] = _checked_span(self.span)
        if self.box is not None:
            values["box"] = _checked_box(self.box)
        if self.task is UNNAMED:
            is_object = self.span is None and self.box is None and is_noun_phrase(self.text)
            values["task"] = Task.REC if is_object else Task.STVG
            values["task_chosen"] = True
        else:
            values["task"] = _parse_task(self.task, self.task)
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def note(self) -> str:
        """What the user should know about the query; empty if there is nothing to say."""
        if self.task_chosen and self.task is Task.REC:
            return (
                "no task named: a noun phrase is asked as REC (where is it now); name STVG to ask "
                "when something happens"
            )
        unused = [
            name
            for name, is_unused in (
                ("span", self.span is not None and not self.task.uses_span),
                ("box", self.box is not None and not self.task.uses_box),
            )
            if is_unused
        ]
        if unused:
            return f"task {self.task.value} does not use the {' and the '.join(unused)}"
        return ""


def _parse_task(value: str, original: str) -> Task:
    try:
        return Task(value)
    except ValueError:
        names = ", ".join(task.value for task in Task)
        raise QueryError(f"task {shown(original)} is unknown; expected one of {names}") from None


def _checked_span(span: tuple[float, float]) -> tuple[float, float]:
    is_list = isinstance(span, Iterable) and not isinstance(span, str)
    values = [as_float(value) for value in span] if is_list else []
    if len(values) != 2:
        raise QueryError(
            f"span {shown(span)} is not a pair of numbers",
            "give (start, end), fractions of the window",
        )
    start, end = values
    if start is None or end is None or not 0.0 <= start <= end <= 1.0:  # false for NaN, too
        shown_values = ", ".join(map(shown, span))
        raise QueryError(f"span is ({shown_values}); expected 0 <= start <= end <= 1 of the window")
    return start, end


def _checked_box(box: Box) -> Box:
    if not isinstance(box, Box):
        raise QueryError(f"box is {shown(box)}; expected a Box")
    corners = (box.x1, box.y1, box.x2, box.y2)
    x1, y1, x2, y2 = (math.nan if (v := as_float(value)) is None else v for value in corners)
    if not (0.0 <= x1 <= x2 <= 1.0 and 0.0 <= y1 <= y2 <= 1.0):  # false for NaN, too
        raise QueryError(
            f"box is ({', '.join(map(shown, corners))}); "
            "expected 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1 of the frame"
        )
    return Box(x1, y1, x2, y2)


@dataclass(frozen=True)
class Prompt:
    """The token ids of a complete prompt and the values of its coordinate placeholders.

    Attributes:
        token_ids: int64 [L], the positions of the visual block included.
        modality: The visual input that the prompt is for.
        temporal_inputs: Values in [0, 1] of the ``<TEMP-INPUT>`` tokens, in order.
        height_inputs: Values in [0, 1] of the ``<HEIGHT-INPUT>`` tokens, in order.
        width_inputs: Values in [0, 1] of the ``<WIDTH-INPUT>`` tokens, in order.
    """

    token_ids: np.ndarray
    modality: Modality
    temporal_inputs: tuple[float, ...] = ()
    height_inputs: tuple[float, ...] = ()
    width_inputs: tuple[float, ...] = ()

    @property
    def inputs(self) -> dict[Axis, tuple[float, ...]]:
        """The placeholder values by axis."""
        return dict(zip(Axis, (self.temporal_inputs, self.height_inputs, self.width_inputs)))


@dataclass(frozen=True)
class Answer:
    """The model's output in time tokens, as parsed by ``text.answers.parse``.

    Attributes:
        task: The task of the query.
        text: The decoded text, coordinate tokens spelled out.
        span: (first, last) time token, both included. ELC answers only the end; the start is then
            that of the first box.
        boxes: (time token, box) in increasing order; the token is None for an image.
        caption: The description, for tasks that have one.
        phrases: (phrase, box), DGC.
        segments: ((first, last) time token, caption), DVC.
        no_match: The model answered that nothing in the image or window matches the query.
        problems: What could not be parsed, one line each.
    """

    task: Task
    text: str = ""
    span: tuple[int, int] | None = None
    boxes: tuple[tuple[int | None, Box], ...] = ()
    caption: str | None = None
    phrases: tuple[tuple[str, Box], ...] = ()
    segments: tuple[tuple[tuple[int, int], str], ...] = ()
    no_match: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A time interval of the stream and its caption."""

    span: Span
    text: str


@dataclass(frozen=True)
class Candidate:
    """The most probable match in a window whose answer is "no match".

    Attributes:
        span: When it would be; None for image tasks.
        tube: Where it would be; empty if the task has no boxes.
        confidence: As that of a ``Grounding`` with this answer.
    """

    span: Span | None
    tube: BoxTube
    confidence: float


@dataclass(frozen=True)
class Grounding:
    """An answer mapped to the stream: time tokens are replaced by the stamps of their frames.

    Attributes:
        query: The query that was answered.
        answer: The parsed answer.
        window: Stamps in ns of the frames that the model saw.
        span: When it happens; None if the answer has no span and for image tasks.
        tube: Where it is; empty if the answer has no boxes.
        confidence: In [0, 1], see ``decoding.generate.Generation.confidence``.
        camera: As in ``Frame``.
        frame_id: As in ``Frame``.
        width: Width of the source image in pixels.
        height: Height of the source image in pixels.
        segments: The events of a DVC answer.
        token_ids: The answer as the model's token ids, without the end token.
        match_probability: Probability in [0, 1] that something in the window matches, whatever the
            answer is; None for a task or a way of decoding without the choice of "no match".
        candidate: The most probable match although the answer is "no match"; None if it was not
            decoded (``GrounderConfig.evidence_floor``), and for any other answer.
    """

    query: Query
    answer: Answer
    window: tuple[int, ...]
    span: Span | None
    tube: BoxTube
    confidence: float
    camera: str
    frame_id: str
    width: int
    height: int
    segments: tuple[Segment, ...] = ()
    token_ids: tuple[int, ...] = ()
    match_probability: float | None = None
    candidate: Candidate | None = None


class TrackState(Enum):
    """Where the current box of a track comes from."""

    GROUNDED = 0  # the latest answers
    PROPAGATED = 1  # an earlier answer, propagated to a newer frame
    LOST = 2  # the last known box; the latest answers do not confirm it


class EventState(Enum):
    """What is known about an event; the constants of ``GroundedEvent.msg``.

    An event is published first as PROVISIONAL or CONFIRMED and last as ENDED or RETRACTED.
    """

    PROVISIONAL = 0  # too few answers agree on it yet
    CONFIRMED = 1  # ``GrounderConfig.confirmations`` answers agree on it
    ENDED = 2  # it was confirmed and is over; the span is final
    RETRACTED = 3  # later answers contradict it, or it was never confirmed: it did not happen


class EndReason(Enum):
    """Why an event is ENDED or RETRACTED; the constants ``REASON_`` of ``GroundedEvent.msg``."""

    NONE = 0  # it is not
    ANSWERS = 1  # they have seen what comes after it, or contradict it
    CAMERA_SILENT = 2
    STREAM_ENDED = 3  # the clock of the camera jumped, or its footage is at its end
    QUERY_REMOVED = 4
    QUERY_REPLACED = 5
    QUERY_EXPIRED = 6
    DEACTIVATED = 7
    MODEL_HANGS = 8


@dataclass(frozen=True)
class Track:
    """One object found by one query.

    Attributes:
        query_id: Id of the query.
        track_id: Id of the track, unique over all queries.
        label: The query's text.
        tube: The track's boxes; the last one is the current box.
        state: Where the current box comes from.
        confidence: Of the last answer that contained the object; of a query with events: the
            mean probability of the event. It falls while the box is propagated.
        camera: As in ``Frame``.
        frame_id: As in ``Frame``.
        width: Width of the source image in pixels.
        height: Height of the source image in pixels.
        propagated_from: Stamp (ns) of the model's box from which the current box was propagated;
            None if the current box is the model's.
    """

    query_id: str
    track_id: int
    label: str
    tube: BoxTube
    state: TrackState
    confidence: float
    camera: str
    frame_id: str
    width: int
    height: int
    propagated_from: int | None = None

    @property
    def stamp(self) -> int:
        """Stamp of the current box in ns."""
        return self.tube.stamps[-1]

    @property
    def box(self) -> Box:
        """The current box."""
        return self.tube.boxes[-1]


@dataclass(frozen=True)
class Event:
    """An occurrence of what a query describes.

    Attributes:
        query_id: Id of the query.
        event_id: Id of the event, unique over all queries.
        text: The query's text.
        span: When it happens; for an event that has not ended up to the newest frame in which it
            is seen, for a RETRACTED one as last published.
        state: What is known about it.
        confidence: Mean probability of its moments by the answers that saw them, in [0, 1].
        camera: As in ``Frame``.
        frame_id: As in ``Frame``.
        reason: Why it is ENDED or RETRACTED.
    """

    query_id: str
    event_id: int
    text: str
    span: Span
    state: EventState
    confidence: float
    camera: str
    frame_id: str
    reason: EndReason = EndReason.NONE


@dataclass(frozen=True)
class QueryFailure:
    """A standing query whose latest evaluation on a camera raised an exception.

    Attributes:
        query_id: Id of the query.
        camera: As in ``Frame``.
        error: The exception in one line.
        count: Failures since the last answer.
        retry_at: When the query is evaluated again: the grounder's clock in ns.
        trace: The exception's traceback, for a debug log.
    """

    query_id: str
    camera: str
    error: str
    count: int
    retry_at: int
    trace: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class QueryPace:
    """How often a standing query is evaluated on a camera.

    Attributes:
        query_id: Id of the query.
        camera: As in ``Frame``.
        period: Seconds between evaluations, as asked.
        reached: Seconds between the latest evaluations, by the camera's stamps.
    """

    query_id: str
    camera: str
    period: float
    reached: float


@dataclass(frozen=True)
class Tick:
    """The result of one ``Grounder.tick``.

    Attributes:
        groundings: New answers.
        tracks: All active tracks.
        events: Events that have changed.
        failures: The evaluations that raised an exception instead of giving an answer.
    """

    groundings: tuple[Grounding, ...] = field(default=())
    tracks: tuple[Track, ...] = field(default=())
    events: tuple[Event, ...] = field(default=())
    failures: tuple[QueryFailure, ...] = field(default=())
