"""Find the nodes of an ONNX file that a TensorRT version does not support, before a build.

Reads the graph only: no TensorRT, no GPU, no weights. ``operators.yaml`` lists what each version
supports, with sources. What it does not list (an operator, a domain, an opset, an attribute, an
optional input or output) is not supported, and so is a value whose type is unknown. A file that
passes can still exceed a limit that is not listed, such as a layer's sizes or what a loop may do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from onnx.inliner import inline_local_functions

from llava_st_ros.errors import EngineError
from llava_st_ros.export.target import Version, parse_version
from llava_st_ros.export.tensorrt.node_rules import (
    Node,
    check_attributes,
    check_constants,
    check_optional,
    check_ranks,
    types_where,
)
from llava_st_ros.files.yaml_files import read_yaml

OPERATORS_FILE = Path(__file__).parent / "operators.yaml"
MAX_SHOWN = 5  # nodes named in the error message
FIRST_OPSET = 9
DOMAINS = ("", "ai.onnx")  # ONNX's own operators

TypesByVersion = str | Mapping[str, str]  # type names, or type names by the version that adds them


@dataclass(frozen=True)
class UnsupportedNode:
    """A node that a TensorRT version does not support.

    Attributes:
        node: Name of the node, or of its first output if it has none.
        operator: Operator of the node.
        reason: What is not supported.
    """

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.reason}"


def find_unsupported(
    path: Path, version: Version, plugins: Collection[str] = ()
) -> list[UnsupportedNode]:
    """Find the nodes that a TensorRT version does not support.

    Subgraphs (branches) and the local functions that the graph calls are searched too.

    Args:
        path: ONNX file.
        version: TensorRT version.
        plugins: Operators that a plugin library implements.

    Raises:
        EngineError: The file is not an ONNX file.
    """
    try:
        model = inline_local_functions(onnx.load(path, load_external_data=False))
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # errors of protobuf and ONNX
        raise EngineError(f"{path} is not a readable ONNX file: {error}", "export again") from error
    opset = next((o.version for o in model.opset_import if o.domain in DOMAINS), 0)
    support = _read_support()
    last_opset = max(n for since, n in support["opsets"].items() if parse_version(since) <= version)
    unsupported = []
    if not FIRST_OPSET <= opset <= last_opset:
        reason = f"opset {opset}; expected {FIRST_OPSET} to {last_opset}"
        unsupported.append(UnsupportedNode(model.graph.name or "the graph", "ai.onnx", reason))
    checker = _GraphChecker(support, version, opset, frozenset(plugins), path.parent)
    unsupported += checker.check(model.graph, _Values())
    return unsupported or checker.untyped  # types are unknown after an unknown operator


def check_operators(path: Path, version: Version, plugins: Collection[str] = ()) -> None:
    """Raise EngineError, naming the first nodes, if ``find_unsupported`` finds any."""
    nodes = find_unsupported(path, version, plugins)
    if nodes:
        listed = "; ".join(map(str, nodes[:MAX_SHOWN]))
        more = f" and {len(nodes) - MAX_SHOWN} more" if len(nodes) > MAX_SHOWN else ""
        raise EngineError(
            f"{path}: TensorRT {version[0]}.{version[1]} does not support {listed}{more}",
            "choose a target with a later TensorRT, or another precision",
        )


@cache
def _read_support() -> dict[str, Any]:
    support: dict[str, Any] = read_yaml(OPERATORS_FILE, EngineError)
    return support


class _GraphChecker:
    """Checks graphs against what one TensorRT version supports.

    Args:
        support: Content of operators.yaml.
        version: TensorRT version.
        opset: ONNX opset of the graphs.
        plugins: Operators that a plugin library implements.
        folder: Folder of the ONNX file, which contains external weights.

    Attributes:
        untyped: The nodes so far with a value of unknown type.
    """

    def __init__(
        self,
        support: Mapping[str, Any],
        version: Version,
        opset: int,
        plugins: Collection[str],
        folder: Path,
    ) -> None:
        self._support, self._version, self._opset = support, version, opset
        self._plugins, self._folder = plugins, folder
        self.untyped: list[UnsupportedNode] = []
        self._tensor_types = self._types(support["types"])

    def check(self, graph: onnx.GraphProto, outer: _Values) -> Iterator[UnsupportedNode]:
        """Yield the unsupported nodes of a graph and of its subgraphs.

        Args:
            graph: The graph.
            outer: The values that enclosing graphs define.
        """
        values = outer.extended(graph)
        for node in graph.node:
            for reason in self._check_node(node, values):
                name = node.name or next(iter(node.output), "?")
                yield UnsupportedNode(name, node.op_type, reason)
            for attribute in node.attribute:
                for branch in (*attribute.graphs, *([attribute.g] if attribute.g.node else [])):
                    yield from self.check(branch, values)

    def _check_node(self, proto: onnx.NodeProto, values: _Values) -> Iterator[str]:
        operator, types = proto.op_type, values.types
        if operator in self._plugins:
            names: Iterable[str] = proto.input
        else:
            names = (*proto.input, *proto.output)
        for name in dict.fromkeys(name for name in names if name):
            if not (kind := types.get(name)):
                reason = f"the type of {name} is unknown"
                self.untyped.append(UnsupportedNode(proto.name or name, operator, reason))
            elif kind not in self._tensor_types:
                yield f"{kind} {name}"
        if operator in self._plugins:
            return
        operators = self._support["operators"] if proto.domain in DOMAINS else {}
        supported = operators.get(operator, {})
        if not self._types(supported):
            added_note = f" (added in {next(iter(supported))})" if supported else ""
            yield f"not an operator of TensorRT {self._version[0]}.{self._version[1]}{added_note}"
            return
        node = Node(proto, _schema(operator, self._opset))
        if node.schema is None and onnx.defs.has(operator):
            yield f"not an operator of ONNX opset {self._opset}"
            return
        typed = proto.input[1 if operator == "Where" else 0 :] or proto.output
        yield from self._check_type(typed[0], types, supported)
        yield from self._check_values(node, values)
        yield from check_attributes(node, self._support)
        yield from check_optional(node, self._support)
        yield from check_constants(node, self._support, lambda name: self._read(name, values))

    def _check_values(self, node: Node, values: _Values) -> Iterator[str]:
        """Check the inputs and outputs that have rules of their own."""
        operator, support, types = node.proto.op_type, self._support, values.types
        for formal, supported in support["inputs"].get(operator, {}).items():
            yield from self._check_type(node.inputs.get(formal, ""), types, supported)
        for formal, supported in support["outputs"].get(operator, {}).items():
            yield from self._check_type(node.outputs.get(formal, ""), types, supported)
        for condition, supported in types_where(node, support):
            for reason in self._check_type(node.proto.input[0], types, supported):
                yield f"{reason} with {condition}"
        for formal, version in support["constant"].get(operator, {}).items():
            name = node.inputs.get(formal)
            if self._is_before(version) and name and name not in values.constants:
                yield f"{formal} {name} is not a constant"
        for formal, version in support["given"].get(operator, {}).items():
            if self._is_before(version) and self._opset >= 13 and not node.inputs.get(formal):
                yield f"no {formal}"
        ranks = {
            formal: {int(number) for number in self._types(row)}
            for formal, row in support["ranks"].get(operator, {}).items()
        }
        yield from check_ranks(node, values.ranks, ranks)

    def _check_type(
        self, name: str, types: Mapping[str, str], supported: TypesByVersion
    ) -> Iterator[str]:
        type_name = types.get(name)
        if type_name in self._tensor_types and type_name not in self._types(supported):
            yield f"{type_name} {name}"

    def _read(self, name: str, values: _Values) -> np.ndarray | None:
        """Return a constant; None if it is not one."""
        tensor = values.constants.get(name)
        if tensor is None:
            return None
        try:
            array: np.ndarray = onnx.numpy_helper.to_array(tensor, str(self._folder))
        except Exception as error:  # ONNX's errors have no common base class
            raise EngineError(
                f"the constant {name} is unreadable: {error}", "export again"
            ) from error
        return array

    def _types(self, by_version: TypesByVersion) -> set[str]:
        """The types supported in this version, with groups such as "floats" expanded."""
        rows = {"10.0": by_version} if isinstance(by_version, str) else by_version
        names = [
            name
            for since, row in rows.items()
            if not self._is_before(since)
            for name in row.split()
        ]
        groups = self._support["words"]
        return {kind for name in names for kind in groups.get(name, name).split()}

    def _is_before(self, version: str) -> bool:
        """Whether the checked version is earlier than ``version``; "" is later than any."""
        return not version or self._version < parse_version(version)


def _schema(operator: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return an operator's definition in an opset; None if that has none."""
    try:
        return onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return None


