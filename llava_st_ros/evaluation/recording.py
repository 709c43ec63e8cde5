"""What a stream brought, kept as it came in: final tubes and events, to write, draw and score."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_st_ros.evaluation.metrics import Tube
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

MAX_GAP = NANOSECONDS  # boxes further apart than this (ns) are not joined by interpolation


@dataclass
class _Kept:
    track: Track  # as published last, with the whole tube that it grew
    order: int  # rises with each publication that moved the tube


class Recording:
    """Takes every Track and Event in the order of publication; the newest word counts.

    A track's newer tube replaces the older one from the newer one's first stamp on, as in the
    tracks themselves, so boxes that the publisher has let go of for their age stay known here.
    The current box of a PROPAGATED track is no word of the model and is not kept.
    """

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str, int], _Kept] = {}
        self._events: dict[tuple[str, str, int], Event] = {}
        self._order = 0

    def add_track(self, track: Track) -> None:
        tube = track.tube
        if track.state is TrackState.PROPAGATED:
            tube = BoxTube(tube.stamps[:-1], tube.boxes[:-1])
        if not len(tube):
            return
        key = track.camera, track.query_id, track.track_id
        kept = self._tracks.get(key)
        if kept is None or kept.track.tube != tube:
            self._order += 1
            order = self._order
        else:
            order = kept.order
        if kept is not None:
            old = [(s, b) for s, b in kept.track.tube.as_dict().items() if s < tube.stamps[0]]
            tube = BoxTube(
                tuple(s for s, _ in old) + tube.stamps, tuple(b for _, b in old) + tube.boxes
            )
        self._tracks[key] = _Kept(replace(track, tube=tube), order)

    def add_event(self, event: Event) -> None:
        self._events[(event.camera, event.query_id, event.event_id)] = event

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Every track with its final tube, in the order of first publication."""
        return tuple(kept.track for kept in self._tracks.values())

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event as published last, in the order of first publication."""
        return tuple(self._events.values())

    def query_tube(self, query_id: str, stamps: Iterable[int]) -> Tube[int]:
        """The query's boxes at those of the given camera stamps (ns) that its tracks cover.

        A track covers a stamp that is one of its own or lies between two of its own at most
        MAX_GAP apart; there the box is interpolated linearly. Where several tracks of the query
        cover a stamp, the one that changed last has the word.
        """
        chosen = [kept for kept in self._tracks.values() if kept.track.query_id == query_id]
        tube: dict[int, Box] = {}
        for stamp in stamps:
            for kept in sorted(chosen, key=lambda k: -k.order):
                box = covered(kept.track.tube, stamp)
                if box is not None:
                    tube[stamp] = box
                    break
        return tube

    def tracks_at(self, stamp: int) -> list[Track]:
        """The tracks that cover a stamp, as they were then: their tubes end there."""
        found = []
        for track in self.tracks:
            box = covered(track.tube, stamp)
            if box is not None:
                now = BoxTube((stamp,), (box,))
                found.append(replace(track, tube=now, state=TrackState.GROUNDED))
        return found

    def events_at(self, stamp: int) -> list[Event]:
        """The events under way at a stamp."""
        return [
            replace(event, state=EventState.ONGOING)
            for event in self.events
            if event.span.start <= stamp <= event.span.end
        ]

    def write(self, folder: Path) -> None:
        """tracks.jsonl and events.jsonl in ``folder``: one line for each, see ``as_json``."""
        for name, records in (("tracks", self.tracks), ("events", self.events)):
            lines = "".join(json.dumps(line) + "\n" for line in as_json(records))
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def covered(tube: BoxTube, stamp: int) -> Box | None:
    """The tube's box at a stamp (ns), None where the tube does not cover it (MAX_GAP)."""
    if not len(tube) or not tube.stamps[0] <= stamp <= tube.stamps[-1]:
        return None
    place = bisect_left(tube.stamps, stamp)
    between = tube.stamps[place] != stamp
    if between and tube.stamps[place] - tube.stamps[place - 1] > MAX_GAP:
        return None
    return box_at(tube, stamp)


def rounded_pixels(box: Box, width: int, height: int) -> list[float]:
    """Return x_min, y_min, x_max, y_max in pixels with two decimals, for a JSON file."""
    return [round(value, 2) for value in box.to_pixels(width, height)]


def as_json(records: Sequence[Track | Event]) -> list[dict[str, Any]]:
    """Tracks and events as plain values: stamps in ns, boxes x1, y1, x2, y2 in source pixels."""
    return [_track(r) if isinstance(r, Track) else _event(r) for r in records]


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
        "confidence": round(event.confidence, 4),
        "start": event.span.start,
        "end": event.span.end,
    }
