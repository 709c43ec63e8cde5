"""The ground truth of a recording, as values. Files of it: ``annotation_file``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from llava_st_ros.records import Box, Span, Task


@dataclass(frozen=True)
class AnnotatedCamera:
    """A camera of the recording.

    Attributes:
        topic: Its image topic; empty for footage without topics (a video, a folder).
        width: Width of its images in pixels.
        height: Height of its images in pixels.
    """

    topic: str
    width: int
    height: int


@dataclass(frozen=True)
class AnnotatedObject:
    """One object in the images of one camera.

    Attributes:
        id: Unique in the file.
        label: What it is, in words.
        topic: The topic of its camera.
        boxes: Its box by header stamp (ns), in [0, 1] of the image, where it is visible.
        keyframes: The stamps of ``boxes`` that a person or tool has set; others are interpolated.
    """

    id: str
    label: str
    topic: str
    boxes: Mapping[int, Box]
    keyframes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class AnnotatedQuery:
    """A query with its ground truth on one camera.

    Attributes:
        id: Unique in the file.
        text: The query's words.
        task: How it is asked.
        topic: The topic of the camera.
        spans: When the answer is true, in header time (ns), both ends included, in order and apart.
            No span: the query matches nothing in the recording.
        objects: Ids of the objects that it describes; empty if it matches nothing, or for tasks
            without boxes.
    """

    id: str
    text: str
    task: Task
    topic: str
    spans: tuple[Span, ...] = ()
    objects: tuple[str, ...] = ()

    @property
    def no_match(self) -> bool:
        """Whether "no match" is the right answer at every time."""
        return not self.spans

    def is_active(self, stamp: int) -> bool:
        """Return whether something that the query describes is in progress at a stamp (ns)."""
        return any(span.start <= stamp <= span.end for span in self.spans)


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of one recording; ``annotation_file`` checks that they are consistent.

    Attributes:
        cameras: The annotated cameras.
        objects: The objects of all cameras.
        queries: The queries of all cameras.
        notes: What was changed while the file was read, one line for each kind.
    """

    cameras: tuple[AnnotatedCamera, ...]
    objects: tuple[AnnotatedObject, ...] = ()
    queries: tuple[AnnotatedQuery, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def camera(self, topic: str) -> AnnotatedCamera:
        """Return the camera of a topic. Raises KeyError if it is not annotated."""
        for camera in self.cameras:
            if camera.topic == topic:
                return camera
        raise KeyError(topic)

    def objects_of(self, query: AnnotatedQuery) -> tuple[AnnotatedObject, ...]:
        """Return the objects that a query describes."""
        return tuple(self._by_id[name] for name in query.objects)

    @cached_property
    def _by_id(self) -> Mapping[str, AnnotatedObject]:
        return {item.id: item for item in self.objects}
