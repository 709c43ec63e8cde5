"""Queries from messages, and the node's own rules.

Ranges and types are checked by ``records.Query``. The rules here need the node's parameters: the
default period, the known cameras and the ids.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from llava_st_ros import msg
from llava_st_ros.errors import QueryError, shown
from llava_st_ros.records import Query
from llava_st_ros.ros.conversions import query_from_msg
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.text.query_files import read_query_file
from llava_st_ros.text.query_parser import Entry, next_query_id, parse_queries


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


def check_cameras(query: Query, camera_names: Collection[str]) -> None:
    """Raise QueryError if the query names a camera that the node does not have."""
    for camera in query.cameras:
        check_camera(camera, camera_names)


def check_camera(camera: str, camera_names: Collection[str]) -> None:
    """Raise QueryError if the node does not have the camera."""
    if camera not in camera_names:
        expected = f"expected one of {', '.join(camera_names)}" if camera_names else "there is none"
        raise QueryError(f"camera {camera!r} is unknown; {expected}")


def parameter_queries(parameters: NodeParameters) -> tuple[Query, ...]:
    """Return the standing queries of the parameters ``queries`` and ``queries_file``.

    Raises:
        QueryError: The file cannot be read, or an entry is not valid or names an unknown camera.
            All problems of entries are in the message.
    """
    entries: list[Entry] = list(parameters.queries)
    places = [f"queries: entry {number}" for number in range(1, len(entries) + 1)]
    if parameters.queries_file:
        try:
            file = read_query_file(Path(parameters.queries_file).expanduser())
        except QueryError as error:
            raise QueryError(f"queries_file: {error.problem}", error.remedy) from error
        entries += file.entries
        places += [f"queries_file: {place}" for place in file.places]

    def check(query: Query) -> None:
        check_cameras(query, parameters.camera_names)

    return parse_queries(entries, parameters.default_period, check, places)


def describe_added(query: Query) -> str:
    """Return the log line about a query that was added."""
    note = f"; {query.note}" if query.note else ""
    return f"added query {query.id!r}: {query.task.value} {shown(query.text)}{note}"
