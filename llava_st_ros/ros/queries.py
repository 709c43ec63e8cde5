"""Queries from ROS: the strings of the parameter ``queries``, messages, and the node's own rules.

Ranges and types are checked by ``records.Query``. The rules here need the node's parameters: the
default period, the known cameras and the ids.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from llava_st_ros import msg
from llava_st_ros.errors import QueryError
from llava_st_ros.records import Query
from llava_st_ros.ros.conversions import parse_box, parse_span, parse_task, query_from_msg
from llava_st_ros.ros.parameters import NodeParameters

_KEYS = ("id", "text", "task", "cameras", "period", "expiry", "span", "box")


def make_query(
    message: msg.Query, parameters: NodeParameters, used_ids: Collection[str] = ()
) -> Query:
    """Convert a message and apply the node's rules.

    Args:
        message: The query; an empty id and a period of 0 are filled in.
        parameters: The node's parameters.
        used_ids: Ids that are not chosen for a message without one.

    Raises:
        QueryError: A value is not valid, or a camera is unknown.
    """
    query = query_from_msg(
        message, message.id or next_query_id(used_ids), parameters.default_period
    )
    check_cameras(query, parameters.camera_names)
    return query


def next_query_id(used_ids: Collection[str]) -> str:
    """Return the first of q1, q2, ... that is not in ``used_ids``."""
    number = 1
    while f"q{number}" in used_ids:
        number += 1
    return f"q{number}"


def check_cameras(query: Query, camera_names: Collection[str]) -> None:
    """Raise QueryError if the query names a camera that the node does not have."""
    for camera in query.cameras:
        check_camera(camera, camera_names)


def check_camera(camera: str, camera_names: Collection[str]) -> None:
    """Raise QueryError if the node does not have the camera."""
    if camera not in camera_names:
        raise QueryError(f"camera {camera!r} is unknown; expected one of {', '.join(camera_names)}")


def parse_queries(entries: Iterable[str], default_period: float) -> tuple[Query, ...]:
    """Read the parameter ``queries``.

    Args:
        entries: Each either plain words (task STVG) or a JSON object. Blank ones are skipped.
        default_period: Seconds, for an entry without a period.

    Raises:
        QueryError: An entry cannot be read, or two have the same id.
    """
    queries: list[Query] = []
    for entry in filter(None, (entry.strip() for entry in entries)):
        values = _parse_json(entry) if entry.startswith("{") else {"text": entry}
        query_id = _value(values, "id", str, "") or next_query_id([q.id for q in queries])
        if query_id in (query.id for query in queries):
            raise QueryError(f"two queries have the id {query_id!r}", "give each its own id")
        queries.append(_query(values, query_id, default_period))
    return tuple(queries)


def _parse_json(entry: str) -> dict[str, Any]:
    try:
        values = json.loads(entry)
    except (ValueError, RecursionError) as error:
        raise QueryError(
            f"query {entry!r} is not valid JSON ({error}); expected plain words or a JSON object"
        ) from error
    if unknown := sorted(set(values) - set(_KEYS)):
        raise QueryError(
            f"query {entry!r} has unknown keys: {', '.join(unknown)}; "
            f"expected keys of {', '.join(_KEYS)}"
        )
    return values


def _query(values: dict[str, Any], query_id: str, default_period: float) -> Query:
    box = _list(values, "box", (int, float))
    expiry = _value(values, "expiry", (int, float), None)
    return Query(
        id=query_id,
        text=_value(values, "text", str, ""),
        task=parse_task(_value(values, "task", str, "")),
        cameras=tuple(_list(values, "cameras", str)),
        period=float(_value(values, "period", (int, float), default_period)),
        expiry=None if expiry is None else float(expiry),
        span=parse_span(_list(values, "span", (int, float))),
        box=parse_box(box) if box else None,
    )


def _value(values: dict[str, Any], key: str, kind: Any, default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind):
        raise QueryError(f"the query's {key} is {value!r}; expected a {_kind_name(kind)}")
    return value


def _list(values: dict[str, Any], key: str, kind: Any) -> list[Any]:
    value = values.get(key)
    items = [] if value is None else value
    is_valid = isinstance(items, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in items
    )
    if not is_valid:
        raise QueryError(f"the query's {key} is {value!r}; expected a list of {_kind_name(kind)}s")
    return items


def _kind_name(kind: Any) -> str:
    return "string" if kind is str else "number"
