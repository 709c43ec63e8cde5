"""The values that a node was started with: read from its overrides, with every problem named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import Field
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from llava_st_ros.errors import ConfigError
from llava_st_ros.ros.parameter_sources import Assignment, ParameterSources, nested_yaml
from llava_st_ros.ros.parameter_values import is_misspelling, nearest, read_value

# Parameters of rclpy, which declares them itself, some of them later than the node's own.
_RCLPY_NAMES = ("use_sim_time", "start_type_description_service")
_RCLPY_PREFIXES = ("qos_overrides.",)


def read_overrides(
    node: Node, entries: Iterable[Field[Any]], sources: ParameterSources
) -> tuple[dict[str, Any], list[str]]:
    """Return the valid values of all given parameters that are set, by name, and the problems.

    A problem is a value of the wrong type or outside its range, or an unknown name.

    Logs a warning about unknown names that may belong to another node, about those that a file sets
    twice, and about a file without anything for this node.

    Args:
        node: The node, before it declares the parameters.
        entries: The fields of NodeParameters.
        sources: The parameter files and rules of the command line.
    """
    fields = {entry.name: entry for entry in entries}
    # There is no public way to read overrides that are not declared. The attribute has this name
    # and content in Humble, Jazzy and Rolling.
    overrides: Mapping[str, Parameter] = node._parameter_overrides
    node_name = node.get_fully_qualified_name()
    assignments = sources.effective(node_name)
    problems: list[str] = []
    values: dict[str, Any] = {}
    foreign: list[str] = []
    for name, parameter in overrides.items():
        assignment = assignments.get(name)
        if name in fields:
            try:
                values[name] = _read(fields[name], parameter, assignment)
            except ConfigError as error:
                problems.append(str(error))
        elif not _is_rclpy(node, name):
            problem, is_ours = _unknown(name, assignment, fields)
            (problems if is_ours else foreign).append(problem)
    if foreign:
        node.get_logger().warning(f"ignored parameters: {'; '.join(foreign)}")
    if repeated := sources.repeated(node_name):
        node.get_logger().warning(f"set twice, the last value counts: {', '.join(repeated)}")
    for path, nodes in sources.files_without(node_name).items():
        node.get_logger().warning(
            f"the parameter file {path!r} sets nothing for {node_name}; it has sections for "
            f"{', '.join(nodes) or 'no node'}"
        )
    return values, problems


def _read(entry: Field[Any], parameter: Parameter, assignment: Assignment | None) -> Any:
    if assignment is None:
        return read_value(entry, parameter.value)
    if problem := _misread(entry, assignment):
        raise ConfigError(problem)
    is_same_kind = _is_same_kind(parameter.value, assignment.value)
    value = parameter.value if is_same_kind else assignment.value
    return read_value(entry, value, assignment.text)


def _misread(entry: Field[Any], assignment: Assignment) -> str:
    """Explain a value that rcl reads as something else; empty if there is nothing to explain."""
    name, written = entry.name, assignment.text
    is_number = isinstance(entry.default, (int, float))
    if assignment.has_collections:
        return nested_yaml(name)
    if assignment.has_null:
        return (
            f"{name} has a null, written {written}; write it in quotes if it is a word, else leave "
            "it out"
        )
    texts = assignment.value if isinstance(assignment.value, list) else [assignment.value]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        return f"{name} has a NUL character, written {written}, where ROS cuts the text"
    if is_number and re.fullmatch(r"[+-]?0\d+", written) and assignment.value != int(written):
        return f"{name} is {written}, which YAML reads as octal; write it without a leading 0"
    return ""


def _is_same_kind(value: Any, other: Any) -> bool:
    """Whether rcl returned a value of the type that was written last."""
    value, other = value or None, other or None  # an empty list is None
    if isinstance(value, list) and isinstance(other, list):
        value, other = value[0], other[0]
    return type(value) is type(other)


def _is_rclpy(node: Node, name: str) -> bool:
    return (
        node.has_parameter(name)
        or name in _RCLPY_NAMES
        or any(name.startswith(prefix) for prefix in _RCLPY_PREFIXES)
    )


def _unknown(
    name: str, assignment: Assignment | None, known: Mapping[str, Field[Any]]
) -> tuple[str, bool]:
    """Explain an unknown name; return also whether it is meant for this node.

    In a section for all nodes it may belong to another one, unless it is a misspelling or in a list
    of this node.
    """
    is_shared = assignment is None or assignment.is_shared
    first = name.partition(".")[0]
    if first in known:
        return nested_yaml(first), not is_shared or isinstance(known[first].default, tuple)
    similar = nearest(name, known)
    if not similar:
        return f"{name} is unknown, config/grounding.yaml has all parameters", not is_shared
    problem = f"{name} is unknown, the nearest parameter is {similar}"
    return problem, not is_shared or is_misspelling(name, similar)
