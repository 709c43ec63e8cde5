"""What the demo's processes have told so far, as the package's own records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demo.score import TrueQuery
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
    """What the processes have told so far."""

    def __init__(self, queries: tuple[TrueQuery, ...], frames: int, view: View) -> None:
        self.recording = Recording()
        self.sent: dict[int, int] = {}  # a frame's stamp -> when it was published, ns
        self.answered: dict[str, int] = {}  # a query -> the newest frame that an answer saw
        self.latencies: list[int] = []
        self.answer_latencies: list[int] = []
        self.done = self.ready = False
        self._frames, self._view = frames, view

    def take(self, message: dict[str, Any]) -> None:
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "frame": self._frame,
            "tracks": self._tracks,
            "event": self._event,
            "answer": self._answer,
        }
        kind = message.get("kind", "")
        self.done = self.done or kind == "done"
        self.ready = self.ready or kind == "ready"
        if kind in handlers:
            handlers[kind](message)

    def _frame(self, message: dict[str, Any]) -> None:
        self.sent[message["stamp"]] = message["sent"]
        self._view.played(len(self.sent), self._frames)

    def _tracks(self, message: dict[str, Any]) -> None:
        grounded = False
        for entry in message["tracks"]:
            track = to_track(entry)
            grounded = grounded or track.state is TrackState.GROUNDED
            self.recording.add_track(track)
            self._view.track(track)
        if grounded and message["stamp"] in self.sent:
            self.latencies.append(message["published"] - self.sent[message["stamp"]])

    def _event(self, message: dict[str, Any]) -> None:
        event = to_event(message)
        self.recording.add_event(event)
        self._view.event(event)

    def _answer(self, message: dict[str, Any]) -> None:
        self.answered[message["query_id"]] = message["stamp"]
        if message["stamp"] in self.sent:
            self.answer_latencies.append(message["published"] - self.sent[message["stamp"]])
        self._view.answer(message["query_id"])


def to_track(entry: dict[str, Any]) -> Track:
    """A collector's track: boxes from pixels back to [0, 1]."""
    width, height = entry["image_width"], entry["image_height"]
    boxes = tuple(
        Box(x1 / width, y1 / height, x2 / width, y2 / height) for _, x1, y1, x2, y2 in entry["tube"]
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