@dataclass(frozen=True)
class _Values:
    """The values that a graph may use.

    Attributes:
        types: Type by name; "" if unknown.
        ranks: Number of axes by name; None if unknown.
        constants: Constants by name; None if a constant has no tensor.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    ranks: Mapping[str, int | None] = field(default_factory=dict)
    constants: Mapping[str, onnx.TensorProto | None] = field(default_factory=dict)

    def extended(self, graph: onnx.GraphProto) -> _Values:
        """Return these values with those that ``graph`` defines."""
        constants: dict[str, onnx.TensorProto | None] = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in DOMAINS:
                tensors = {a.name: a.t for a in node.attribute}
                constants[node.output[0]] = tensors.get("value")
        return _Values(
            {**self.types, **_value_types(graph)},
            {**self.ranks, **_value_ranks(graph)},
            {**self.constants, **constants},
        )


def _value_types(graph: onnx.GraphProto) -> dict[str, str]:
    """Type name of each input, output, weight and intermediate value; "" if unknown."""
    type_name = onnx.TensorProto.DataType.Name
    types = {tensor.name: type_name(tensor.data_type).lower() for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        element = value.type.tensor_type.elem_type
        types[value.name] = (
            (type_name(element).lower() if element else "") if kind == "tensor_type" else kind or ""
        )
    return types


def _value_ranks(graph: onnx.GraphProto) -> dict[str, int | None]:
    """Number of axes of each input, output, weight and intermediate value; None if unknown."""
    ranks: dict[str, int | None] = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        if value.name not in ranks or ranks[value.name] is None:
            ranks[value.name] = len(tensor.shape.dim) if tensor.HasField("shape") else None
    return ranks
