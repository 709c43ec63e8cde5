"""JSON files and JSON text of other processes, bounded in size, depth and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.files.limits import DEPTH, JSON_BYTES, NUMBER_DIGITS, RECORDS_BYTES
from llava_st_ros.files.raw import decode, read_bytes

_KINDS: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}


@dataclass(frozen=True)
class Invalid:
    """A value of a file of records that is not valid JSON; the other records are still read."""

    reason: str


def read_json(
    path: Path,
    error: type[LlavaStError],
    remedy: str = "",
    *,
    expected: type | None = dict,
    nan: bool = False,
    max_bytes: int = JSON_BYTES,
) -> Any:
    """Read a JSON file.

    Args:
        path: The file, in UTF-8 (with or without a byte order mark) or UTF-16.
        error: The class of the error to raise.
        remedy: What the user can do about a file that cannot be read.
        expected: The type of the file's value: dict, list, or None for any.
        nan: Whether NaN, Infinity and numbers that overflow are accepted, as floats. Python's json
            module writes them, for instance in config.json of Hugging Face; JSON has none.
        max_bytes: The largest accepted size.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, is too large or nested too deeply, is
            not JSON, repeats a key, or contains another type than ``expected``.
    """
    data = read_bytes(path, error, remedy, max_bytes=max_bytes)
    return parse_json(data, str(path), error, remedy, expected=expected, nan=nan)


def parse_json(
    text: str | bytes,
    name: str,
    error: type[LlavaStError],
    remedy: str = "",
    *,
    expected: type | None = dict,
    nan: bool = False,
) -> Any:
    """Parse JSON text as ``read_json`` does; ``name`` says in the error what it is."""
    if isinstance(text, bytes):
        text = decode(text, name, error, remedy)
    try:
        value = _load(text, nan, _unique)
    except (ValueError, RecursionError) as problem:
        raise error(f"{name} is not valid JSON: {_reason(problem)}", remedy) from problem
    if expected is not None and not isinstance(value, expected):
        raise error(
            f"{name} contains a {type(value).__name__}; expected {_KINDS[expected]}", remedy
        )
    return value


def read_values(path: Path, error: type[LlavaStError], remedy: str = "") -> list[Any]:
    """Read the values of a file of records: a JSON list, or with suffix .jsonl a value per line.

    A record that is not valid by itself (a line that is not JSON, a repeated key) is returned as
    ``Invalid``, and a number that overflows as infinity, so that one record does not make the
    others unreadable.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, or is not a JSON list.
    """
    data = read_bytes(path, error, remedy, max_bytes=RECORDS_BYTES)
    text = decode(data, str(path), error, remedy)
    if path.suffix == ".jsonl":
        return [_line(line) for line in text.split("\n") if line.strip()]
    try:
        values = _load(text, True, _marked)
    except (ValueError, RecursionError) as problem:
        raise error(
            f"cannot read {path} as a JSON list of records: {_reason(problem)}", remedy
        ) from problem
    if not isinstance(values, list):
        raise error(f"{path} is a JSON {type(values).__name__}; expected a list of records", remedy)
    return values


def read_items(path: Path, error: type[LlavaStError], remedy: str = "") -> list[tuple[str, Any]]:
    """Read the names and values of a file of records that is a JSON object.

    A name that is repeated is returned each time. Otherwise as ``read_values``: a record that is
    not valid by itself is ``Invalid``.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, or is not a JSON object.
    """
    data = read_bytes(path, error, remedy, max_bytes=RECORDS_BYTES)
    text = decode(data, str(path), error, remedy)
    latest: list[tuple[str, Any]] = []

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Invalid:
        latest[:] = pairs  # the outermost object is the last one
        return _marked(pairs)

    try:
        value = _load(text, True, remember)
    except (ValueError, RecursionError) as problem:
        raise error(
            f"cannot read {path} as a JSON object of records: {_reason(problem)}", remedy
        ) from problem
    if not isinstance(value, (dict, Invalid)):
        raise error(
            f"{path} is a JSON {type(value).__name__}; expected an object of records", remedy
        )
    return latest


def _line(line: str) -> Any:
    try:
        return _load(line, True, _marked)
    except (ValueError, RecursionError) as problem:
        return Invalid(_reason(problem))


def _load(text: str, nan: bool, pairs: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    """json.loads with bounds. Raises ValueError or RecursionError."""
    value = json.loads(
        text,
        parse_int=_any_integer if nan else _integer,
        parse_float=float if nan else _finite,
        parse_constant=float if nan else _no_constant,
        object_pairs_hook=pairs,
    )
    # The parser's own recursion limit differs between versions of Python and is far higher.
    level = [value]
    for _ in range(DEPTH + 1):
        level = list(_children(level))
        if not level:
            return value
    raise RecursionError


def _children(values: list[Any]) -> Iterator[Any]:
    """The lists and objects that are items of lists and objects."""
    for value in values:
        items = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            yield from (item for item in items if isinstance(item, (dict, list)))


def _integer(text: str) -> int:
    if len(text) > NUMBER_DIGITS:
        raise ValueError(f"a number has {len(text)} digits; at most {NUMBER_DIGITS} are accepted")
    return int(text)


def _any_integer(text: str) -> int | float:
    if len(text) <= NUMBER_DIGITS:
        return int(text)
    return -math.inf if text.startswith("-") else math.inf


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"key {_repeated(pairs)!r} is repeated")
    return values


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Invalid:
    values = dict(pairs)
    return values if len(values) == len(pairs) else Invalid(f"key {_repeated(pairs)!r} is repeated")


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name[:80]
        seen.add(name)
    return ""


def _reason(problem: Exception) -> str:
    if isinstance(problem, RecursionError):
        return f"lists and objects are nested more than {DEPTH} deep"
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg} at line {problem.lineno}, column {problem.colno}"
    return reason_of(problem)
