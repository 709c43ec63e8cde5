"""What TensorRT's parser reads of a node: attributes, optional inputs and outputs, axes, constants.

The parser ignores attributes and inputs that it does not read, so a node that has others would
compute something else without a word. The rules are data (``operators.yaml``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional
Value = Any  # of an attribute: a number, text, tensor, graph, or a list of those


@dataclass(frozen=True)
class Node:
    """A node and its definition in the graph's opset.

    Attributes:
        proto: The node.
        schema: The operator's definition; None for an operator that ONNX does not define.
    """

    proto: onnx.NodeProto
    schema: onnx.defs.OpSchema | None

    @cached_property
    def attributes(self) -> dict[str, Value]:
        """The node's attributes by name; texts as str."""
        return {a.name: _value_of(a) for a in self.proto.attribute}

    @cached_property
    def defaults(self) -> dict[str, Value]:
        """The attributes that ONNX defines, with their defaults; None without one."""
        attributes = self.schema.attributes if self.schema else {}
        return {
            name: _value_of(attribute.default_value) if attribute.default_value.name else None
            for name, attribute in attributes.items()
        }

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Name of the value of each input that is given, by the input's name in ONNX."""
        return self._given(self.schema.inputs if self.schema else (), self.proto.input)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Name of the value of each output that is used, by the output's name in ONNX."""
        return self._given(self.schema.outputs if self.schema else (), self.proto.output)

    @cached_property
    def optional(self) -> set[str]:
        """Names of the inputs and outputs that ONNX lets a node leave out."""
        formals = (*self.schema.inputs, *self.schema.outputs) if self.schema else ()
        return {formal.name for formal in formals if formal.option is OPTIONAL}

    @staticmethod
    def _given(formals: Sequence[Any], names: Sequence[str]) -> dict[str, str]:
        return {formal.name: name for formal, name in zip(formals, names) if name}


def check_attributes(node: Node, support: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not supported of a node's attributes."""
    accepted = support["attributes"].get(node.proto.op_type, {})
    for name, value in node.attributes.items():
        if name in accepted:
            if not _is_accepted(value, accepted[name]):
                yield f"{name} is {_short(value)}; supported: {_described(accepted[name])}"
        elif node.schema is None or name not in node.defaults:
            yield f"attribute {name} is unknown"
        elif not _is_equal(value, node.defaults[name]):
            default = node.defaults[name]
            only = "it is not supported" if default is None else f"supported: {_short(default)}"
            yield f"{name} is {_short(value)}; {only}"
    for rule in support["where"].get(node.proto.op_type, ()):
        yield from _check_combination(node, rule)


def _check_combination(node: Node, rule: Mapping[str, Any]) -> Iterator[str]:
    given = {**node.defaults, **node.attributes}
    if not all(_is_equal(given.get(name), value) for name, value in rule["is"].items()):
        return
    condition = ", ".join(f"{name} {value}" for name, value in rule["is"].items())
    for formal in rule.get("without", ()):
        if formal in node.inputs:
            yield f"input {formal} ({node.inputs[formal]}) is not supported with {condition}"
    for name, accepted in rule.get("attributes", {}).items():
        if not _is_accepted(given.get(name), accepted):
            found = _short(given.get(name))
            yield f"{name} is {found}; supported with {condition}: {_described(accepted)}"


def types_where(node: Node, support: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the types that the first input may have because of the node's attributes.

    Yields pairs of the condition, in words, and the type names as in operators.yaml.
    """
    given = {**node.defaults, **node.attributes}
    for rule in support["where"].get(node.proto.op_type, ()):
        if "types" in rule and all(
            _is_equal(given.get(name), value) for name, value in rule["is"].items()
        ):
            yield ", ".join(f"{name} {value}" for name, value in rule["is"].items()), rule["types"]


def check_optional(node: Node, support: Mapping[str, Any]) -> Iterator[str]:
    """Yield the optional inputs and outputs that the parser ignores or rejects."""
    if node.schema is None:
        return
    read = support["optional"].get(node.proto.op_type, "").split()
    for kind, formals in (("input", node.inputs), ("output", node.outputs)):
        for formal, name in formals.items():
            if formal in node.optional and formal not in read:
                yield f"{kind} {formal} ({name}) is not supported"
    for kind, count, most in (
        ("inputs", len(node.proto.input), node.schema.max_input),
        ("outputs", len(node.proto.output), node.schema.max_output),
    ):
        if count > most:
            yield f"{count} {kind}; ONNX has at most {most}"


def check_ranks(
    node: Node, ranks: Mapping[str, int | None], accepted: Mapping[str, set[int]]
) -> Iterator[str]:
    """Yield the inputs with another number of axes.

    Args:
        node: The node.
        ranks: Number of axes by value; None or absent if unknown.
        accepted: The accepted numbers by input.
    """
    for formal, numbers in accepted.items():
        if (name := node.inputs.get(formal)) and ranks.get(name) not in numbers:
            found = ranks.get(name)
            axes = f"{found} axes" if found is not None else "an unknown number of axes"
            expected = " or ".join(map(str, sorted(numbers)))
            yield f"{formal} ({name}) has {axes}; supported: {expected}"


def check_constants(
    node: Node, support: Mapping[str, Any], read: Callable[[str], np.ndarray | None]
) -> Iterator[str]:
    """Yield the constants with unsupported values.

    Args:
        node: The node.
        support: Content of operators.yaml.
        read: Returns a constant by name; None if the value is not a constant.
    """
    for formal in support["zero"].get(node.proto.op_type, ()):
        name = node.inputs.get(formal)
        if name and ((constant := read(name)) is None or constant.astype(np.float64).any()):
            yield f"{formal} ({name}) is not a constant of zeros"
    for formal, bound in support["below"].get(node.proto.op_type, {}).items():
        constant = read(node.inputs.get(formal, ""))
        if constant is not None and (constant >= bound).any():
            yield f"{formal} is {constant.max()}; supported: below {bound}"


def _value_of(attribute: onnx.AttributeProto) -> Value:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
    return value


def _is_accepted(value: Value, accepted: Any) -> bool:
    if accepted == "any":
        return True
    if isinstance(accepted, list):
        return any(_is_equal(value, one) for one in accepted)
    if "each" in accepted:
        return all(any(_is_equal(v, one) for one in accepted["each"]) for v in value)
    return re.fullmatch(accepted["matches"], str(value)) is not None


def _is_equal(value: Value, other: Value) -> bool:
    if isinstance(value, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(value, other, rel_tol=1e-6)
    return bool(value == other)


def _described(accepted: Any) -> str:
    if isinstance(accepted, list):
        return ", ".join(map(str, accepted))
    if "each" in accepted:
        return f"only {', '.join(map(str, accepted['each']))}"
    return f"what matches {accepted['matches']}"


def _short(value: Value) -> str:
    if isinstance(value, (onnx.TensorProto, onnx.SparseTensorProto, onnx.GraphProto)):
        return f"a {type(value).__name__.removesuffix('Proto').lower()}"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
