"""The node's results as JSON values: stamps in ns, boxes in pixels, states by name.

The keys are those of ``llava-st ground --json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llava_st_ros import msg
from llava_st_ros.records import EndReason, EventState, TrackState
from llava_st_ros.ros.conversions import match_probability, stamp_from_msg


def tracks_values(message: msg.GroundedTrackArray) -> dict[str, Any]:
    return {
        "camera": message.camera,
        "stamp": stamp_from_msg(message.header.stamp),
        "frame_id": message.header.frame_id,
        "tracks": [_track(track) for track in message.tracks],
    }


def event_values(message: msg.GroundedEvent) -> dict[str, Any]:
    return {
        "camera": message.camera,
        "query_id": message.query_id,
        "event_id": message.event_id,
        "text": message.text,
        "start": stamp_from_msg(message.start),
        "end": stamp_from_msg(message.end),
        "state": _name(EventState, message.state),
        "confidence": round(message.confidence, 4),
        "reason": _name(EndReason, message.reason),
    }


def answer_values(message: msg.Answer) -> dict[str, Any]:
    span = message.span[0] if message.span else None
    probability = match_probability(message)
    return {
        "camera": message.camera,
        "query_id": message.query.id,
        "window": [stamp_from_msg(message.window_start), stamp_from_msg(message.window_end)],
        "image": [message.image_width, message.image_height],
        "text": message.text,
        "span": [stamp_from_msg(span.start), stamp_from_msg(span.end)] if span else None,
        "boxes": [{"stamp": stamp_from_msg(b.stamp), "box": _box(b.box)} for b in message.tube],
        "caption": message.caption or None,
        "phrases": [
            {"text": text, "box": _box(box)}
            for text, box in zip(message.phrases, message.phrase_boxes)
        ],
        "segments": [
            {
                "start": stamp_from_msg(segment.start),
                "end": stamp_from_msg(segment.end),
                "text": segment.text,
            }
            for segment in message.segments
        ],
        "no_match": message.no_match,
        "problems": list(message.problems),
        "confidence": round(message.confidence, 4),
        "match_probability": None if probability is None else round(probability, 4),
    }


def query_values(message: msg.Query) -> dict[str, Any]:
    return {
        "id": message.id,
        "text": message.text,
        "task": message.task,
        "cameras": list(message.cameras),
        "period": message.period,
        "expiry": message.expiry or None,
    }


def _track(track: msg.GroundedTrack) -> dict[str, Any]:
    return {
        "query_id": track.query_id,
        "track_id": track.track_id,
        "label": track.label,
        "state": _name(TrackState, track.state),
        "confidence": round(track.confidence, 4),
        "stamp": stamp_from_msg(track.header.stamp),
        "image": [track.image_width, track.image_height],
        "box": _box(track.box),
    }


def _box(box: msg.Box) -> list[float]:
    return [round(value, 2) for value in (box.x_min, box.y_min, box.x_max, box.y_max)]


def _name(states: Iterable[Any], value: int) -> str:
    """A state's name; of a newer version of the message, its number."""
    return next((state.name for state in states if state.value == value), str(value))
