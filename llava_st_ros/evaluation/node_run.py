"""What a running node published about an annotated camera, and its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_st_ros.annotations.records import AnnotatedQuery, GroundTruth
from llava_st_ros.evaluation.node_messages import (
    Publication,
    published_ticks,
    to_event,
    to_grounding,
    to_track,
)
from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.evaluation.results import Case
from llava_st_ros.evaluation.streams.scores import score_stream
from llava_st_ros.records import NANOSECONDS


@dataclass
class NodeRun:
    """The messages of the player and of the node, as they arrive.

    Attributes:
        ids: The node's ids of the queries, to the annotated ids. Other queries are left out.
        camera: The node's name of the camera. Other cameras are left out.
        publications: Every answer, event and array of tracks.
        sent: When each frame was published (ns, system clock), by its stamp.
        answered: Stamp of the newest frame in each query's last answer, by annotated id.
        latencies: From a frame's publication to the answers about it (s).
        status: The node's last diagnostics: its model and each camera.
        status_count: Number of diagnostics that arrived.
        kinds: The kinds of messages that arrived.
    """

    ids: Mapping[str, str]
    camera: str = ""
    publications: list[Publication] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    status: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    status_count: int = 0
    kinds: set[str] = field(default_factory=set)

    def add(self, message: Mapping[str, Any]) -> None:
        """Add one message of a process."""
        kind = message.get("kind", "")
        self.kinds.add(kind)
        if kind == "frame":
            self.sent[message["stamp"]] = message["sent"]
        elif kind == "diagnostics":
            self.status, self.status_count = message["status"], self.status_count + 1
        elif kind == "tracks":
            tracks = tuple(to_track(self._named(entry)) for entry in message["tracks"]
                           if self._is_ours(entry))  # fmt: skip
            self.publications.append(Publication(message["published"], tracks))
        elif kind == "event" and self._is_ours(message):
            event = to_event(self._named(message))
            self.publications.append(Publication(message["published"], event))
        elif kind == "answer" and self._is_ours(message):
            grounding = to_grounding(self._named(message))
            self.publications.append(Publication(message["published"], grounding))
            self.answered[grounding.query.id] = message["stamp"]
            if message["stamp"] in self.sent:
                delay = message["published"] - self.sent[message["stamp"]]
                self.latencies.append(delay / NANOSECONDS)

    @property
    def cameras(self) -> Mapping[str, Mapping[str, str]]:
        """The diagnostics of the node's cameras by their names; empty unless it is active."""
        prefix = "camera "
        return {
            name.removeprefix(prefix): values
            for name, values in self.status.items()
            if name.startswith(prefix)
        }

    def count(self, name: str) -> int:
        """Return a count of the camera's diagnostics; 0 if there is none."""
        text = self.cameras.get(self.camera, {}).get(name, "")
        return int(text) if text.isdecimal() else 0

    def losses(self) -> dict[str, int]:
        """Return how many frames the node dropped or skipped until now, by reason."""
        names = self.cameras.get(self.camera, {})
        return {name: self.count(name) for name in names if name.startswith(("dropped", "skipped"))}

    def cases(
        self, name: str, bag: Path, queries: Sequence[AnnotatedQuery], truth: GroundTruth
    ) -> list[Case]:
        """Score what was published about each query."""
        published: list[PublishedTick] = published_ticks(self.publications, self.sent)
        stamps = {0: list(self.sent)}
        return [
            score_stream(published, query, truth, stamps).as_case(
                "/".join(filter(None, (name, query.topic.strip("/"), query.id))), str(bag), query
            )
            for query in queries
        ]

    def _is_ours(self, entry: Mapping[str, Any]) -> bool:
        return entry["query_id"] in self.ids and entry["camera"] == self.camera

    def _named(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "query_id": self.ids[entry["query_id"]]}
