"""Files of queries: a list in JSON or YAML, or the node's parameter file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.errors import QueryError, shown
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.yaml_files import YamlList, read_yaml
from llava_st_ros.text.query_parser import entry_values


@dataclass(frozen=True)
class QueryFile:
    """The content of a file of queries.

    Attributes:
        entries: The queries, for ``parse_queries``: the values of each, by key.
        places: Where each is written, for messages: ``FILE, line 3`` in YAML, ``FILE, entry 2`` in
            JSON.
    """

    entries: list[dict[str, Any]]
    places: list[str]


def read_query_file(path: Path) -> QueryFile:
    """Read a file of queries.

    Args:
        path: A file in JSON (suffix .json) or YAML: a list, a mapping with the list as ``queries``,
            or a ROS parameter file with the node's parameter ``queries``. An entry is plain words,
            a JSON object as text, or a mapping with the keys of a query.

    Raises:
        QueryError: The file cannot be read or has no list of queries, an entry is neither text nor
            a mapping, or it has an unknown key.
    """
    remedy = "write a list of queries, each plain words or a mapping with text, task and so on"
    if path.suffix.lower() == ".json":
        content = read_json(path, QueryError, remedy, expected=None)
    else:
        content = read_yaml(path, QueryError, remedy)
    lists = _lists(content)
    if len(lists) > 1:
        raise QueryError(
            f"{path} has {len(lists)} lists of queries, of several nodes; expected one",
            "write the queries of one node into a file of their own",
        )
    entries = lists[0] if lists else None
    if not isinstance(entries, list):
        raise QueryError(f"{path} has no list of queries; it has {shown(content)}", remedy)
    if isinstance(entries, YamlList):
        places = [f"{path}, line {line}" for line in entries.lines]
    else:
        places = [f"{path}, entry {number}" for number in range(1, len(entries) + 1)]
    values = []
    for entry, place in zip(entries, places):
        if not isinstance(entry, (str, Mapping)):
            raise QueryError(
                f"{place}: the entry is {shown(entry)}; expected words or a mapping",
                "put words that YAML reads as another value in quotes",
            )
        try:
            values.append(entry_values(entry))
        except QueryError as error:
            is_sentence = isinstance(entry, Mapping) and "text" not in entry
            quotes = "put words that contain ': ' in quotes" if is_sentence else ""
            raise QueryError(f"{place}: {error.problem}", error.remedy or quotes) from error
    return QueryFile(values, places)


def _lists(content: Any) -> list[Any]:
    """The values that a file's content has for the list of queries; one if it is clear."""
    if not isinstance(content, Mapping):
        return [content]
    if "queries" in content:
        return [content["queries"]]
    # Of a ROS parameter file: node names, which may be nested as namespaces, then the parameters.
    sections = (value for value in content.values() if isinstance(value, Mapping))
    return [queries for section in sections for queries in _lists(section)]
