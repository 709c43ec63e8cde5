"""Operator support of TensorRT versions: all exported graphs pass, and other nodes are named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import EngineError
from llava_st_ros.export.plugin_names import DOMAIN, NAME
from llava_st_ros.export.target import parse_version, read_target, target_names
from llava_st_ros.export.tensorrt.operators import OPERATORS_FILE, check_operators, find_unsupported
from llava_st_ros.files.yaml_files import read_yaml

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


def constant(name: str, values: Sequence[float], kind: int = INT64) -> onnx.TensorProto:
    """A vector, or a scalar if there is one value."""
    return helper.make_tensor(name, kind, [len(values)] if len(values) > 1 else [], values)


QKV = [(name, FLOAT, (1, 2, 8, 16)) for name in "qkv"]
CACHE = [("c", FLOAT, (1, 2, 8, 16)), ("u", FLOAT, (1, 2, 1, 16)), ("i", INT64, (1,))]
SCALES = [helper.make_tensor("s", FLOAT, [4], [1, 1, 2, 2])]
ONES = [helper.make_tensor("s", FLOAT, [16], [1.0] * 16)]
QUANTIZED = [helper.make_tensor("s", FLOAT, [], [0.1])]
INT8, UINT8, HALF = TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16

# Nodes that no version supports: the node, its inputs, the output's type, opset, weights, the
# message, and whether the parser of TensorRT for RTX rejects them (it ignores the others).
NodeCase = tuple[onnx.NodeProto, list[Any], int, int, list[onnx.TensorProto], str, bool]
LIMITS: dict[str, NodeCase] = {
    "Attention with past": (
        node("Attention", ["q", "k", "v", "", "p", "p"]),
        [*QKV, ("p", FLOAT, (1, 2, 4, 16))], FLOAT, 24, [],
        "input past_key (p) is not supported", True,
    ),
    "Attention that returns its keys": (
        helper.make_node("Attention", list("qkv"), ["y", "a", "b"], name="the_node"),
        QKV, FLOAT, 24, [], "output present_key (a) is not supported", True,
    ),
    "Attention with lengths": (
        node("Attention", ["q", "k", "v", "", "", "", "n"]), [*QKV, ("n", INT64, (1,))],
        FLOAT, 24, [], "input nonpad_kv_seqlen (n) is not supported", False,
    ),
    "Attention with softcap": (
        node("Attention", "qkv", softcap=2.0), QKV, FLOAT, 24, [],
        "softcap is 2.0; supported: 0.0", True,
    ),
    "Attention with softmax precision": (
        node("Attention", "qkv", softmax_precision=1), QKV, FLOAT, 24, [],
        "softmax_precision is 1; it is not supported", True,
    ),
    "Attention with another matrix": (
        node("Attention", "qkv", qk_matmul_output_mode=1), QKV, FLOAT, 24, [],
        "qk_matmul_output_mode is 1; supported: 0", False,
    ),
    "causal Attention with a mask": (
        node("Attention", "qkvm", is_causal=1), [*QKV, ("m", TensorProto.BOOL, (8, 8))],
        FLOAT, 24, [], "input attn_mask (m) is not supported with is_causal 1", True,
    ),
    "Attention with a mask of integers": (
        node("Attention", "qkvm"), [*QKV, ("m", INT64, (8, 8))], FLOAT, 24, [], "int64 m", True,
    ),
    "circular TensorScatter": (
        node("TensorScatter", "cui", mode="circular"), CACHE, FLOAT, 24, [],
        "mode is circular; supported: linear", True,
    ),
    "TensorScatter along heads": (
        node("TensorScatter", "cui", axis=1), CACHE, FLOAT, 24, [],
        "axis is 1; supported: -2, 2", True,
    ),
    "TensorScatter of three axes": (
        node("TensorScatter", "cui"),
        [("c", FLOAT, (1, 8, 16)), ("u", FLOAT, (1, 1, 16)), ("i", INT64, (1,))],
        FLOAT, 24, [], "past_cache (c) has 3 axes; supported: 4", True,
    ),
    "Resize with antialias": (
        node("Resize", ["x", "", "s"], mode="linear", antialias=1), X, FLOAT, 20, SCALES,
        "antialias is 1; supported: 0", True,
    ),
    "Resize of a crop": (
        node("Resize", ["x", "x", "s"], coordinate_transformation_mode="tf_crop_and_resize"),
        X, FLOAT, 20, SCALES, "coordinate_transformation_mode is tf_crop_and_resize", True,
    ),
    "Resize that keeps the aspect": (
        node("Resize", ["x", "", "s"], keep_aspect_ratio_policy="not_larger"), X, FLOAT, 20, SCALES,
        "keep_aspect_ratio_policy is not_larger; supported: stretch", True,
    ),
    "Resize with two modes": (
        node("Resize", ["x", "", "s"], coordinate_transformation_mode="tf_half_pixel_for_nn",
             nearest_mode="floor"),
        X, FLOAT, 20, SCALES, "nearest_mode is floor; supported with coordinate_", True,
    ),
    "ScatterND that adds": (
        node("ScatterND", "xiu", reduction="add"),
        [*X, ("i", INT64, (1, 4)), ("u", FLOAT, (1,))],
        FLOAT, 20, [], "reduction is add; supported: none", True,
    ),
    "GridSample of volumes": (
        node("GridSample", "xg"),
        [("x", FLOAT, (1, 2, 4, 8, 16)), ("g", FLOAT, (1, 4, 4, 4, 3))],
        FLOAT, 20, [], "X (x) has 5 axes; supported: 4", False,
    ),
    "LayerNormalization with mean": (
        helper.make_node("LayerNormalization", ["x", "s"], ["y", "m"], name="the_node"),
        X, FLOAT, 20, ONES, "output Mean (m) is not supported", True,
    ),
    "RMSNormalization in another type": (
        node("RMSNormalization", "xs", stash_type=10), X, FLOAT, 24, ONES,
        "stash_type is 10; supported: 1", False,
    ),
    "asymmetric int8": (
        node("QuantizeLinear", "xsz"), X, INT8, 20, [*QUANTIZED, constant("z", [3], INT8)],
        "y_zero_point (z) is not a constant of zeros", True,
    ),
    "uint8": (
        node("QuantizeLinear", "xs"), X, UINT8, 20, QUANTIZED, "uint8 y", False,
    ),
    "Cast to int8": (node("Cast", "x", to=INT8), X, INT8, 20, [], "int8 y", False),
    "Cast to int16": (
        node("Cast", "x", to=TensorProto.INT16), X, TensorProto.INT16, 20, [], "int16 y", True,
    ),
    "Einsum in capitals": (
        node("Einsum", "xx", equation="NCHW,NCHW->NC"), X, FLOAT, 20, [],
        "equation is NCHW,NCHW->NC; supported: what matches", True,
    ),
    "dilated MaxPool": (
        node("MaxPool", "x", kernel_shape=[2, 2], dilations=[1, 2]), X, FLOAT, 20, [],
        "dilations is [1, 2]; supported: only 1", True,
    ),
    "MaxPool by columns": (
        node("MaxPool", "x", kernel_shape=[2, 2], storage_order=1), X, FLOAT, 20, [],
        "storage_order is 1; supported: 0", False,
    ),
    "LSTM of batches first": (
        node("LSTM", "xwr", layout=1, hidden_size=4), [("x", FLOAT, (1, 4, 8))], FLOAT, 20,
        [helper.make_tensor("w", FLOAT, [1, 16, 8], [0.1] * 128),
         helper.make_tensor("r", FLOAT, [1, 16, 4], [0.1] * 64)],
        "layout is 1; supported: 0", False,
    ),
    "large TopK": (
        helper.make_node("TopK", ["x", "k"], ["y", "j"], name="the_node"),
        [("x", FLOAT, (1, 5000))], FLOAT, 20, [helper.make_tensor("k", INT64, [1], [4000])],
        "K is 4000; supported: below 3840", False,
    ),
    "unsorted TopK": (
        helper.make_node("TopK", ["x", "k"], ["y", "j"], name="the_node", sorted=0),
        X, FLOAT, 20, [helper.make_tensor("k", INT64, [1], [4])],
        "sorted is 0; supported: 1", False,
    ),
    "Mod of floats": (node("Mod", "xx"), X, FLOAT, 20, [], "float x with fmod 0", True),
    "random numbers of a seed": (
        node("RandomNormalLike", "x", seed=1.0), X, FLOAT, 20, [],
        "seed is 1.0; it is not supported", False,
    ),
    "operator of a later opset": (
        node("Gelu", "x"), X, FLOAT, 17, [], "not an operator of ONNX opset 17", False,
    ),
    "attribute of no operator": (
        node("Relu", "x", approximate="tanh"), X, FLOAT, 20, [],
        "attribute approximate is unknown", False,
    ),
    "too many inputs": (
        node("Relu", "xx"), X, FLOAT, 20, [], "2 inputs; ONNX has at most 1", False,
    ),
}  # fmt: skip
# Nodes like these that are supported.
SUPPORTED: dict[str, NodeCase] = {
    "masked Attention": (
        node("Attention", "qkvm", scale=0.5, softcap=0.0),
        [*QKV, ("m", TensorProto.BOOL, (8, 8))], FLOAT, 24, [], "", False,
    ),
    "Attention of three axes": (
        node("Attention", "qkv", q_num_heads=2, kv_num_heads=2),
        [(name, FLOAT, (1, 8, 32)) for name in "qkv"], FLOAT, 24, [], "", False,
    ),
    "TensorScatter": (
        node("TensorScatter", "cui", axis=2, mode="linear"), CACHE, FLOAT, 24, [], "", False,
    ),
    "RotaryEmbedding": (
        node("RotaryEmbedding", "xcsp", interleaved=1),
        [*X, ("c", FLOAT, (9, 8)), ("s", FLOAT, (9, 8)), ("p", INT64, (1, 8))],
        FLOAT, 24, [], "", False,
    ),
    "cubic Resize": (
        node("Resize", ["x", "", "s"], mode="cubic", cubic_coeff_a=-0.5), X, FLOAT, 20, SCALES, "",
        False,
    ),
    "LayerNormalization": (
        node("LayerNormalization", "xs", epsilon=1e-6, stash_type=1), X, FLOAT, 20, ONES, "", False,
    ),
    "symmetric int8": (
        node("QuantizeLinear", "xsz"), X, INT8, 20, [*QUANTIZED, constant("z", [0], INT8)], "",
        False,
    ),
    "Pad": (
        node("Pad", "xp", mode="wrap"), X, FLOAT, 20,
        [constant("p", [0, 0, 1, 1, 0, 0, 1, 1])], "", False,
    ),
    "Mod of integers": (node("Mod", "xx"), [("x", INT64, (2,))], INT64, 20, [], "", False),
}  # fmt: skip


def write_case(case: str, path: Path) -> Path:
    one, inputs, output, opset, weights, *_ = {**LIMITS, **SUPPORTED}[case]
    return graph_file(path, one, inputs, output, opset=opset, weights=weights)


@pytest.mark.parametrize("case", LIMITS)
def test_what_the_parser_rejects_or_ignores_is_named(case: str, tmp_path: Path) -> None:
    found = find_unsupported(write_case(case, tmp_path / "g.onnx"), NEWEST)
    assert {problem.node for problem in found} == {"the_node"}
    assert any(LIMITS[case][5] in problem.reason for problem in found), found


@pytest.mark.parametrize("case", SUPPORTED)
def test_what_the_parser_reads_is_supported(case: str, tmp_path: Path) -> None:
    assert find_unsupported(write_case(case, tmp_path / "g.onnx"), NEWEST) == []


def test_values_of_unknown_type_are_named(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "g.onnx", node("Relu", "x"), X)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Relu", ["z"], ["w"], name="loose"))
    onnx.save(model, path)
    reasons = {problem.reason for problem in find_unsupported(path, NEWEST)}
    assert reasons == {"the type of z is unknown", "the type of w is unknown"}


def test_domains_are_checked(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "g.onnx", node("Relu", "x", domain="com.microsoft"), X)
    (problem,) = find_unsupported(path, NEWEST)
    assert problem.reason == "not an operator of TensorRT 11.5"


def test_constants_are_read_from_external_data(tmp_path: Path) -> None:
    path = write_case("asymmetric int8", tmp_path / "g.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:  # only raw data can be external
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert "not a constant of zeros" in find_unsupported(path, NEWEST)[0].reason
    (tmp_path / "weights").unlink()
    with pytest.raises(EngineError, match="the constant z is unreadable") as error:
        find_unsupported(path, NEWEST)
    assert "\n" not in str(error.value)


def test_the_parser_of_tensorrt_agrees(tmp_path: Path) -> None:
    """Runs the parser of TensorRT for RTX 11 in a subprocess, because it may abort."""
    paths = {case: write_case(case, tmp_path / f"{case}.onnx") for case in (*LIMITS, *SUPPORTED)}
    script = (
        "import json, sys, tensorrt_rtx as t\n"
        "logger = t.Logger(t.Logger.INTERNAL_ERROR)\n"
        "builder = t.Builder(logger)\n"
        "accepts = {}\n"
        "for case, path in json.loads(sys.argv[1]).items():\n"
        "    network = builder.create_network(0)\n"
        "    accepts[case] = t.OnnxParser(network, logger).parse_from_file(path)\n"
        "print(json.dumps(accepts))\n"
    )
    names = json.dumps({case: str(path) for case, path in paths.items()})
    done = subprocess.run([sys.executable, "-c", script, names], capture_output=True, text=True)
    assert done.returncode == 0, done
    accepts = json.loads(done.stdout)
    rejects = {case: values[6] for case, values in {**LIMITS, **SUPPORTED}.items()}
    assert {case: not accepted for case, accepted in accepts.items()} == rejects


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
    support = read_yaml(OPERATORS_FILE, EngineError)
    unknown = {name for name in support["operators"] if not parser.supports_operator(name)}
    # TensorRT implements these two as plugins, which TensorRT for RTX does not have.
    assert unknown == {"DFT", "DeformConv"}
    assert parser.supports_operator("Det") is False
    sections = ("inputs", "constant", "given", "outputs", "attributes", "optional", "ranks")
    for section in (*sections, "zero", "below", "where"):
        assert set(support[section]) <= set(support["operators"]), section


def test_rules_name_inputs_and_attributes_of_onnx() -> None:
    support = read_yaml(OPERATORS_FILE, EngineError)
    history: dict[str, set[str]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            formals = (*schema.inputs, *schema.outputs)
            names = {*schema.attributes, *(formal.name for formal in formals)}
            history.setdefault(schema.name, set()).update(names)
    sections = ("inputs", "constant", "given", "outputs", "attributes", "ranks", "zero", "below")
    for section in sections:
        for operator, names in support[section].items():
            if operator in history:  # three are older than ONNX's own definitions
                assert set(names) <= history[operator], (section, operator)
    for operator, text in support["optional"].items():
        assert set(text.split()) <= history[operator], operator


def test_versions_are_parsed() -> None:
    assert [parse_version(v) for v in ("10.3", "10.16.1.11", "11.4.1")] == [
        (10, 3),
        (10, 16),
        (11, 4),
    ]
