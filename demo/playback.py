"""Messages of the demo's processes, collected as the package's own records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from demo.view import View
from llava_st_ros.evaluation.node_messages import (
    Publication,
    published_ticks,
    to_event,
    to_grounding,
    to_track,
)
from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.records import TrackState


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
