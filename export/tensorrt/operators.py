"""Find the nodes of an ONNX file that a TensorRT version does not support, before a build.

Reads the graph only: no TensorRT, no GPU, no weights. ``operators.yaml`` lists what each version
supports, with sources. A file that passes can still exceed a limit that is not listed, such as
a layer's sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx.inliner import inline_local_functions

from llava_st_ros.errors import EngineError
from llava_st_ros.export.target import Version, parse_version
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
    checker = _GraphChecker(support, version, opset, frozenset(plugins))
    return unsupported + list(checker.check(model.graph, {}, set()))


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
    """

    def __init__(
        self, support: Mapping[str, Any], version: Version, opset: int, plugins: Collection[str]
    ) -> None:
        self._support, self._version, self._opset = support, version, opset
        self._plugins = plugins
        self._tensor_types = self._types(support["types"])

    def check(
        self, graph: onnx.GraphProto, types: Mapping[str, str], constants: Iterable[str]
    ) -> Iterator[UnsupportedNode]:
        """Yield the unsupported nodes of a graph and of its subgraphs.

        Args:
            graph: The graph.
            types: Types by name of the values that an enclosing graph defines.
            constants: Names of the constants that an enclosing graph defines.
        """
        types, constants = {**types, **_value_types(graph)}, set(constants)
        constants.update(tensor.name for tensor in graph.initializer)
        constants.update(o for n in graph.node if n.op_type == "Constant" for o in n.output)
        for node in graph.node:
            for reason in self._check_node(node, types, constants):
                name = node.name or next(iter(node.output), "?")
                yield UnsupportedNode(name, node.op_type, reason)
            for attribute in node.attribute:
                for branch in (*attribute.graphs, *([attribute.g] if attribute.g.node else [])):
                    yield from self.check(branch, types, constants)

    def _check_node(
        self, node: onnx.NodeProto, types: Mapping[str, str], constants: Collection[str]
    ) -> Iterator[str]:
        for name in dict.fromkeys((*node.input, *node.output)):
            if types.get(name) and types[name] not in self._tensor_types:
                yield f"{types[name]} {name}"
        if node.op_type in self._plugins:
            return
        operators = self._support["operators"] if node.domain in DOMAINS else {}
        supported = operators.get(node.op_type, {})
        if not self._types(supported):
            added_note = f" (added in {next(iter(supported))})" if supported else ""
            yield f"not an operator of TensorRT {self._version[0]}.{self._version[1]}{added_note}"
            return
        typed = node.input[1 if node.op_type == "Where" else 0 :] or node.output
        yield from self._check_type(typed[0], types, supported)
        yield from self._check_inputs(node, types, constants)

    def _check_inputs(
        self, node: onnx.NodeProto, types: Mapping[str, str], constants: Collection[str]
    ) -> Iterator[str]:
        """Check the inputs that have rules of their own."""
        operator, support = node.op_type, self._support
        names = dict(zip(self._formal_inputs(operator), node.input))
        for formal, supported in support["inputs"].get(operator, {}).items():
            yield from self._check_type(names.get(formal, ""), types, supported)
        for formal, version in support["constant"].get(operator, {}).items():
            if self._is_before(version) and names.get(formal) and names[formal] not in constants:
                yield f"{formal} {names[formal]} is not a constant"
        for formal, version in support["given"].get(operator, {}).items():
            if self._is_before(version) and self._opset >= 13 and not names.get(formal):
                yield f"no {formal}"

    def _check_type(
        self, name: str, types: Mapping[str, str], supported: TypesByVersion
    ) -> Iterator[str]:
        type_name = types.get(name)
        if type_name in self._tensor_types and type_name not in self._types(supported):
            yield f"{type_name} {name}"

    def _formal_inputs(self, operator: str) -> list[str]:
        schema = onnx.defs.get_schema(operator, self._opset) if onnx.defs.has(operator) else None
        return [formal.name for formal in schema.inputs] if schema else []

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
