"""Where parameters come from: the parameter files and ``-p`` rules of a command line.

rcl reads these too, and its result decides. Three things it does not tell are read here: where a
value was written, how it was written (YAML turns ``010`` and ``null`` into something else), and
which value came last. rcl keeps one value per type of a parameter and returns the first type:
``default_period: 1`` in a file wins over a later ``0.5``, and an empty list never replaces another
(``rcl_yaml_param_parser/src/parse.c``, parse_value).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from llava_st_ros.errors import ConfigError
from llava_st_ros.files.limits import DEPTH, YAML_BYTES
from llava_st_ros.files.raw import read_text

ROS_ARGS, ROS_ARGS_END = "--ros-args", "--"
FILE_FLAG, RULE_FLAGS = "--params-file", ("-p", "--param")

_TRUE = ("Y", "y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")
_FALSE = ("N", "n", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
_NULL_TAG = "tag:yaml.org,2002:null"
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\.?(inf|nan)(inity)?", re.I)


@dataclass(frozen=True)
class Assignment:
    """One place where a parameter is set.

    Attributes:
        name: The parameter.
        node: Pattern of the nodes that it is for, such as ``/**`` or ``/robot/grounding``.
        origin: The file or the rule.
        is_shared: Whether it is for any node: a file's section with a wildcard.
        text: The value as it was written.
        value: The value as rcl reads it: a scalar, or a list of scalars.
        has_null: Whether the value is, or contains, YAML's null, which rcl reads as text.
        has_collections: Whether the value is a list of lists or maps, which rcl cannot represent.
    """

    name: str
    node: str
    origin: str
    is_shared: bool
    text: str
    value: Any
    has_null: bool = False
    has_collections: bool = False

    def is_for(self, node_name: str) -> bool:
        """Whether it applies to a node, by rclpy's rule. The name is fully qualified."""
        pattern = re.escape(self.node).replace(re.escape("/*"), r"(/\w+)").replace(r"\*", "*")
        return re.fullmatch(pattern, node_name) is not None


@dataclass(frozen=True)
class ParameterSources:
    """All assignments of a command line, in its order.

    Attributes:
        assignments: The assignments.
        files: The parameter files.
    """

    assignments: tuple[Assignment, ...] = ()
    files: tuple[str, ...] = ()

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> ParameterSources:
        """Read the files and rules of a command line.

        Raises:
            ConfigError: A file cannot be read, or is not valid YAML.
        """
        assignments: list[Assignment] = []
        files: list[str] = []
        for flag, value in _ros_arguments(arguments):
            if flag == FILE_FLAG and value:
                files.append(value)
                assignments += _read_file(value)
            elif flag in RULE_FLAGS:
                assignments += _read_rule(value)
        return cls(tuple(assignments), tuple(files))

    def check_values(self) -> None:
        """Name the values that rcl rejects for all nodes, in words that say what to write.

        Raises:
            ConfigError: A value is missing or nested, or a list has entries of several types.
        """
        for each in self.assignments:
            if not each.text:
                raise ConfigError(f"{each.name} has no value in {each.origin}")
            if isinstance(each.value, list) and len({type(item) for item in each.value}) > 1:
                raise ConfigError(
                    f"{each.name} is {each.text} in {each.origin}, a list with entries of several "
                    "types",
                    "quote each entry that is a string",
                )
        for each in self.assignments:
            if each.has_collections:
                raise ConfigError(nested_yaml(each.name))

    def effective(self, node_name: str) -> dict[str, Assignment]:
        """Return the assignment of each parameter that counts for a node, by name.

        The last one for the same pattern of nodes, and that of the last pattern: patterns are in
        the order of their first use, as in rclpy.
        """
        patterns: dict[str, dict[str, Assignment]] = {}
        for assignment in self.assignments:
            if assignment.is_for(node_name):
                patterns.setdefault(assignment.node, {})[assignment.name] = assignment
        return {name: last for names in patterns.values() for name, last in names.items()}

    def repeated(self, node_name: str) -> list[str]:
        """Return the parameters that one section sets twice, of which rcl reports nothing."""
        counts = Counter(
            (a.name, a.node, a.origin) for a in self.assignments if a.is_for(node_name)
        )
        return sorted(f"{name} in {origin}" for (name, _, origin), n in counts.items() if n > 1)

    def files_without(self, node_name: str) -> dict[str, list[str]]:
        """Return the files that set nothing for a node, and the nodes for which they do."""
        return {
            path: sorted({a.node for a in self.assignments if a.origin == path})
            for path in self.files
            if not any(a.origin == path and a.is_for(node_name) for a in self.assignments)
        }


def nested_yaml(name: str) -> str:
    """Return the message about a parameter whose value is a map, or a list of lists or maps."""
    problem = f"{name} has nested YAML, which ROS parameters cannot have"
    if name.partition(".")[0] != "queries":
        return f"{problem}; put text in quotes that contains ': ', or begins with a bracket"
    return (
        f"""{problem}; write each entry as a quoted string, also '{{"id": "a", "text": "the red """
        """box"}', or write queries as mappings into a file that queries_file names"""
    )


NO_SOURCES = ParameterSources()


def _ros_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    is_ros, remaining = False, iter(arguments)
    for argument in remaining:
        if argument == ROS_ARGS:
            is_ros = True
        elif argument == ROS_ARGS_END:
            is_ros = False
        elif is_ros and argument in (FILE_FLAG, *RULE_FLAGS):
            yield argument, next(remaining, "")


def _read_file(path: str) -> Iterator[Assignment]:
    file = Path(path)
    if file.exists() and not file.is_file() and not file.is_dir():
        return  # a pipe, which rcl has read
    text = read_text(file, ConfigError, max_bytes=YAML_BYTES)
    what = f"the parameter file {path!r}"
    for root in _compose(text, what):
        for node, section in _sections(root, what):
            yield from _section(section, text, node, path, is_shared="*" in node)


def _read_rule(rule: str) -> Iterator[Assignment]:
    left, separator, value = rule.partition(":=")
    if not separator:
        return  # rcl rejects it
    node, _, name = left.rpartition(":")
    node, origin = _absolute(node) if node else "/**", f"-p {rule}"
    if not value.strip():
        yield Assignment(name, node, origin, is_shared=False, text="", value=None)
    for root in _compose(value, f"the parameter rule {rule!r}"):
        for assignment in _assignments(name, root, value, node, origin, is_shared=False):
            is_map = assignment.name != name  # rcl accepts a map in a file only
            yield replace(assignment, name=name, has_collections=True) if is_map else assignment


class _Loader(yaml.SafeLoader):
    """Composes what rcl reads: no aliases, which it rejects, and nesting up to DEPTH.

    Aliases would also let a small file have any number of values, or contain itself.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = f"the alias *{event.anchor}, which ROS parameter files cannot have"
        elif self._depth >= DEPTH:
            problem = f"lists and mappings nested more than {DEPTH} deep"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _compose(text: str, what: str) -> list[yaml.Node]:
    try:
        return list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{what} is not valid YAML{where}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not valid YAML: {error}") from error


def _sections(
    root: yaml.Node, what: str, prefix: str = ""
) -> Iterator[tuple[str, yaml.MappingNode]]:
    """Find the sections ``ros__parameters`` below names of nodes, which may be nested."""
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise ConfigError(
            f"{what} has a value outside of a section, line {line}",
            "expected a node's name, below it ros__parameters:, and below that the parameters",
        )
    for key, value in root.value:
        if key.value == "ros__parameters" and isinstance(value, yaml.MappingNode):
            yield _absolute(prefix), value
        else:
            yield from _sections(value, what, f"{prefix.rstrip('/')}/{str(key.value).lstrip('/')}")


def _absolute(node: str) -> str:
    return node if node.startswith("/") else "/" + node


def _section(
    section: yaml.MappingNode, text: str, node: str, origin: str, is_shared: bool
) -> Iterator[Assignment]:
    for key, value in section.value:
        yield from _assignments(str(key.value), value, text, node, origin, is_shared)


def _assignments(
    name: str, value: yaml.Node, text: str, node: str, origin: str, is_shared: bool
) -> Iterator[Assignment]:
    if isinstance(value, yaml.MappingNode) and value.value:
        for key, inner in value.value:
            yield from _assignments(f"{name}.{key.value}", inner, text, node, origin, is_shared)
        return
    is_scalar = isinstance(value, yaml.ScalarNode)
    items = [value] if is_scalar else value.value
    scalars = [item for item in items if isinstance(item, yaml.ScalarNode)]
    values = [_scalar(item, _written(item, text)) for item in scalars]
    yield Assignment(
        name,
        node,
        origin,
        is_shared,
        _written(value, text),
        values[0] if is_scalar else values,
        has_null=any(item.tag == _NULL_TAG for item in scalars),
        has_collections=len(scalars) < len(items),
    )


def _written(node: yaml.Node, text: str) -> str:
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())


def _scalar(node: yaml.ScalarNode, written: str) -> bool | int | float | str:
    """The value that rcl gives a scalar (parse.c, get_value)."""
    text = str(node.value)
    if node.style in ("'", '"') or written.startswith("!"):
        return text
    if text in (*_TRUE, *_FALSE):
        return text in _TRUE
    integer = _integer(text)
    if integer is not None and -(2**63) <= integer < 2**63:
        return integer
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text.replace(".i", "i").replace(".I", "I").replace(".n", "n").replace(".N", "N"))
    return text if math.isinf(number) and "inf" not in text.lower() else number


def _integer(text: str) -> int | None:
    """C's strtoll with base 0: a leading 0 is octal."""
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    try:
        if re.fullmatch(r"0[xX][0-9a-fA-F]+", digits):
            return sign * int(digits, 16)
        if re.fullmatch(r"0[0-7]*", digits):
            return sign * int(digits, 8)
        return sign * int(digits) if re.fullmatch(r"[1-9][0-9]*", digits) else None
    except ValueError:  # more digits than Python converts
        return None
