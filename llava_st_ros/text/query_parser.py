"""Queries as people write them: plain words, JSON objects, and the values in them.

One parser for the node's parameter ``queries`` and for ``llava-st ground``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from llava_st_ros.errors import QueryError, shown
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.records import UNNAMED, Box, Query, Task
from llava_st_ros.text.tasks import question_from_query

Entry = str | Mapping[str, Any]  # plain words, a JSON object as text, or its values

_KEYS = ("id", "text", "task", "cameras", "period", "expiry", "span", "box")


def parse_queries(
    entries: Iterable[Entry],
    default_period: float,
    check: Callable[[Query], None] = lambda query: None,
    places: Sequence[str] = (),
) -> tuple[Query, ...]:
    """Read a list of queries.

    Args:
        entries: Each either plain words, a JSON object as text, or the values of one. Blank texts
            are skipped.
        default_period: Seconds, for an entry without a period.
        check: Raises QueryError for a query that the caller does not accept.
        places: Where each entry is written, for messages; ``entry 1`` and so on if omitted.

    Raises:
        QueryError: An entry cannot be read or accepted, lacks what its task needs, or has the id of
            another. All problems are in the message.
    """
    queries: list[Query] = []
    problems: list[str] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, str) and not entry.strip():
            continue
        try:
            query = _parse_entry(entry, [q.id for q in queries], default_period)
            question_from_query(query)  # raises if an input that the task needs is missing
            check(query)
        except QueryError as error:
            place = places[index] if places else f"entry {index + 1}"
            problems.append(f"{place}: {error}")
        else:
            queries.append(query)
    if problems:
        raise QueryError("; ".join(problems))
    return tuple(queries)


def entry_values(entry: Entry) -> dict[str, Any]:
    """Return the values of an entry by key, for example "text".

    Raises:
        QueryError: It is no valid JSON object, or has an unknown key.
    """
    if isinstance(entry, str):
        text = entry.strip()
        if not text.startswith("{"):
            return {"text": text}
        values: dict[str, Any] = parse_json(
            text, f"query {shown(text)}", QueryError, "expected plain words or a JSON object"
        )
    else:
        values = dict(entry)
    if unknown := sorted(set(map(str, values)) - set(_KEYS)):
        raise QueryError(
            f"the query has unknown keys: {', '.join(unknown)}; expected keys of {', '.join(_KEYS)}"
        )
    return values


def _parse_entry(entry: Entry, used_ids: Collection[str], default_period: float) -> Query:
    values = entry_values(entry)
    query_id = _value(values, "id", str, "") or next_query_id(used_ids)
    if query_id in used_ids:
        raise QueryError(f"two queries have the id {query_id!r}", "give each its own id")
    return _query(values, query_id, default_period)


def next_query_id(used_ids: Collection[str]) -> str:
    """Return the first of q1, q2, ... that is not in ``used_ids``."""
    number = 1
    while f"q{number}" in used_ids:
        number += 1
    return f"q{number}"


def parse_task(name: str) -> Task:
    """Return the task of a name in any case; UNNAMED if it is blank. Raises QueryError."""
    return Task.parse(name) if name.strip() else UNNAMED


def parse_span(values: Sequence[float]) -> tuple[float, float] | None:
    """Convert [] to None, [start] to (start, 1.0) and [start, end] to a pair.

    Raises:
        QueryError: There are more than two values.
    """
    if not len(values):
        return None
    if len(values) > 2:
        raise QueryError(f"span has {len(values)} values; expected start, or start and end")
    return values[0], values[1] if len(values) > 1 else 1.0


def parse_box(values: Sequence[float]) -> Box:
    """Convert [x1, y1, x2, y2] to a box. Raises QueryError for another number of values."""
    if len(values) != 4:
        raise QueryError(f"box has {len(values)} values; expected x1, y1, x2, y2")
    return Box(*values)


def _query(values: dict[str, Any], query_id: str, default_period: float) -> Query:
    box = _list(values, "box", (int, float))
    return Query(
        id=query_id,
        text=_value(values, "text", str, ""),
        task=parse_task(_value(values, "task", str, "")),
        cameras=tuple(_list(values, "cameras", str)),
        period=_value(values, "period", (int, float), default_period),
        expiry=_value(values, "expiry", (int, float), None),
        span=parse_span(_list(values, "span", (int, float))),
        box=parse_box(box) if box else None,
    )


def _value(values: dict[str, Any], key: str, kind: Any, default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind):
        raise QueryError(f"the query's {key} is {shown(value)}; expected a {_kind_name(kind)}")
    return value


def _list(values: dict[str, Any], key: str, kind: Any) -> list[Any]:
    value = values.get(key)
    items = [] if value is None else value
    is_valid = isinstance(items, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in items
    )
    if not is_valid:
        raise QueryError(
            f"the query's {key} is {shown(value)}; expected a list of {_kind_name(kind)}s"
        )
    return items


def _kind_name(kind: Any) -> str:
    return "string" if kind is str else "number"
