"""A replay's answers, tracks and events, as JSON values and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.evaluation.recording import records_as_json, rounded_pixels
from llava_st_ros.evaluation.replay import ReplayResult
from llava_st_ros.media.sources import Source
from llava_st_ros.records import NANOSECONDS, Box, Grounding, Query

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def replay_json(
    model: Path, source: Source, queries: Sequence[Query], result: ReplayResult
) -> dict[str, Any]:
    """Return a replay's complete output; stamps in ns, boxes in pixels of the source image."""
    return {
        "model": str(model),
        "source": source.name,
        "frames": len(result.stamps),
        "dropped": source.dropped,
        "notes": list(source.notes),
        "start": result.stamps[0],
        "end": result.stamps[-1],
        "queries": [
            {"id": q.id, "text": q.text, "task": q.task.value, "task_chosen": q.task_chosen}
            for q in queries
        ],
        "failures": [
            {"query_id": failure.query_id, "camera": failure.camera, "error": failure.error}
            for failure in result.failures
        ],
        "answers": [answer_json(grounding) for grounding in result.groundings],
        "tracks": records_as_json(result.recording.tracks),
        "events": records_as_json(result.recording.events),
    }


def answer_json(grounding: Grounding) -> dict[str, Any]:
    """Return one answer; stamps in ns, boxes in pixels of the source image."""
    answer, span, stamps = grounding.answer, grounding.span, grounding.window

    def pixels(box: Box) -> list[float]:
        return rounded_pixels(box, grounding.width, grounding.height)

    return {
        "query_id": grounding.query.id,
        "window": [stamps[0], stamps[-1]],
        "text": answer.text,
        "span": [span.start, span.end] if span else None,
        "boxes": [
            {"stamp": stamp, "box": pixels(box)} for stamp, box in grounding.tube.as_dict().items()
        ],
        "caption": answer.caption,
        "phrases": [{"text": text, "box": pixels(box)} for text, box in answer.phrases],
        "segments": [
            {"start": segment.span.start, "end": segment.span.end, "text": segment.text}
            for segment in grounding.segments
        ],
        "no_match": answer.no_match,
        "problems": list(answer.problems),
        "confidence": round(grounding.confidence, 4),
    }


def tables(result: ReplayResult) -> Iterator[Table | Text]:
    """Yield tables of tracks and events, or the answers' texts if there are neither."""
    from rich.text import Text

    start = result.stamps[0]
    if result.recording.tracks:
        yield _tracks(result, start)
    if result.recording.events:
        yield _events(result, start)
    if not (result.recording.tracks or result.recording.events):
        for grounding in result.groundings:
            text = grounding.answer.caption or grounding.answer.text
            yield Text(f"{_seconds(grounding.window[0], grounding.window[-1], start)} s  {text}")
        if not result.groundings:
            yield Text("no answer")


def _tracks(result: ReplayResult, start: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="tracks")
    for name in ("query", "track", "from - to (s)", "boxes", "last box (px)", "confidence"):
        table.add_column(name)
    for track in result.recording.tracks:
        stamps = track.tube.stamps
        table.add_row(
            Text(track.label),
            str(track.track_id),
            _seconds(stamps[0], stamps[-1], start),
            str(len(stamps)),
            ", ".join(f"{v:.0f}" for v in track.box.to_pixels(track.width, track.height)),
            f"{track.confidence:.2f}",
        )
    return table


def _events(result: ReplayResult, start: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="events")
    for name in ("query", "event", "from - to (s)", "confidence"):
        table.add_column(name)
    for event in result.recording.events:
        table.add_row(
            Text(event.text),
            str(event.event_id),
            _seconds(event.span.start, event.span.end, start),
            f"{event.confidence:.2f}",
        )
    return table


def _seconds(first: int, last: int, start: int) -> str:
    return f"{(first - start) / NANOSECONDS:.2f} - {(last - start) / NANOSECONDS:.2f}"
