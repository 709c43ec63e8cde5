"""What of an ONNX file a TensorRT version cannot take, told before a build instead of by it.

Reads the graph alone: no TensorRT, no GPU, no weights. ``operators.yaml`` holds the facts and names
their source. A file that passes may still meet a limit that is not in there, as of a layer's sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import yaml
from onnx.inliner import inline_local_functions

from llava_st_ros.errors import EngineError
from llava_st_ros.export.target import Version, parse_version

FACTS = Path(__file__).parent / "operators.yaml"
SHOWN = 5  # problems in an error's one line
FIRST_OPSET = 9
DOMAINS = ("", "ai.onnx")  # of ONNX itself

Dated = str | Mapping[str, str]  # words, or words by the version from which they hold


@dataclass(frozen=True)
class Problem:
    """``node`` by its name (its first output's, where it has none), and what is wrong with it."""

    node: str
    operator: str
    why: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.why}"


def unsupported(path: Path, version: Version, plugins: Collection[str] = ()) -> list[Problem]:
    """Every node of the graph at ``path``, of its branches and of the local functions it calls that
    TensorRT ``version`` does not take. ``plugins`` are operators that a plugin library brings.

    Raises EngineError where the file is no ONNX graph.
    """
    try:
        model = inline_local_functions(onnx.load(path, load_external_data=False))
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # protobuf's and ONNX's own
        raise EngineError(f"{path}: {error}; expected an ONNX file", "export again") from error
    opset = next((o.version for o in model.opset_import if o.domain in DOMAINS), 0)
    facts = _facts()
    last = max(n for since, n in facts["opsets"].items() if parse_version(since) <= version)
    found = []
    if not FIRST_OPSET <= opset <= last:
        why = f"opset {opset}, of {FIRST_OPSET} to {last}"
        found.append(Problem(model.graph.name or "the graph", "ai.onnx", why))
    reader = _Reader(facts, version, opset, frozenset(plugins))
    return found + list(reader.problems(model.graph, {}, set()))


def check(path: Path, version: Version, plugins: Collection[str] = ()) -> None:
    """Raises EngineError, naming the first nodes, where ``unsupported`` finds any."""
    problems = unsupported(path, version, plugins)
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise EngineError(
            (f"{path}: " + "; ".join(map(str, problems[:SHOWN])) + more)
            + f"; expected operators of TensorRT {version[0]}.{version[1]}",
            "choose a target of a later TensorRT, or another precision",
        )


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    return facts


class _Reader:
    """Walks a graph with what one version takes in hand."""

    def __init__(
        self, facts: Mapping[str, Any], version: Version, opset: int, plugins: Collection[str]
    ) -> None:
        self.facts, self.version, self.opset, self.plugins = facts, version, opset, plugins
        self.known = self._types(facts["types"])

    def problems(
        self, graph: onnx.GraphProto, types: Mapping[str, str], constants: Iterable[str]
    ) -> Iterator[Problem]:
        """``types`` and ``constants`` are those of the graph around this one."""
        types, constants = {**types, **_value_types(graph)}, set(constants)
        constants.update(tensor.name for tensor in graph.initializer)
        constants.update(o for n in graph.node if n.op_type == "Constant" for o in n.output)
        for node in graph.node:
            for why in self._of_node(node, types, constants):
                yield Problem(node.name or next(iter(node.output), "?"), node.op_type, why)
            for attribute in node.attribute:
                for branch in (*attribute.graphs, *([attribute.g] if attribute.g.node else [])):
                    yield from self.problems(branch, types, constants)

    def _of_node(
        self, node: onnx.NodeProto, types: Mapping[str, str], constants: Collection[str]
    ) -> Iterator[str]:
        for name in dict.fromkeys((*node.input, *node.output)):
            if types.get(name) and types[name] not in self.known:
                yield f"{types[name]} {name}"
        if node.op_type in self.plugins:
            return
        taken = self.facts["operators"].get(node.op_type, {}) if node.domain in DOMAINS else {}
        if not self._types(taken):
            later = f", but from {next(iter(taken))} on" if taken else ""
            yield f"no operator of TensorRT {self.version[0]}.{self.version[1]}{later}"
            return
        names = dict(zip(self._formal_inputs(node.op_type), node.input))
        typed = node.input[1 if node.op_type == "Where" else 0 :] or node.output
        yield from self._mismatch(typed[0], types, taken)
        for formal, more in self.facts["inputs"].get(node.op_type, {}).items():
            yield from self._mismatch(names.get(formal, ""), types, more)
        for formal, until in self.facts["constant"].get(node.op_type, {}).items():
            if self._before(until) and names.get(formal) and names[formal] not in constants:
                yield f"{formal} {names[formal]} is no constant"
        for formal, until in self.facts["given"].get(node.op_type, {}).items():
            if self._before(until) and self.opset >= 13 and not names.get(formal):
                yield f"no {formal}"

    def _mismatch(self, name: str, types: Mapping[str, str], taken: Dated) -> Iterator[str]:
        found = types.get(name)
        if found in self.known and found not in self._types(taken):
            yield f"{found} {name}"

    def _formal_inputs(self, operator: str) -> list[str]:
        schema = onnx.defs.get_schema(operator, self.opset) if onnx.defs.has(operator) else None
        return [formal.name for formal in schema.inputs] if schema else []

    def _types(self, dated: Dated) -> set[str]:
        """The words that hold at this version, written out."""
        rows = {"10.0": dated} if isinstance(dated, str) else dated
        words = [w for since, row in rows.items() if not self._before(since) for w in row.split()]
        return {kind for word in words for kind in self.facts["words"].get(word, word).split()}

    def _before(self, until: str) -> bool:
        """Whether this version is before ``until``; "" is a version that has not come."""
        return not until or self.version < parse_version(until)


def _value_types(graph: onnx.GraphProto) -> dict[str, str]:
    """Of inputs, outputs, weights and what lies between them; "" where it is not known."""
    named = onnx.TensorProto.DataType.Name
    types = {tensor.name: named(tensor.data_type).lower() for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        element = value.type.tensor_type.elem_type
        types[value.name] = (
            (named(element).lower() if element else "") if kind == "tensor_type" else kind or ""
        )
    return types
