"""Where standing queries come from: the parameter's strings and the names that the node gives."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from llava_st_ros.errors import QueryError
from llava_st_ros.records import Query
from llava_st_ros.ros.conversions import box_of_fractions, span_of_fractions, task_named

_KEYS = ("id", "text", "task", "cameras", "period", "expiry", "span", "box")


def free_id(taken: Collection[str]) -> str:
    """The first of q1, q2, ... that names no query yet."""
    number = 1
    while f"q{number}" in taken:
        number += 1
    return f"q{number}"


def check_cameras(query: Query, cameras: Collection[str]) -> None:
    """Raise QueryError where a query is for a camera that the node does not have."""
    for camera in query.cameras:
        if camera not in cameras:
            raise QueryError(f"camera {camera!r}; expected one of {', '.join(cameras)}")


def parse_queries(entries: Iterable[str], default_period: float) -> tuple[Query, ...]:
    """The parameter ``queries``: plain words (STVG) or JSON objects -> queries with ids.

    Blank entries are passed over. Raises QueryError naming the entry that cannot be read.
    """
    queries: list[Query] = []
    for entry in filter(None, (entry.strip() for entry in entries)):
        values = _object(entry) if entry.startswith("{") else {"text": entry}
        query_id = _typed(values, "id", str, "") or free_id([q.id for q in queries])
        if query_id in (query.id for query in queries):
            raise QueryError(f"two queries {query_id!r}; expected an id for each")
        queries.append(_query(values, query_id, default_period))
    return tuple(queries)


def _object(entry: str) -> dict[str, Any]:
    try:
        values = json.loads(entry)
    except (ValueError, RecursionError) as error:
        raise QueryError(f"query {entry!r}: {error}; expected JSON") from error
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise QueryError(
            f"{', '.join(unknown)} in query {entry!r}; expected keys {', '.join(_KEYS)}"
        )
    return values


def _query(values: dict[str, Any], query_id: str, default_period: float) -> Query:
    numbers = _sequence(values, "box", (int, float))
    expiry = _typed(values, "expiry", (int, float), None)
    return Query(
        id=query_id,
        text=_typed(values, "text", str, ""),
        task=task_named(_typed(values, "task", str, "")),
        cameras=tuple(_sequence(values, "cameras", str)),
        period=float(_typed(values, "period", (int, float), default_period)),
        expiry=None if expiry is None else float(expiry),
        span=span_of_fractions(_sequence(values, "span", (int, float))),
        box=box_of_fractions(numbers) if numbers else None,
    )


def _typed(values: dict[str, Any], key: str, kind: Any, default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind):
        raise QueryError(f"{key} {value!r} in a query; expected {_words(kind)}")
    return value


def _sequence(values: dict[str, Any], key: str, kind: Any) -> list[Any]:
    value = values.get(key)
    items = [] if value is None else value
    good = isinstance(items, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in items
    )
    if not good:
        raise QueryError(f"{key} {value!r} in a query; expected a list of {_words(kind)}")
    return items


def _words(kind: Any) -> str:
    return "text" if kind is str else "a number"
