"""Operator support of TensorRT versions: all exported graphs pass, and other nodes are named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import EngineError
from llava_st_ros.export.plugin_names import DOMAIN, NAME
from llava_st_ros.export.target import parse_version, read_target, target_names
from llava_st_ros.export.tensorrt.operators import OPERATORS_FILE, check_operators, find_unsupported

OLDEST, THOR, NEWEST = (10, 3), (10, 13), (11, 5)
FLOAT, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE


def graph_file(
    path: Path,
    node: onnx.NodeProto,
    inputs: Sequence[tuple[str, int, Sequence[int]]],
    output: int = FLOAT,
    *,
    opset: int = 20,
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """Write a graph of one node, with inputs (name, type, sizes) and an output of any size."""
    rank = [None] * len(inputs[0][2])
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(node.output[0], output, rank)],
        list(weights),
    )
    domains = {"": opset, **({node.domain: 1} if node.domain else {})}
    imports = [helper.make_opsetid(*pair) for pair in domains.items()]
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=imports), path)
    return path


def node(operator: str, inputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), ["y"], name="the_node", **attributes)


@pytest.mark.slow
def test_exported_graphs_are_supported_by_every_target(random_engine: Path) -> None:
    versions = {read_target(name).tensorrt for name in target_names()} - {None}
    assert min(versions) == OLDEST
    for file in read_manifest(random_engine).graphs.values():
        for version in (*versions, NEWEST):
            assert find_unsupported(random_engine / file, version) == []


# A node that TensorRT 10.3 does not support, its weights, the message, whether 11.5 supports it.
X = [("x", FLOAT, (1, 2, 8, 16))]
CASES = {
    "operator of 10.15": (
        (node("RMSNormalization", "xs"), X, FLOAT, 23),
        [helper.make_tensor("s", FLOAT, [16], [1.0] * 16)],
        "not an operator of TensorRT 10.3 (added in 10.15)",
        True,
    ),
    "operator of 10.14": (
        (node("Attention", "xxx"), X, FLOAT, 23),
        [],
        "not an operator of TensorRT 10.3 (added in 10.14)",
        True,
    ),
    "operator of no version": (
        (node("Det", "x"), X, FLOAT, 20),
        [],
        "not an operator of TensorRT",
        False,
    ),
    "double": (
        (node("Add", "xx"), [("x", DOUBLE, (2,))], DOUBLE, 20),
        [],
        "double x",
        False,
    ),
    "strings": (
        (node("StringNormalizer", "x"), [("x", TensorProto.STRING, (2,))], TensorProto.STRING, 20),
        [],
        "string x",
        False,
    ),
    "unsupported type": (
        (node("Sin", "x"), [("x", INT64, (2,))], INT64, 20),
        [],
        "int64 x",
        False,
    ),
    "integer exponent": (
        (node("Pow", "xe"), X, FLOAT, 20),
        [helper.make_tensor("e", INT64, [], [2])],
        "int64 e",
        True,
    ),
    "computed axes": (
        (node("Unsqueeze", "xa"), [*X, ("a", INT64, (1,))], FLOAT, 20),
        [],
        "axes a is not a constant",
        True,
    ),
    "missing axes": (
        (node("Squeeze", "x"), [("x", FLOAT, (1,))], FLOAT, 20),
        [],
        "no axes",
        True,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_unsupported_nodes_are_named(case: str, tmp_path: Path) -> None:
    (one, inputs, output, opset), weights, message, later = CASES[case]
    path = graph_file(tmp_path / "g.onnx", one, inputs, output, opset=opset, weights=weights)
    found = [str(problem) for problem in find_unsupported(path, OLDEST)]
    assert any(
        text.startswith(f"the_node ({one.op_type})") and message in text for text in found
    ), found
    assert (not find_unsupported(path, NEWEST)) == later
    with pytest.raises(EngineError, match="the_node") as error:
        check_operators(path, OLDEST)
    assert "\n" not in str(error.value) and "10.3" in str(error.value)


def test_opset_is_checked(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "g.onnx", node("Relu", "x"), X, opset=23)
    assert [problem.reason for problem in find_unsupported(path, THOR)] == [
        "opset 23; expected 9 to 21"
    ]
    assert find_unsupported(path, (10, 16)) == []


def test_plugins_and_local_functions(tmp_path: Path) -> None:
    alone = node(NAME, "xxx", domain=DOMAIN)
    path = graph_file(tmp_path / "plugin.onnx", alone, X)
    assert [problem.operator for problem in find_unsupported(path, OLDEST)] == [NAME]
    assert find_unsupported(path, OLDEST, {NAME}) == []
    # A local function is inlined: the operators of its body count.
    body = helper.make_function(
        DOMAIN, NAME, list("abc"), ["d"], [helper.make_node("Det", ["a"], ["d"], name="inside")],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    path = graph_file(tmp_path / "function.onnx", alone, X, functions=[body])
    (problem,) = find_unsupported(path, OLDEST)
    assert problem.operator == "Det"


def test_branches_are_checked(tmp_path: Path) -> None:
    def branch(operator: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("o", FLOAT, None)
        inner = helper.make_node(operator, ["x"], ["o"], name=f"in_{operator}")
        return helper.make_graph([inner], operator, [], [out])

    inputs = [("c", TensorProto.BOOL, ()), *X]
    choice = node("If", "c", then_branch=branch("Relu"), else_branch=branch("Det"))
    path = graph_file(tmp_path / "g.onnx", choice, inputs)
    assert [problem.node for problem in find_unsupported(path, NEWEST)] == ["in_Det"]


def test_many_problems_and_unreadable_files_give_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], [f"y{i}"], name=f"n{i}") for i in range(7)]
    ends = [helper.make_tensor_value_info(*X[0])], [helper.make_tensor_value_info("y0", FLOAT, [])]
    imports = [helper.make_opsetid("", 20)]
    model = helper.make_model(helper.make_graph(nodes, "many", *ends), opset_imports=imports)
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(EngineError, match=r"n0 .* n4 .* and 2 more"):
        check_operators(tmp_path / "g.onnx", NEWEST)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    for path in (broken, tmp_path / "absent.onnx"):
        with pytest.raises(EngineError) as error:
            check_operators(path, OLDEST)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["operator of no version", "strings", "integer exponent"])
def test_tensorrts_own_parser_agrees(case: str, tmp_path: Path) -> None:
    """Runs the parser of TensorRT for RTX 11 in a subprocess, because it may abort."""
    (one, inputs, output, opset), weights, _, later = CASES[case]
    path = graph_file(tmp_path / "g.onnx", one, inputs, output, opset=opset, weights=weights)
    script = (
        "import sys, tensorrt_rtx as t\n"
        "logger = t.Logger(t.Logger.INTERNAL_ERROR)\n"
        "network = t.Builder(logger).create_network(0)\n"
        "sys.exit(0 if t.OnnxParser(network, logger).parse_from_file(sys.argv[1]) else 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True)
    assert (done.returncode == 0) == later, done


def test_listed_operators_exist_in_tensorrt() -> None:
    """Compares with the parser of TensorRT for RTX."""
    tensorrt = load_tensorrt("tensorrt_rtx")
    logger = tensorrt.Logger(tensorrt.Logger.INTERNAL_ERROR)
    parser = tensorrt.OnnxParser(tensorrt.Builder(logger).create_network(0), logger)
    support = yaml.safe_load(OPERATORS_FILE.read_text())
    unknown = {name for name in support["operators"] if not parser.supports_operator(name)}
    # TensorRT implements these two as plugins, which TensorRT for RTX does not have.
    assert unknown == {"DFT", "DeformConv"}
    assert parser.supports_operator("Det") is False
    for rows in (*support["inputs"], *support["constant"], *support["given"]):
        assert rows in support["operators"]


def test_versions_are_parsed() -> None:
    assert [parse_version(v) for v in ("10.3", "10.16.1.11", "11.4.1")] == [
        (10, 3),
        (10, 16),
        (11, 4),
    ]
