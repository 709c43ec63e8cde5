"""A replay's answers, tracks and events, as JSON values and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.evaluation.recording import rounded_pixels
from llava_st_ros.evaluation.replay import ReplayedStream, ReplayResult
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
        "notes": [*source.notes, *result.notes],
        "complete": result.complete,
        "start": min(min(stream.stamps) for stream in result.streams),
        "end": max(max(stream.stamps) for stream in result.streams),
        "streams": [_stream(stream) for stream in result.streams],
        "queries": [
            {"id": q.id, "text": q.text, "task": q.task.value, "task_chosen": q.task_chosen}
            for q in queries
        ],
        "failures": [
            {"query_id": failure.query_id, "camera": failure.camera, "error": failure.error}
            for failure in result.failures
        ],
        "answers": answers_json(result),
        "tracks": result.recording.tracks_json(),
        "events": result.recording.events_json(),
    }


def answers_json(result: ReplayResult) -> list[dict[str, Any]]:
    """Return the answers; stamps in ns, boxes in pixels of the source image."""
    return [
        answer_json(grounding) | {"stream": stream}
        for grounding, stream in zip(result.groundings, result.grounding_streams)
    ]


def answer_json(grounding: Grounding) -> dict[str, Any]:
    """Return one answer; stamps in ns, boxes in pixels of the source image."""
    answer, span, stamps = grounding.answer, grounding.span, grounding.window

    def pixels(box: Box) -> list[float]:
        return rounded_pixels(box, grounding.width, grounding.height)

    match = grounding.match_probability
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
        "match_probability": None if match is None else round(match, 4),
    }


def _stream(stream: ReplayedStream) -> dict[str, Any]:
    jump = stream.jump
    return {
        "camera": stream.camera,
        "start": min(stream.stamps),
        "end": max(stream.stamps),
        "frames": len(stream.stamps),
        "first_frame": stream.first_frame,
        "clock_jump": None if jump is None else {"from": jump.before, "to": jump.after},
    }


def tables(result: ReplayResult) -> Iterator[Table | Text]:
    """Yield tables of tracks and events, or the answers' texts if there are neither."""
    from rich.text import Text

    if result.recording.tracks:
        yield _tracks(result)
    if result.recording.events:
        yield _events(result)
    if not (result.recording.tracks or result.recording.events):
        for grounding, stream in zip(result.groundings, result.grounding_streams):
            text = grounding.answer.caption or grounding.answer.text
            window = _seconds(result, stream, grounding.window[0], grounding.window[-1])
            yield Text(f"{window} s  {text}")
        if not result.groundings:
            yield Text("no answer")


def _tracks(result: ReplayResult) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="tracks")
    for name in ("query", "track", "from - to (s)", "boxes", "last box (px)", "confidence"):
        table.add_column(name)
    recording = result.recording
    for track, stream in zip(recording.tracks, recording.track_streams):
        stamps = track.tube.stamps
        table.add_row(
            Text(track.label),
            str(track.track_id),
            _seconds(result, stream, stamps[0], stamps[-1]),
            str(len(stamps)),
            ", ".join(f"{v:.0f}" for v in track.box.to_pixels(track.width, track.height)),
            f"{track.confidence:.2f}",
        )
    return table


def _events(result: ReplayResult) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="events")
    for name in ("query", "event", "from - to (s)", "confidence"):
        table.add_column(name)
    recording = result.recording
    for event, stream in zip(recording.events, recording.event_streams):
        table.add_row(
            Text(event.text),
            str(event.event_id),
            _seconds(result, stream, event.span.start, event.span.end),
            f"{event.confidence:.2f}",
        )
    return table


def _seconds(result: ReplayResult, stream: int, first: int, last: int) -> str:
    """Return two stamps (ns) in seconds since the start of their stream."""
    start = min(result.streams[stream].stamps)
    text = f"{(first - start) / NANOSECONDS:.2f} - {(last - start) / NANOSECONDS:.2f}"
    return text if len(result.streams) == 1 else f"{text} of stream {stream}"
