"""The records that travel between the parts: small, frozen, with their units.

Stamps are integer nanoseconds, as in ``builtin_interfaces/Time`` (sec * 10**9 + nanosec).
Boxes are x1, y1, x2, y2 in [0, 1] of the frame's width and height; pixels exist only at the edges
of the system (ROS topics, overlays). A *time token* is an integer 0..T-1: the place of a frame in
the window that the model saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import FrameError

if TYPE_CHECKING:
    import numpy as np

NANOSECONDS = 1_000_000_000


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
        """Intersection over union in [0, 1]; 0 where both boxes are empty."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        intersection = max(0.0, width) * max(0.0, height)
        union = self.area + other.area - intersection
        return intersection / union if union > 0 else 0.0

    def clipped(self) -> Box:
        """The part of the box that lies inside the frame."""
        x1, y1, x2, y2 = (min(1.0, max(0.0, v)) for v in (self.x1, self.y1, self.x2, self.y2))
        return Box(x1, y1, x2, y2)

    def to_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max in pixels of a width x height image."""
        return self.x1 * width, self.y1 * height, self.x2 * width, self.y2 * height


@dataclass(frozen=True)
class Frame:
    """One camera image. ``image`` is RGB uint8 [H, W, 3]; ``stamp`` in nanoseconds."""

    image: np.ndarray
    stamp: int
    camera: str = "camera"
    frame_id: str = ""

    def __post_init__(self) -> None:
        shape, dtype = getattr(self.image, "shape", None), getattr(self.image, "dtype", None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or str(dtype) != "uint8":
            raise FrameError(
                f"an image of shape {shape} and dtype {dtype}; expected RGB uint8 [H, W, 3]",
                "convert it before making a Frame",
            )

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])


@dataclass(frozen=True)
class FrameFeatures:
    """A frame after the vision tower and projector, before LAPE, so that it serves any window.

    ``features`` is the backend's own array, [N, D]; ``width`` and ``height`` are the source
    image's, in pixels.
    """

    features: Any
    stamp: int
    camera: str
    frame_id: str
    width: int
    height: int


@dataclass(frozen=True)
class Span:
    """A stretch of time, nanoseconds, both ends included."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"a span from {self.start} to {self.end}: it ends before it starts")

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / NANOSECONDS


@dataclass(frozen=True)
class BoxTube:
    """One object's boxes over time: strictly rising stamps (ns), a box for each."""

    stamps: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        if len(self.stamps) != len(self.boxes):
            raise ValueError(f"{len(self.stamps)} stamps but {len(self.boxes)} boxes in a tube")
        if any(b <= a for a, b in zip(self.stamps, self.stamps[1:])):
            raise ValueError("a tube's stamps must rise strictly")

    def __len__(self) -> int:
        return len(self.stamps)

    def as_dict(self) -> dict[int, Box]:
        return dict(zip(self.stamps, self.boxes))


class Modality(Enum):
    """What a question is about: one image, or a video's window of frames."""

    IMAGE = "image"
    VIDEO = "video"


class Task(str, Enum):
    """What is asked, as named by LLaVA-ST (section 3 and ST-Align)."""

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


@dataclass(frozen=True)
class Query:
    """A question in words, standing or asked once.

    ``period`` and ``expiry`` are seconds: how often a standing query is asked again, and how long
    it lives after it was added (None: for ever). ``cameras`` empty means every camera. ``span`` is
    an input of the tasks SVG and TR, as fractions of the window in [0, 1] (for ELC its first value
    is the start); ``box`` is an input of ELC and REG.
    """

    id: str
    text: str
    task: Task = Task.STVG
    cameras: tuple[str, ...] = ()
    period: float = 1.0
    expiry: float | None = None
    span: tuple[float, float] | None = None
    box: Box | None = None


@dataclass(frozen=True)
class Prompt:
    """Token ids of a whole prompt and the coordinate values that go into its placeholders.

    ``token_ids`` is int64 [L] with the visual block laid out; the three tuples hold the values in
    [0, 1] for the ``<TEMP-INPUT>``, ``<HEIGHT-INPUT>`` and ``<WIDTH-INPUT>`` tokens, in order.
    """

    token_ids: np.ndarray
    modality: Modality
    temporal_inputs: tuple[float, ...] = ()
    height_inputs: tuple[float, ...] = ()
    width_inputs: tuple[float, ...] = ()

    @property
    def inputs(self) -> dict[Axis, tuple[float, ...]]:
        """The values of each axis."""
        return dict(zip(Axis, (self.temporal_inputs, self.height_inputs, self.width_inputs)))


@dataclass(frozen=True)
class Answer:
    """What the model said, in time tokens, as ``language.answers.parse`` reads it.

    ``span`` is (first, last) time token, both included; ELC says only the end, so its first is
    that of the first box. ``boxes`` pairs each time
    token (None for an image) with a box, in rising order. ``no_match`` is True where the model says
    that nothing in sight is what the words describe. ``problems`` says, a line each, what of the
    text could not be read; the rest is whole.
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
class Grounding:
    """An answer laid on the stream: time tokens became the stamps of the frames they mean.

    ``window`` holds the stamps (ns) of the frames that the model saw; ``width`` and ``height`` the
    source image in pixels; ``confidence`` in [0, 1] is explained at ``Generation.confidence``.
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


class TrackState(Enum):
    GROUNDED = 0  # the newest box comes from the model
    PROPAGATED = 1  # carried on from an answer to a newer frame
    LOST = 2  # neither confirmed nor carried on: the last known box


class EventState(Enum):
    BEGUN = 0
    ONGOING = 1
    ENDED = 2


@dataclass(frozen=True)
class Track:
    """One object under one query. ``tube`` ends with the current box; ``stamp`` is its stamp."""

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

    @property
    def stamp(self) -> int:
        return self.tube.stamps[-1]

    @property
    def box(self) -> Box:
        return self.tube.boxes[-1]


@dataclass(frozen=True)
class Event:
    """Something described that happened. An ONGOING event's span ends at its newest frame."""

    query_id: str
    event_id: int
    text: str
    span: Span
    state: EventState
    confidence: float
    camera: str
    frame_id: str


@dataclass(frozen=True)
class Tick:
    """What one ``Grounder.tick`` brings: new answers, every living track, events that changed."""

    groundings: tuple[Grounding, ...] = field(default=())
    tracks: tuple[Track, ...] = field(default=())
    events: tuple[Event, ...] = field(default=())
