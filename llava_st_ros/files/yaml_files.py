"""YAML files, bounded in size, depth, aliases and numbers.

PyYAML parses the file into events; values are made from the events here, with the core schema of
YAML 1.2. PyYAML's own constructors are not used: they recurse with the file's nesting, raise errors
of many types (``!!int x``, impossible dates), keep the last of two equal keys, and follow YAML 1.1,
where ``no`` is false, ``1:30`` is 90, ``010`` is 8 and ``1e-4`` is text. Here these are the texts
"no", "1:30" and "010" and the number 0.0001; a date is a text too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.files.limits import DEPTH, NUMBER_DIGITS, YAML_BYTES, YAML_NODES
from llava_st_ros.files.raw import decode, read_bytes

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same events, in C where built in
_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|(0|[1-9][0-9]*)[eE][-+]?[0-9]+)"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|nan)", re.IGNORECASE)


class YamlList(list[Any]):
    """A list of a YAML file.

    Attributes:
        lines: The line of the file on which each entry starts, from 1; that of an alias is where
            it is used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


class _InvalidError(Exception):
    """What is wrong with the content, and where."""

    def __init__(self, mark: yaml.Mark, problem: str) -> None:
        super().__init__(f"line {mark.line + 1}, column {mark.column + 1}: {problem}")


@dataclass
class _Node:
    """A list or mapping that is being read.

    Attributes:
        value: The list or dict; a dict's keys and values arrive by turns.
        mark: Where it starts.
        anchor: Its name for aliases, if any.
        size: The scalars and collections in it so far, itself included.
        key: The key whose value comes next, in a list of one; empty if a key comes next.
        merged: The mappings of the key ``<<``: the keys of the mapping itself take precedence.
    """

    value: YamlList | dict[str, Any]
    mark: yaml.Mark
    anchor: str | None
    size: int = 1
    key: list[str] = field(default_factory=list)
    merged: list[dict[str, Any]] = field(default_factory=list)


def read_yaml(
    path: Path,
    error: type[LlavaStError],
    remedy: str = "",
    *,
    nan: bool = False,
    max_bytes: int = YAML_BYTES,
) -> Any:
    """Read a YAML file with one document of null, booleans, numbers, text, lists and mappings.

    Args:
        path: The file, in UTF-8 (with or without a byte order mark) or UTF-16.
        error: The class of the error to raise.
        remedy: What the user can do about a file that cannot be read.
        nan: Whether .nan, .inf and numbers that overflow are accepted, as floats.
        max_bytes: The largest accepted size.

    Returns:
        The document's value; None for an empty file. The keys of mappings are text, and lists are
        YamlLists.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, is too large or nested too deeply, is
            not YAML, repeats a key, has a key that is not text, or uses other tags.
    """
    text = decode(read_bytes(path, error, remedy, max_bytes=max_bytes), str(path), error, remedy)
    return parse_yaml(text, str(path), error, remedy, nan=nan)


def parse_yaml(
    text: str, name: str, error: type[LlavaStError], remedy: str = "", *, nan: bool = False
) -> Any:
    """Parse YAML text as ``read_yaml`` does; ``name`` says in the error what it is."""
    try:
        return _Reader(nan).read(text)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = problem.problem or problem.context or "it cannot be parsed"
        raise error(f"{name} is not valid YAML: {where}{what}", remedy) from problem
    except (yaml.YAMLError, _InvalidError, ValueError, RecursionError) as problem:
        raise error(f"{name} is not valid YAML: {reason_of(problem)}", remedy) from problem


