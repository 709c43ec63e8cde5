"""The values that a node was started with: read from its overrides, with every problem named."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from llava_st_ros.errors import ConfigError
from llava_st_ros.ros.parameter_sources import Assignment, ParameterSources
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
    value, written = parameter.value, ""
    if assignment is not None:
        written = assignment.text
        if assignment.has_collections:
            raise ConfigError(_nested(entry.name))
        if assignment.has_null:
            raise ConfigError(
                f"{entry.name} has a null, written {written}; write it in quotes if it is a word, "
                "else leave it out"
            )
        if not _is_same_kind(value, assignment.value):
            value = assignment.value
    return read_value(entry, value, written)


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


def _unknown(name: str, assignment: Assignment | None, known: Collection[str]) -> tuple[str, bool]:
    """Explain an unknown name; return also whether it is meant for this node.

    In a section for all nodes it may belong to another one, unless it is a misspelling.
    """
    first = name.partition(".")[0]
    if first in known:
        return _nested(first), True
    is_shared = assignment is None or assignment.is_shared
    similar = nearest(name, known)
    if not similar:
        return f"{name} is unknown, config/grounding.yaml has all parameters", not is_shared
    problem = f"{name} is unknown, the nearest parameter is {similar}"
    return problem, not is_shared or is_misspelling(name, similar)


def _nested(name: str) -> str:
    return (
        f"{name} has nested YAML, which ROS parameters cannot have; write each entry as a quoted "
        """string, for a query also '{"id": "a", "text": "the red box"}'"""
    )
