"""Records published tracks and events: final tubes and events to write, draw and score."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_st_ros.media.pictures import Annotations
from llava_st_ros.records import (
    NANOSECONDS,
    Box,
    BoxTube,
    Event,
    EventState,
    Track,
    TrackState,
)
from llava_st_ros.tracking.association import box_at

MAX_GAP = NANOSECONDS  # ns; boxes further apart are not joined by interpolation


@dataclass
class _RecordedTrack:
    track: Track  # as last published, with the complete tube
    revision: int  # increases with each publication that changed the tube
    stream: int  # the stream that its stamps are of


class Recording:
    """Collects every published Track and Event; the latest publication wins.

    A track's newer tube replaces the older one from the newer tube's first stamp on. Boxes that
    the tracker has dropped for their age therefore stay in the recording. A propagated box does not
    come from the model and is not recorded.

    Stamps of different streams of a camera are not comparable (its clock has jumped in between):
    each track and event has the number of its stream, 0 if there is one only.
    """

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str, int], _RecordedTrack] = {}
        self._events: dict[tuple[str, str, int], tuple[Event, int]] = {}  # with its stream
        self._revision = 0

    def add_track(self, track: Track, stream: int = 0) -> None:
        """Add a track of a stream as published. Call in the order of publication."""
        tube = track.tube
        if track.propagated_from is not None:
            tube = BoxTube(tube.stamps[:-1], tube.boxes[:-1])
        if not len(tube):
            return
        key = track.camera, track.query_id, track.track_id
        previous = self._tracks.get(key)
        if previous is None or previous.track.tube != tube:
            self._revision += 1
            revision = self._revision
        else:
            revision = previous.revision
        if previous is not None:
            old = [(s, b) for s, b in previous.track.tube.as_dict().items() if s < tube.stamps[0]]
            tube = BoxTube(
                tuple(s for s, _ in old) + tube.stamps, tuple(b for _, b in old) + tube.boxes
            )
        self._tracks[key] = _RecordedTrack(
            replace(track, tube=tube, propagated_from=None), revision, stream
        )

    def add_event(self, event: Event, stream: int = 0) -> None:
        """Add an event of a stream as published; one that is RETRACTED is removed.

        Call in the order of publication.
        """
        key = event.camera, event.query_id, event.event_id
        if event.state is EventState.RETRACTED:
            self._events.pop(key, None)
        else:
            self._events[key] = event, stream

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Every track with its final tube, in the order of first publication."""
        return tuple(recorded.track for recorded in self._tracks.values())

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event that was not retracted as last published, in the order of publication."""
        return tuple(event for event, _ in self._events.values())

    @property
    def track_streams(self) -> tuple[int, ...]:
        """The number of the stream of each of ``tracks``."""
        return tuple(recorded.stream for recorded in self._tracks.values())

    @property
    def event_streams(self) -> tuple[int, ...]:
        """The number of the stream of each of ``events``."""
        return tuple(stream for _, stream in self._events.values())

    def query_boxes(self, query_id: str, stamps: Iterable[int]) -> dict[int, dict[int, Box]]:
        """Return the boxes of a query's tracks by camera stamp (ns) and track id.

        A track covers its own stamps and the stamps between two of its own that are at most
        MAX_GAP apart, where boxes are interpolated linearly. Of several tracks, the most recently
        changed one comes first. Stamps that no track covers are left out.
        """
        candidates = sorted(
            (r for r in self._tracks.values() if r.track.query_id == query_id),
            key=lambda recorded: -recorded.revision,
        )
        found: dict[int, dict[int, Box]] = {}
        for stamp in stamps:
            for candidate in candidates:
                box = covering_box(candidate.track.tube, stamp)
                if box is not None:
                    found.setdefault(stamp, {})[candidate.track.track_id] = box
        return found

    def tracks_at(self, stamp: int, stream: int = 0) -> list[Track]:
        """Return a stream's tracks that cover a stamp, each with its tube reduced to the box there.

        Such a track is GROUNDED.
        """
        found = []
        for recorded in self._tracks.values():
            box = covering_box(recorded.track.tube, stamp) if recorded.stream == stream else None
            if box is not None:
                current = BoxTube((stamp,), (box,))
                found.append(replace(recorded.track, tube=current, state=TrackState.GROUNDED))
        return found

    def events_at(self, stamp: int, stream: int = 0) -> list[Event]:
        """Return a stream's events whose span contains a stamp, as CONFIRMED."""
        return [
            replace(event, state=EventState.CONFIRMED)
            for event, of_stream in self._events.values()
            if of_stream == stream and event.span.start <= stamp <= event.span.end
        ]

    def annotations(
        self, stamps: Sequence[int], streams: Sequence[int | None] | None = None
    ) -> list[Annotations]:
        """Return what to draw on each frame.

        Args:
            stamps: The stamps of the frames (ns).
            streams: The stream of each frame, None for one that was not used; by default 0 for all.
        """
        numbers = [0] * len(stamps) if streams is None else streams
        return [
            Annotations()
            if stream is None
            else Annotations(self.tracks_at(stamp, stream), self.events_at(stamp, stream))
            for stamp, stream in zip(stamps, numbers)
        ]

    def tracks_json(self) -> list[dict[str, Any]]:
        """Return the tracks as plain values: stamps in ns, boxes (x1, y1, x2, y2) in pixels."""
        return [_track(r.track) | {"stream": r.stream} for r in self._tracks.values()]

    def events_json(self) -> list[dict[str, Any]]:
        """Return the events as plain values; stamps in ns."""
        return [_event(event) | {"stream": stream} for event, stream in self._events.values()]

    def write(self, folder: Path) -> None:
        """Write tracks.jsonl and events.jsonl, one record per line."""
        write_json_lines(folder / "tracks.jsonl", self.tracks_json())
        write_json_lines(folder / "events.jsonl", self.events_json())


def write_json_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object per line."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def covering_box(tube: BoxTube, stamp: int) -> Box | None:
    """Return the tube's box at a stamp (ns), or None if the tube does not cover it (MAX_GAP)."""
    if not len(tube) or not tube.stamps[0] <= stamp <= tube.stamps[-1]:
        return None
    index = bisect_left(tube.stamps, stamp)
    between = tube.stamps[index] != stamp
    if between and tube.stamps[index] - tube.stamps[index - 1] > MAX_GAP:
        return None
    return box_at(tube, stamp)


def rounded_pixels(box: Box, width: int, height: int) -> list[float]:
    """Return x_min, y_min, x_max, y_max in pixels with two decimals, for a JSON file."""
    return [round(value, 2) for value in box.to_pixels(width, height)]


def _track(track: Track) -> dict[str, Any]:
    return {
        "query_id": track.query_id,
        "track_id": track.track_id,
        "label": track.label,
        "camera": track.camera,
        "frame_id": track.frame_id,
        "state": track.state.name,
        "confidence": round(track.confidence, 4),
        "image_width": track.width,
        "image_height": track.height,
        "tube": [
            {"stamp": s, "box": rounded_pixels(b, track.width, track.height)}
            for s, b in track.tube.as_dict().items()
        ],
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "query_id": event.query_id,
        "event_id": event.event_id,
        "text": event.text,
        "camera": event.camera,
        "frame_id": event.frame_id,
        "state": event.state.name,
        "reason": event.reason.name,
        "confidence": round(event.confidence, 4),
        "start": event.span.start,
        "end": event.span.end,
    }
