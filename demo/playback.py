"""Messages of the demo's processes, collected as the package's own records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from demo.publications import Publication, published_ticks
from demo.view import View
from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    Event,
    EventState,
    Grounding,
    Query,
    Span,
    Task,
    Track,
    TrackState,
)


class Playback:
    """The state of the demo as its messages arrive.

    Attributes:
        recording: Every published track and event.
        publications: Every answer, event and array of tracks.
        sent: When each frame was published (ns, system clock), by the frame's stamp.
        answered: Stamp of the newest frame in each query's last answer, by query id.
        track_latencies: From a frame's publication to the tracks grounded in it (ns).
        answer_latencies: From a frame's publication to the answers about it (ns).
        is_ready: Whether the collector found the node's topics.
        is_done: Whether the player has published every frame.
    """

    def __init__(self, frames: int, view: View) -> None:
        self.recording = Recording()
        self.publications: list[Publication] = []
        self.sent: dict[int, int] = {}
        self.answered: dict[str, int] = {}
        self.track_latencies: list[int] = []
        self.answer_latencies: list[int] = []
        self.is_ready = self.is_done = False
        self._frames, self._view = frames, view

    def add(self, message: dict[str, Any]) -> None:
        """Add one message of a process."""
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "frame": self._add_frame,
            "tracks": self._add_tracks,
            "event": self._add_event,
            "answer": self._add_answer,
        }
        kind = message.get("kind", "")
        self.is_done = self.is_done or kind == "done"
        self.is_ready = self.is_ready or kind == "ready"
        if kind in handlers:
            handlers[kind](message)

    def all_answered(self, query_ids: Sequence[str], stamp: int) -> bool:
        """Return whether every query has an answer about frames later than a stamp (ns)."""
        return all(self.answered.get(query_id, 0) > stamp for query_id in query_ids)

    @property
    def published(self) -> list[PublishedTick]:
        """What was published when, in header time."""
        return published_ticks(self.publications, self.sent)

    def _add_frame(self, message: dict[str, Any]) -> None:
        self.sent[message["stamp"]] = message["sent"]
        self._view.show_progress(len(self.sent), self._frames)

    def _add_tracks(self, message: dict[str, Any]) -> None:
        tracks = tuple(to_track(entry) for entry in message["tracks"])
        self.publications.append(Publication(message["published"], tracks))
        for track in tracks:
            self.recording.add_track(track)
            self._view.show_track(track)
        grounded = any(track.state is TrackState.GROUNDED for track in tracks)
        if grounded and message["stamp"] in self.sent:
            self.track_latencies.append(message["published"] - self.sent[message["stamp"]])

    def _add_event(self, message: dict[str, Any]) -> None:
        event = to_event(message)
        self.publications.append(Publication(message["published"], event))
        self.recording.add_event(event)
        self._view.show_event(event)

    def _add_answer(self, message: dict[str, Any]) -> None:
        self.publications.append(Publication(message["published"], to_grounding(message)))
        self.answered[message["query_id"]] = message["stamp"]
        if message["stamp"] in self.sent:
            self.answer_latencies.append(message["published"] - self.sent[message["stamp"]])
        self._view.count_answer(message["query_id"])


def to_track(entry: dict[str, Any]) -> Track:
    """Convert a collector's track, with boxes in pixels, to a record with boxes in [0, 1]."""
    return Track(
        query_id=entry["query_id"],
        track_id=entry["track_id"],
        label=entry["label"],
        tube=_tube(entry),
        state=TrackState(entry["state"]),
        confidence=entry["confidence"],
        camera=entry["camera"],
        frame_id=entry["frame_id"],
        width=entry["image_width"],
        height=entry["image_height"],
    )


def to_grounding(message: dict[str, Any]) -> Grounding:
    """Convert a collector's answer, of which it has the first and last stamp of the window."""
    task = Task(message["task"])
    return Grounding(
        query=Query(message["query_id"], message["query"], task),
        answer=Answer(
            task,
            message["text"],
            no_match=message["no_match"],
            problems=tuple(message["problems"]),
        ),
        window=tuple(message["window"]),
        span=Span(*message["span"]) if message["span"] else None,
        tube=_tube(message),
        confidence=message["confidence"],
        camera=message["camera"],
        frame_id=message["frame_id"],
        width=message["image_width"],
        height=message["image_height"],
    )


def _tube(entry: dict[str, Any]) -> BoxTube:
    width, height = entry["image_width"], entry["image_height"]
    boxes = tuple(
        Box.from_pixels((x1, y1, x2, y2), width, height) for _, x1, y1, x2, y2 in entry["tube"]
    )
    return BoxTube(tuple(row[0] for row in entry["tube"]), boxes)


def to_event(message: dict[str, Any]) -> Event:
    """Convert a collector's event to a record."""
    return Event(
        query_id=message["query_id"],
        event_id=message["event_id"],
        text=message["text"],
        span=Span(message["start"], message["end"]),
        state=EventState(message["state"]),
        confidence=message["confidence"],
        camera=message["camera"],
        frame_id=message["frame_id"],
    )
