#!/usr/bin/env bash
# ONNX Runtime runs a quantized MatMul in float32 when an Add of a bias follows.
#
# Versions: onnxruntime 1.31.1, onnx 1.23.2, Python 3.11 or 3.12, CPU execution provider.
#
# Behavior: in a QDQ model whose MatMul is quantized and whose bias is not, MatMul and Add are fused
# into a Gemm before quantized operators are selected. A Gemm with a float bias has no int8 kernel,
# so the weights are dequantized at every call and multiplied in float32. Without the bias the product
# is an int8 operator, and so is the layer written as one Gemm and quantized with its bias (int32).
# Nothing is logged either way.
#
# One would have guessed: a quantized product stays quantized whatever is added to its result.
#
# Where it matters: any exported decoder with biased linear layers: the model file is a quarter of
# the size, but latency is that of float32 or worse. Look at the optimized graph
# (SessionOptions.optimized_model_filepath), not at the file that was made. The Gemm form that helps
# here is the one that TensorRT's parser rejects.
#
# Output seen:
#   onnxruntime 1.31.1
#   MatMul and Add: DequantizeLinear, Gemm, QuantizeLinear
#   MatMul alone: MatMulIntegerToFloat, QuantizeLinear
#   Gemm: QGemm, QuantizeLinear
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "onnxruntime==1.31.1" "onnx==1.23.2" "numpy<3" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

logging.disable(logging.WARNING)
work = Path(sys.argv[1])
print("onnxruntime", version("onnxruntime"))
generator = np.random.default_rng(0)
weight = generator.standard_normal((64, 32)).astype(np.float32)
bias = generator.standard_normal(32).astype(np.float32)


class Samples(CalibrationDataReader):
    def __init__(self, shape):
        self.shape, self.left = shape, 4

    def get_next(self):
        self.left -= 1
        x = generator.standard_normal(self.shape).astype(np.float32)
        return {"x": x} if self.left >= 0 else None


def operators(label, nodes, output, shape=(8, 64)):
    """The operators that ONNX Runtime runs for the quantized layer."""
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [shape[0], 32])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, work / "plain.onnx")
    quantize_static(
        work / "plain.onnx",
        work / "int8.onnx",
        Samples(shape),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=["layer"],
        extra_options={
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        },
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(work / "optimized.onnx")
    onnxruntime.InferenceSession(work / "int8.onnx", options, ["CPUExecutionProvider"])
    found = sorted({node.op_type for node in onnx.load(work / "optimized.onnx").graph.node})
    print(f"{label}: {', '.join(found)}")
    return found


matmul = helper.make_node("MatMul", ["x", "weight"], ["product"], name="layer")
add = helper.make_node("Add", ["product", "bias"], ["y"])
gemm = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], name="layer")
fused = operators("MatMul and Add", [matmul, add], "y")
alone = operators("MatMul alone", [matmul], "product")
together = operators("Gemm", [gemm], "y")
assert "Gemm" in fused and "MatMulIntegerToFloat" not in fused, "the product stays in int8 now"
assert "MatMulIntegerToFloat" in alone and "QGemm" in together
PYTHON

"$work/venv/bin/python" "$work/probe.py" "$work"
