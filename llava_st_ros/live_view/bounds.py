"""Values of messages, bounded to what the page shows.

A message may have texts and lists of any length, and any number; they are bounded when they arrive,
so that what a page is sent and draws is bounded, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llava_st_ros.query_rules import MAX_CAMERAS, MAX_NAME_CHARACTERS, MAX_QUERY_CHARACTERS

MAX_TEXT, MAX_NAME = MAX_QUERY_CHARACTERS, MAX_NAME_CHARACTERS  # valid queries are not cut
MAX_ITEMS = MAX_CAMERAS  # of a list of texts or numbers
MAX_TRACKS = 100  # of a camera
MAX_QUERIES = 100
_NAMES = frozenset(("id", "query_id", "camera", "cameras", "task"))  # keys
_MARK_CHARACTERS = 32  # at most, for any length of a message


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """The text, or its beginning and the number of characters that are left out."""
    if len(text) <= limit:
        return text
    kept = limit - _MARK_CHARACTERS
    return f"{text[:kept]}… ({len(text) - kept} more characters)"


def bounded(value: Any, limit: int = MAX_TEXT) -> Any:
    """A value as JSON has them: bounded texts and lists, None for NaN and infinity.

    Args:
        value: Mappings, lists, texts, numbers.
        limit: Characters of a text; names in mappings have at most MAX_NAME.
    """
    if isinstance(value, str):
        return cut(value, limit)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            key: bounded(item, MAX_NAME if key in _NAMES else limit) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [bounded(item, limit) for item in value[:MAX_ITEMS]]
        more = len(value) - len(items)
        return [*items, f"… ({more} more)"] if more else items
    return value


def bounded_tracks(tracks: Mapping[str, Any]) -> dict[str, Any]:
    """Tracks as ``result_values.tracks_values``, and the number that is left out: ``hidden``."""
    entries: Sequence[Any] = tracks["tracks"]
    shown = bounded({key: value for key, value in tracks.items() if key != "tracks"})
    shown["tracks"] = [bounded(track) for track in entries[:MAX_TRACKS]]
    return {**shown, "hidden": max(0, len(entries) - MAX_TRACKS)}
