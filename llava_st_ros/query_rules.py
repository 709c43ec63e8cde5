"""What makes the values of a query valid. ``records.Query`` applies this to every query.

The bounds keep every later calculation finite: a period or expiry in nanoseconds is an integer
below 2**55, and texts and ids can be sent in a message and written to a log.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from numbers import Real
from typing import Any

from llava_st_ros.errors import QueryError, shown

MAX_QUERY_CHARACTERS = 2000
MAX_NAME_CHARACTERS = 200  # of an id or a camera's name
MAX_CAMERAS = 100
MIN_PERIOD, MAX_PERIOD = 0.01, 86_400.0  # seconds; a day
MIN_EXPIRY, MAX_EXPIRY = 0.01, 31_622_400.0  # seconds; 366 days
_NO_VALUE = ("null", "~")  # YAML's spellings of "no value", which arrive as text


def checked_text(text: Any) -> str:
    """Return the words of a query.

    Raises:
        QueryError: They are not text, too long, or cannot be sent in a message.
    """
    if not isinstance(text, str):
        raise QueryError(f"the query's text is a {type(text).__name__}; expected a str")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise QueryError(
            f"the query has {len(text)} characters; expected at most {MAX_QUERY_CHARACTERS}"
        )
    if bad := next((c for c in text if c == "\0" or unicodedata.category(c) == "Cs"), None):
        raise QueryError(
            f"the query's text contains U+{ord(bad):04X}, which cannot be sent in a message; "
            "expected words"
        )
    return text


def checked_name(kind: str, name: Any) -> str:
    """Return an id or a camera's name; an empty one is not checked further.

    Args:
        kind: What it names, for the message.
        name: The name.

    Raises:
        QueryError: It is not text, blank, too long, not printable, or means "no value" in YAML.
    """
    if not isinstance(name, str):
        raise QueryError(f"{kind} is {shown(name)}; expected a str")
    if len(name) > MAX_NAME_CHARACTERS:
        raise QueryError(
            f"{kind} has {len(name)} characters; expected at most {MAX_NAME_CHARACTERS}"
        )
    if bad := next((c for c in name if not c.isprintable()), None):
        raise QueryError(
            f"{kind} {name!r} contains U+{ord(bad):04X}, which is not printable; "
            "expected printable text"
        )
    if name and not name.strip():
        raise QueryError(f"{kind} is blank; expected a name")
    if name.strip().lower() in _NO_VALUE:
        raise QueryError(
            f"{kind} is {name!r}, which YAML and JSON write for no value; expected another name",
            "leave it out to have one chosen",
        )
    return name


def checked_cameras(cameras: Any) -> tuple[str, ...]:
    """Return the names of a query's cameras, without duplicates. Raises QueryError."""
    if isinstance(cameras, str) or not isinstance(cameras, Iterable):
        raise QueryError(f"the query's cameras are {shown(cameras)}; expected a list of names")
    names = tuple(dict.fromkeys(checked_name("a camera of the query", name) for name in cameras))
    if "" in names:
        raise QueryError("a camera of the query has an empty name; expected the name of a camera")
    if len(names) > MAX_CAMERAS:
        raise QueryError(f"the query has {len(names)} cameras; expected at most {MAX_CAMERAS}")
    return names


def checked_seconds(name: str, value: Any, low: float, high: float) -> float:
    """Return a number of seconds in [low, high] as a float. Raises QueryError."""
    seconds = as_float(value)
    if seconds is None or not low <= seconds <= high:  # false for NaN, too
        raise QueryError(f"{name} is {shown(value)}; expected {low:g} to {high:.0f} s")
    return seconds


def as_float(value: Any) -> float | None:
    """Convert a number of any type to a float; None if it is none or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None
