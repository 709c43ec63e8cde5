"""Quantize exported graphs to int8 or int4, in place.

Only matrix products with constant weights are quantized. Embeddings and the head keep their
precision: they hold one row per token and coordinate, and the rows of neighboring coordinates
differ too little.

int8: weights and activations, with explicit QuantizeLinear and DequantizeLinear nodes around each
product and scales from recorded inputs (``export.calibration``). int4: weights only, in groups
that share a scale.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from llava_st_ros.errors import EngineError, reason_of
from llava_st_ros.export.onnx_export import save_model

Feed = Mapping[str, np.ndarray]
# int4 weights that share a scale: the first size that divides the rows of all matrices.
GROUP_SIZES = (128, 64, 32, 16)
PRODUCTS = ("MatMul", "Gemm")
ACCURACY_INT8 = 4  # accuracy_level of MatMulNBits: it computes with int8 activations


@dataclass(frozen=True)
class QuantizationScheme:
    """How a runtime expects quantized products.

    Attributes:
        activations: Type of int8 activations: uint8 with a zero point, the fastest on x86, or int8
            without one, the only one that TensorRT supports.
        gemm: Whether to quantize Gemm, with an int32 bias. ONNX Runtime needs it: it fuses MatMul
            and Add into Gemm before it matches quantized products, and would dequantize the
            weights of an unquantized Gemm to float32. TensorRT does not support such a bias.
        weights: Form of int4 weights: QOperator is one operator with the product (ONNX Runtime's
            MatMulNBits), QDQ a DequantizeLinear in front of it.
    """

    activations: QuantType
    gemm: bool
    weights: QuantFormat


ONNX_RUNTIME = QuantizationScheme(QuantType.QUInt8, True, QuantFormat.QOperator)
TENSORRT = QuantizationScheme(QuantType.QInt8, False, QuantFormat.QDQ)


def quantize_int8(
    path: Path, feeds: Iterable[Feed], vocabulary: int, scheme: QuantizationScheme
) -> None:
    """Quantize a graph to int8, in place.

    Weights get a scale per output channel, activations one per tensor.

    Args:
        path: ONNX file.
        feeds: Inputs of the graph by name, to calibrate on.
        vocabulary: Number of outputs of the head, which is not quantized.
        scheme: Quantization scheme of the runtime.

    Raises:
        EngineError: ONNX Runtime cannot quantize the graph.
    """
    model = onnx.load(path)
    products = {node.name for node in _products(model, vocabulary)}
    if not products:
        return
    if not scheme.gemm:
        _without_gemm(model, vocabulary)
        save_model(onnx_ir.from_proto(model), path)
    quantized = path.with_suffix(".int8.onnx")
    try:
        _quantize_static(path, quantized, feeds, products, scheme)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(
            f"{path}: ONNX Runtime cannot quantize the graph: {reason_of(error)}",
            "choose another precision",
        ) from error
    save_model(onnx_ir.load(quantized), path)
    for temporary in path.parent.glob(f"{quantized.name}*"):  # with external data
        temporary.unlink()


def _quantize_static(
    path: Path, out: Path, feeds: Iterable[Feed], products: set[str], scheme: QuantizationScheme
) -> None:
    """Write the graph with quantized ``products`` to ``out``."""
    # ONNX Runtime's tools advise, by the root logger, to do what the exporter has done.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        _run_quantizer(path, out, feeds, products, scheme)
    finally:
        logging.disable(disabled)


def _run_quantizer(
    path: Path, out: Path, feeds: Iterable[Feed], products: set[str], scheme: QuantizationScheme
) -> None:
    quantize_static(
        path,
        out,
        _FeedReader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=scheme.activations,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=list(PRODUCTS),
        nodes_to_quantize=sorted(products),
        use_external_data_format=path.with_suffix(".data").exists(),
        extra_options={
            # Most outputs are added to an unquantized value.
            "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
            "ActivationSymmetric": scheme.activations is QuantType.QInt8,
            "WeightSymmetric": True,
        },
    )


def quantize_int4(path: Path, vocabulary: int, scheme: QuantizationScheme) -> None:
    """Quantize the constant matrices of a graph to symmetric int4, in place.

    Args:
        path: ONNX file.
        vocabulary: Number of outputs of the head, which is not quantized.
        scheme: Quantization scheme of the runtime.

    Raises:
        EngineError: No size in GROUP_SIZES divides the rows of all matrices.
    """
    model = onnx.load(path)
    names = _without_gemm(model, vocabulary)
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    rows = {sizes[node.input[1]][0] for node in model.graph.node if node.name in names}
    group = next((g for g in GROUP_SIZES if not any(count % g for count in rows)), None)
    if group is None:
        raise EngineError(
            f"{path}: int4 does not support matrices of {', '.join(map(str, sorted(rows)))} rows; "
            f"expected multiples of {GROUP_SIZES[-1]} rows",
            "choose another precision",
        )
    if scheme.weights is QuantFormat.QDQ:
        _raise_opset(model, 21)  # the first opset with int4
    quantizer = _quantizer_class()(
        model,
        block_size=group,
        is_symmetric=True,
        accuracy_level=ACCURACY_INT8,
        nodes_to_include=sorted(names),
        quant_format=scheme.weights,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    save_model(onnx_ir.from_proto(quantizer.model.model), path)


def _quantizer_class() -> Any:
    """Import ONNX Runtime's MatMulNBitsQuantizer and undo what its module does to logging.

    The module configures the root logger of the process to log everything.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from onnxruntime.quantization import matmul_nbits_quantizer

    root.handlers[:] = handlers
    root.setLevel(level)
    matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
    return matmul_nbits_quantizer.MatMulNBitsQuantizer


class _FeedReader(CalibrationDataReader):
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _products(model: ModelProto, vocabulary: int) -> Iterator[NodeProto]:
    """Yield the products with a constant matrix, except the head."""
    matrices = {t.name: t.dims for t in model.graph.initializer if len(t.dims) == 2}
    for node in model.graph.node:
        constant = node.op_type in PRODUCTS and node.input[1] in matrices
        if constant and vocabulary not in matrices[node.input[1]]:
            yield node


def _without_gemm(model: ModelProto, vocabulary: int) -> set[str]:
    """Replace each Gemm by MatMul [..., K] x [K, N] and Add.

    int4 quantization supports MatMul only.

    Returns:
        The names of all products.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = list(_products(model, vocabulary))
    names, matrices = {n.name for n in products}, {n.input[1] for n in products}
    nodes = []
    for node in graph.node:
        if node.name not in names or node.op_type == "MatMul":
            nodes.append(node)
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert {attributes.get(name, 1) for name in ("alpha", "beta")} == {1}
        assert not attributes.get("transA")
        matrix = weights[node.input[1]]
        if attributes.get("transB"):
            transposed = np.ascontiguousarray(numpy_helper.to_array(matrix).T)
            matrix.CopyFrom(numpy_helper.from_array(transposed, matrix.name))
        biased = len(node.input) > 2
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", node.input[:2], [product], name=node.name))
        if biased:
            nodes.append(
                helper.make_node(
                    "Add", [product, node.input[2]], node.output, name=f"{node.name}_bias"
                )
            )
    kept = [
        value for value in graph.value_info if value.name not in matrices
    ]  # shapes before the transpose
    for field, values in ((graph.node, nodes), (graph.value_info, kept)):
        del field[:]
        field.extend(values)
    return names


def _raise_opset(model: ModelProto, version: int) -> None:
    """Raise the opset to a version in which no operator of the graph has changed."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, version)
