#!/usr/bin/env bash
# ONNX Runtime's static int8 quantization makes a Gemm's bias int32, which TensorRT's parser rejects.
#
# Versions: onnxruntime 1.31.1, onnx 1.23.2, TensorRT for RTX 1.7.1.116 (its parser runs without a
# GPU), Python 3.11 or 3.12, x86-64.
#
# Behavior: quantize_static with the QDQ format, symmetric int8 for weights and activations (what
# TensorRT asks for) stores the bias of a Gemm as int32 before a DequantizeLinear. TensorRT parses
# DequantizeLinear of 8-bit and 4-bit types only and rejects the model. The same layer written as
# MatMul and Add gets an int8 bias and is accepted; so is Gemm with extra_options QuantizeBias=False.
#
# One would have guessed: symmetric QDQ from ONNX Runtime's own quantizer is the common format that
# TensorRT reads, whichever operator the linear layer is written as.
#
# Where it matters: exporting an int8 model with torch.onnx (nn.Linear on 2-D input becomes Gemm) and
# building a TensorRT engine of it, on a Jetson for instance.
#
# Output seen:
#   onnxruntime 1.31.1, TensorRT for RTX 1.7.1.116
#   Gemm: bias INT32, parsed False
#   MatMul and Add: bias INT8, parsed True
#   Gemm, QuantizeBias=False: bias FLOAT, parsed True
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "onnxruntime==1.31.1" "onnx==1.23.2" "numpy<3" \
  "tensorrt-rtx-cu13==1.7.1.116" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import tensorrt_rtx as tensorrt
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

logging.disable(logging.WARNING)
work = Path(sys.argv[1])
print(f"onnxruntime {version('onnxruntime')}, TensorRT for RTX {tensorrt.__version__}")
generator = np.random.default_rng(0)
weight = generator.standard_normal((8, 4)).astype(np.float32)
bias = generator.standard_normal(4).astype(np.float32)
GEMM = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])]
MATMUL = [
    helper.make_node("MatMul", ["x", "weight"], ["product"]),
    helper.make_node("Add", ["product", "bias"], ["y"]),
]


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = 4

    def get_next(self):
        self.left -= 1
        x = generator.standard_normal((2, 8)).astype(np.float32)
        return {"x": x} if self.left >= 0 else None


def quantized(label, nodes, **options):
    """The type of the stored bias, and whether TensorRT parses the quantized model."""
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, work / "plain.onnx")
    quantize_static(
        work / "plain.onnx",
        work / "int8.onnx",
        Samples(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, **options},
    )
    stored = {
        tensor.name: TensorProto.DataType.Name(tensor.data_type)
        for tensor in onnx.load(work / "int8.onnx").graph.initializer
    }
    kind = next(stored[name] for name in ("bias_quantized", "bias") if name in stored)
    logger = tensorrt.Logger(tensorrt.Logger.INTERNAL_ERROR)
    network = tensorrt.Builder(logger).create_network(0)
    parsed = tensorrt.OnnxParser(network, logger).parse((work / "int8.onnx").read_bytes())
    print(f"{label}: bias {kind}, parsed {parsed}")
    return kind, parsed


assert quantized("Gemm", GEMM) == ("INT32", False), "the two agree now"
assert quantized("MatMul and Add", MATMUL) == ("INT8", True)
assert quantized("Gemm, QuantizeBias=False", GEMM, QuantizeBias=False) == ("FLOAT", True)
PYTHON

"$work/venv/bin/python" "$work/probe.py" "$work"
