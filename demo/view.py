"""Console output of the demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from llava_st_ros.annotations.records import AnnotatedQuery
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.evaluation.results import Case
from llava_st_ros.records import NANOSECONDS, Event, Track

MILLISECONDS = 1_000_000
_VALUES = {
    name: name.replace(" ", "_").lower()
    for name in ("final vIoU", "final tIoU", "final sIoU", "live vIoU", "live HOTA")
}


class View:
    """A table with a row per query and a progress bar; without a terminal, a line per change."""

    def __init__(self, queries: Sequence[AnnotatedQuery], first: int, console: Console) -> None:
        self._queries, self._first, self._console = queries, first, console
        self._tracks: dict[str, Track] = {}
        self._known_tracks: set[tuple[str, int]] = set()
        self._events: dict[str, Event] = {}
        self._answers = dict.fromkeys((query.id for query in queries), 0)
        self._tenth = -1
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TimeElapsedColumn(), console=console,
        )  # fmt: skip
        self._task = self._bar.add_task("playing the bag", start=False, total=None)
        self._live: Live | None = None

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=8)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def print(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(Text(text))

    def show_progress(self, frames: int, total: int) -> None:
        """Show how many of the bag's frames were published."""
        if frames == 1:
            self._bar.start_task(self._task)
        self._bar.update(self._task, completed=frames, total=total)
        tenth = frames * 10 // total
        if self._live is None and tenth != self._tenth:
            self._tenth = tenth
            self.print(f"played {frames} of {total} frames")

    def show_track(self, track: Track) -> None:
        """Show a published track."""
        current = self._tracks.get(track.query_id)
        if current is None or track.stamp >= current.stamp:
            self._tracks[track.query_id] = track
        key = track.query_id, track.track_id
        if key not in self._known_tracks:
            self._known_tracks.add(key)
            if self._live is None:
                self.print(f"track {track.track_id} of {track.query_id}: {track.label}")

    def show_event(self, event: Event) -> None:
        """Show a published event."""
        before = self._events.get(event.query_id)
        self._events[event.query_id] = event
        is_new = before is None or (before.event_id, before.state) != (event.event_id, event.state)
        if self._live is None and is_new:
            self.print(
                f"event {event.event_id} of {event.query_id} {event.state.name.lower()}: "
                f"{event.text} ({self._span(event.span.start, event.span.end)})"
            )

    def count_answer(self, query_id: str) -> None:
        """Count an answer to a query."""
        self._answers[query_id] = self._answers.get(query_id, 0) + 1

    def _span(self, start: int, end: int) -> str:
        return _seconds(start, end, self._first)

    def __rich__(self) -> Group:
        table = Table(title="standing queries")
        for name in ("query", "answers", "track", "state", "box (px)", "event (s)", ""):
            table.add_column(name)
        for query in self._queries:
            track, event = self._tracks.get(query.id), self._events.get(query.id)
            table.add_row(
                Text(query.text),
                str(self._answers[query.id]),
                str(track.track_id) if track else "-",
                track.state.name if track else "-",
                _pixels(track) if track else "-",
                self._span(event.span.start, event.span.end) if event else "-",
                event.state.name if event else "",
            )
        return Group(table, self._bar)


def _seconds(start: int, end: int, first: int) -> str:
    return f"{(start - first) / NANOSECONDS:.1f} - {(end - first) / NANOSECONDS:.1f}"


def _pixels(track: Track) -> str:
    return ", ".join(f"{v:.0f}" for v in track.box.to_pixels(track.width, track.height))


def summary_tables(
    queries: Sequence[AnnotatedQuery],
    recording: Recording,
    cases: Sequence[Case],
    first: int,
) -> Group:
    """Return tables of tracks, events and values, with times in seconds since ``first`` (ns)."""
    tracks = Table(title="tracks")
    for name in ("query", "track", "from - to (s)", "boxes", "confidence"):
        tracks.add_column(name)
    for track in recording.tracks:
        stamps = track.tube.stamps
        tracks.add_row(
            Text(track.label), str(track.track_id), _seconds(stamps[0], stamps[-1], first),
            str(len(stamps)), f"{track.confidence:.2f}",
        )  # fmt: skip
    events = Table(title="events")
    for name in ("query", "event", "from - to (s)", "state", "confidence"):
        events.add_column(name)
    for event in recording.events:
        events.add_row(
            Text(event.text), str(event.event_id),
            _seconds(event.span.start, event.span.end, first), event.state.name,
            f"{event.confidence:.2f}",
        )  # fmt: skip
    values = Table(title="against the ground truth, over every frame of the bag")
    for name in ("query", "true span (s)", *_VALUES):
        values.add_column(name)
    for query, case in zip(queries, cases):
        spans = ", ".join(_seconds(span.start, span.end, first) for span in query.spans)
        numbers = [
            f"{case.values[key]:.3f}" if key in case.values else "-" for key in _VALUES.values()
        ]
        values.add_row(Text(query.text), spans, *numbers)
    return Group(tracks, events, values)
