"""The tracks and events of a running node, as lines and as a table that changes. No ROS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.ask import box_text
from llava_st_ros.cli.figure_tables import add_row, text_table
from llava_st_ros.cli.times import interval_text
from llava_st_ros.errors import printable_line
from llava_st_ros.records import NANOSECONDS

if TYPE_CHECKING:
    from rich.console import Group

MAX_CAMERAS, MAX_EVENTS = 64, 200  # remembered; the oldest are dropped
MAX_TEXT = 48  # characters of a query in a row
LOST = "LOST"
FINAL = ("ENDED", "RETRACTED")
EVENT_STYLES = {"PROVISIONAL": "yellow", "CONFIRMED": "green", "RETRACTED": "dim", "ENDED": ""}
TRACK_STYLES = {"GROUNDED": "green", "PROPAGATED": "cyan", "LOST": "dim"}
Values = Mapping[str, Any]


@dataclass(frozen=True)
class _Camera:
    """The newest tracks of a camera, and when they arrived (the clock's seconds)."""

    tracks: dict[int, Values]
    stamp: int
    arrival: float


class LiveResults:
    """What a node has published last.

    Args:
        clock: Returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cameras: dict[str, _Camera] = {}  # the one that published last is last
        self._events: dict[int, Values] = {}  # by id; the one that changed last is last

    def add_tracks(self, message: Values) -> list[str]:
        """Replace a camera's tracks; return a line for each that is new, lost, found or gone."""
        name = message["camera"]
        before = self._cameras.pop(name, _Camera({}, 0, 0.0))
        tracks = {track["track_id"]: track for track in message["tracks"]}
        self._cameras[name] = _Camera(tracks, message["stamp"], self._clock())
        if len(self._cameras) > MAX_CAMERAS:
            del self._cameras[next(iter(self._cameras))]
        lines = []
        for number, track in tracks.items():
            known = before.tracks.get(number)
            if known is None or (known["state"] == LOST) != (track["state"] == LOST):
                lines.append(
                    f"track {number} on {name} {track['state']} at {box_text(track['box'])}, "
                    f"confidence {track['confidence']:.2f}: {short(track['label'])}"
                )
        lines += [
            f"track {number} on {name} is gone: {short(track['label'])}"
            for number, track in before.tracks.items()
            if number not in tracks
        ]
        return [printable_line(line) for line in lines]

    def add_event(self, event: Values) -> list[str]:
        """Replace an event; return the line about it, unless nothing has changed.

        The node publishes events again for others that subscribe.
        """
        if self._events.get(event["event_id"]) == event:
            return []
        self._events.pop(event["event_id"], None)
        self._events[event["event_id"]] = event
        if len(self._events) > MAX_EVENTS:
            del self._events[next(iter(self._events))]
        return [
            printable_line(
                f"event {event['event_id']} on {event['camera']} {event['state']} "
                f"{interval_text(event['start'], event['end'])}{_reason(event)}, confidence "
                f"{event['confidence']:.2f}: {short(event['text'])}"
            )
        ]

    def clear(self) -> None:
        """Forget everything: the node has ended."""
        self._cameras.clear()
        self._events.clear()

    def view(self, title: str, rows: int) -> Group:
        """Return the tables.

        Args:
            title: Printed above them.
            rows: Most rows of both tables together.
        """
        from rich.console import Group
        from rich.text import Text

        tracks = list(self._track_rows())
        active = [e for e in self._events.values() if e["state"] not in FINAL]
        final = [e for e in self._events.values() if e["state"] in FINAL]
        events = [*reversed(active), *reversed(final)]
        event_rows = min(len(events), max(rows // 2, rows - len(tracks)))
        track_rows = min(len(tracks), rows - event_rows)
        track_table = text_table(
            _count("tracks", track_rows, len(tracks)),
            ("camera", "query", "text", "track", "state", "box (px)"),
            ("conf.", "age (s)"),
        )
        for row, style in tracks[:track_rows]:
            add_row(track_table, *row, style=style)
        event_table = text_table(
            _count("events", event_rows, len(events)),
            ("camera", "query", "text", "event", "state", "from - to"),
            ("conf.",),
        )
        for event in events[:event_rows]:
            add_row(
                event_table,
                event["camera"],
                event["query_id"],
                short(event["text"]),
                str(event["event_id"]),
                event["state"] + _reason(event),
                interval_text(event["start"], event["end"]),
                f"{event['confidence']:.2f}",
                style=EVENT_STYLES.get(event["state"], ""),
            )
        return Group(Text(printable_line(title)), track_table, event_table)

    def _track_rows(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield the texts and the style of each track's row, by camera."""
        now = self._clock()
        for name, camera in sorted(self._cameras.items()):
            for number, track in sorted(camera.tracks.items()):
                # On the camera's clock, which may be that of a bag.
                age = (camera.stamp - track["stamp"]) / NANOSECONDS + now - camera.arrival
                row = (
                    name,
                    track["query_id"],
                    short(track["label"]),
                    str(number),
                    track["state"],
                    box_text(track["box"]),
                    f"{track['confidence']:.2f}",
                    f"{max(0.0, age):.1f}",
                )
                yield row, TRACK_STYLES.get(track["state"], "")


def short(text: str) -> str:
    """A text for one row."""
    line = printable_line(text)
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 3]}..."


def _reason(event: Values) -> str:
    """Why an event is over, where its answers are not the reason."""
    reason = event["reason"]
    return "" if reason in ("NONE", "ANSWERS") else f" ({reason.lower().replace('_', ' ')})"


def _count(name: str, shown: int, total: int) -> str:
    return name if shown == total else f"{name} ({shown} of {total})"
