"""Messages of the demo's processes, collected as the package's own records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from demo.view import View
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.records import (
    Box,
    BoxTube,
    Event,
    EventState,
    Span,
    Track,
    TrackState,
)


class Playback:
    """The state of the demo as its messages arrive.

    Attributes:
        recording: Every published track and event.
        sent: When each frame was published (ns, system clock), by the frame's stamp.
        answered: Stamp of the newest frame in each query's last answer, by query id.
        track_latencies: From a frame's publication to the tracks grounded in it (ns).
        answer_latencies: From a frame's publication to the answers about it (ns).
        is_ready: Whether the collector found the node's topics.
        is_done: Whether the player has published every frame.
    """

    def __init__(self, frames: int, view: View) -> None:
        self.recording = Recording()
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

    def _add_frame(self, message: dict[str, Any]) -> None:
        self.sent[message["stamp"]] = message["sent"]
        self._view.show_progress(len(self.sent), self._frames)

    def _add_tracks(self, message: dict[str, Any]) -> None:
        grounded = False
        for entry in message["tracks"]:
            track = to_track(entry)
            grounded = grounded or track.state is TrackState.GROUNDED
            self.recording.add_track(track)
            self._view.show_track(track)
        if grounded and message["stamp"] in self.sent:
            self.track_latencies.append(message["published"] - self.sent[message["stamp"]])

    def _add_event(self, message: dict[str, Any]) -> None:
        event = to_event(message)
        self.recording.add_event(event)
        self._view.show_event(event)

    def _add_answer(self, message: dict[str, Any]) -> None:
        self.answered[message["query_id"]] = message["stamp"]
        if message["stamp"] in self.sent:
            self.answer_latencies.append(message["published"] - self.sent[message["stamp"]])
        self._view.count_answer(message["query_id"])


def to_track(entry: dict[str, Any]) -> Track:
    """Convert a collector's track, with boxes in pixels, to a record with boxes in [0, 1]."""
    width, height = entry["image_width"], entry["image_height"]
    boxes = tuple(
        Box.from_pixels((x1, y1, x2, y2), width, height) for _, x1, y1, x2, y2 in entry["tube"]
    )
    return Track(
        query_id=entry["query_id"],
        track_id=entry["track_id"],
        label=entry["label"],
        tube=BoxTube(tuple(row[0] for row in entry["tube"]), boxes),
        state=TrackState(entry["state"]),
        confidence=entry["confidence"],
        camera=entry["camera"],
        frame_id=entry["frame_id"],
        width=width,
        height=height,
    )


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