class _Reader:
    """Makes the value of a document from PyYAML's events, without recursion."""

    def __init__(self, nan: bool) -> None:
        self._nan = nan
        self._open: list[_Node] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # value, size; no value while it is open
        self._size = 0
        self._documents: list[Any] = []

    def read(self, text: str) -> Any:
        """Return the document's value. Raises _InvalidError and yaml.YAMLError."""
        for event in yaml.parse(text, Loader=_PARSER):
            if isinstance(event, yaml.DocumentStartEvent) and self._documents:
                raise _InvalidError(event.start_mark, "a second document starts; expected one")
            if isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
        return self._documents[0] if self._documents else None

    def _node(self, event: yaml.NodeEvent) -> None:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _InvalidError(
                    event.start_mark, f"*{event.anchor} refers to nothing before it, or to itself"
                )
            value, size = self._anchors[event.anchor]
            self._add(value, size, event)
        elif isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = (value, 1)
            self._add(value, 1, event)
        else:
            self._start(event)

    def _start(self, event: Any) -> None:
        is_list = isinstance(event, yaml.SequenceStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'seq' if is_list else 'map'}"):
            raise _InvalidError(event.start_mark, f"tag {event.tag} is not supported")
        if len(self._open) >= DEPTH:
            raise _InvalidError(
                event.start_mark, f"lists and mappings are nested more than {DEPTH} deep"
            )
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)
        self._open.append(_Node(YamlList() if is_list else {}, event.start_mark, event.anchor))

    def _close(self) -> None:
        node = self._open.pop()
        if node.merged:
            merged: dict[str, Any] = {}
            for mapping in reversed(node.merged):
                merged |= mapping
            assert isinstance(node.value, dict)
            node.value = merged | node.value
        if node.anchor is not None:
            self._anchors[node.anchor] = (node.value, node.size)
        self._add(node.value, node.size, node)

    def _add(self, value: Any, size: int, where: Any) -> None:
        """Add a complete value to the collection that is open."""
        mark = where.mark if isinstance(where, _Node) else where.start_mark
        if not self._open:
            self._documents.append(value)
            return
        parent = self._open[-1]
        parent.size += size
        if parent.size > YAML_NODES:
            raise _InvalidError(
                mark, f"more than {YAML_NODES} values, with those that aliases repeat"
            )
        if isinstance(parent.value, YamlList):
            parent.value.append(value)
            parent.value.lines.append(mark.line + 1)
        elif not parent.key:
            parent.key.append(self._key(value, mark, parent.value))
        elif (key := parent.key.pop()) == _MERGE:
            self._merge(parent, value, mark)
        else:
            parent.value[key] = value

    def _key(self, value: Any, mark: yaml.Mark, mapping: dict[str, Any]) -> str:
        if isinstance(value, _MergeKey):
            return _MERGE
        if not isinstance(value, str):
            shown = "a collection" if isinstance(value, (dict, list)) else repr(value)
            raise _InvalidError(mark, f"key {shown} is not text; write it in quotes")
        if value in mapping:
            raise _InvalidError(mark, f"key {value[:80]!r} is repeated")
        return value

    def _expects_key(self) -> bool:
        return (
            bool(self._open) and isinstance(self._open[-1].value, dict) and not self._open[-1].key
        )

    def _merge(self, parent: _Node, value: Any, mark: yaml.Mark) -> None:
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise _InvalidError(mark, "<< expects a mapping or a list of mappings")
        parent.merged += mappings

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        tag, text = event.tag, event.value
        if tag in ("!", f"{_TAG}str") or (tag is None and not event.implicit[0]):
            return text
        if tag is not None and tag not in {f"{_TAG}{name}" for name in _TYPES}:
            raise _InvalidError(event.start_mark, f"tag {tag} is not supported")
        if tag is None and text == "<<" and self._expects_key():
            return _MergeKey()
        value = self._resolve(text, event)
        if tag is not None:
            expected = _TYPES[tag.removeprefix(_TAG)]
            if expected is float and type(value) is int:
                value = float(value)
            if type(value) is not expected:
                raise _InvalidError(
                    event.start_mark, f"{text[:80]!r} is not a value of {tag.removeprefix(_TAG)}"
                )
        return value

    def _resolve(self, text: str, event: yaml.ScalarEvent) -> Any:
        """The value of an unquoted scalar."""
        if _NULL.fullmatch(text):
            return None
        if match := _BOOL.fullmatch(text):
            return match[1] is not None
        if _INT.fullmatch(text):
            if len(text) <= NUMBER_DIGITS:
                return int(text)
            raise _InvalidError(
                event.start_mark,
                f"a number has {len(text)} digits; at most {NUMBER_DIGITS} are accepted",
            )
        if _FLOAT.fullmatch(text):
            match = _NOT_FINITE.fullmatch(text)
            value = float(match[1] + match[2]) if match else float(text)
            if not math.isfinite(value) and not self._nan:
                raise _InvalidError(event.start_mark, f"{text[:40]} is not a finite number")
            return value
        return text


class _MergeKey:
    """The unquoted key ``<<``."""


_MERGE = "\0merge"  # cannot be a key of a file: YAML has no NUL
_TYPES = {"null": type(None), "bool": bool, "int": int, "float": float}
