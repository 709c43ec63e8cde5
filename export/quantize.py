"""Exported graphs in fewer bits, written into their own files.

Only products with a constant matrix are touched. Embeddings and head keep their precision: their
rows are words and coordinates, and between two neighboring coordinates lies little.

int8: activations and weights, explicit QuantizeLinear and DequantizeLinear around each product,
scales from recorded inputs (``export.calibration``). int4: weights alone, in groups that share a
scale.
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

from llava_st_ros.errors import EngineError
from llava_st_ros.export.onnx import save

Feed = Mapping[str, np.ndarray]
GROUPS = (128, 64, 32, 16)  # weights with one scale in int4: the first that divides all rows
PRODUCTS = ("MatMul", "Gemm")
ON_INT8 = 4  # MatMulNBits' accuracy_level: activations in int8 too, inside the product


@dataclass(frozen=True)
class Dialect:
    """What a runtime takes for quantized products.

    ``activations`` are uint8 with a zero point, which x86 multiplies fastest, or int8 without one,
    all that TensorRT knows. With ``gemm`` that operator is quantized too, its bias in int32: ONNX
    Runtime makes Gemms of MatMul and Add before it looks at what is quantized, and then takes their
    weights for float32; TensorRT knows no such bias. ``weights`` of int4 are one operator with
    their product (ONNX Runtime's MatMulNBits: QOperator) or a DequantizeLinear before it (QDQ).
    """

    activations: QuantType
    gemm: bool
    weights: QuantFormat


ONNX_RUNTIME = Dialect(QuantType.QUInt8, True, QuantFormat.QOperator)
TENSORRT = Dialect(QuantType.QInt8, False, QuantFormat.QDQ)


def quantize_int8(path: Path, feeds: Iterable[Feed], vocabulary: int, dialect: Dialect) -> None:
    """Turn the graph at ``path`` into int8, calibrated on ``feeds`` (its inputs, by name).

    Weights have a scale for each output, activations one for all. The head, which has
    ``vocabulary`` outputs, stays as it is. Raises EngineError.
    """
    model = onnx.load(path)
    products = {node.name for node in _products(model, vocabulary)}
    if not products:
        return
    if not dialect.gemm:
        _without_gemm(model, vocabulary)
        save(onnx_ir.from_proto(model), path)
    made = path.with_suffix(".int8.onnx")
    try:
        quantize_static(
            path,
            made,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=dialect.activations,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=sorted(products),
            use_external_data_format=path.with_suffix(".data").exists(),
            extra_options={
                # What a product gives is mostly added to something precise.
                "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
                "ActivationSymmetric": dialect.activations is QuantType.QInt8,
                "WeightSymmetric": True,
            },
        )
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(
            f"{path}: {str(error).splitlines()[0]}; expected a graph that ONNX Runtime quantises",
            "choose another precision",
        ) from error
    save(onnx_ir.load(made), path)
    for left in path.parent.glob(f"{made.name}*"):
        left.unlink()


def quantize_int4(path: Path, vocabulary: int, dialect: Dialect) -> None:
    """Turn the constant matrices of the graph at ``path`` into symmetric int4, those of a head with
    ``vocabulary`` outputs left out. Raises EngineError where no group of GROUPS fits."""
    model = onnx.load(path)
    names = _without_gemm(model, vocabulary)
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    rows = {sizes[node.input[1]][0] for node in model.graph.node if node.name in names}
    group = next((g for g in GROUPS if not any(count % g for count in rows)), None)
    if group is None:
        raise EngineError(
            f"{path}: matrices of {', '.join(map(str, sorted(rows)))} rows in int4"
            f"; expected multiples of {GROUPS[-1]}",
            "choose another precision",
        )
    if dialect.weights is QuantFormat.QDQ:
        _raise_opset(model, 21)  # the first with int4
    quantizer = _quantizer()(
        model,
        block_size=group,
        is_symmetric=True,
        accuracy_level=ON_INT8,
        nodes_to_include=sorted(names),
        quant_format=dialect.weights,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    save(onnx_ir.from_proto(quantizer.model.model), path)


def _quantizer() -> Any:
    """ONNX Runtime's class. Its module, imported, tells the whole process to log everything."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from onnxruntime.quantization import matmul_nbits_quantizer

    root.handlers[:] = handlers
    root.setLevel(level)
    matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
    return matmul_nbits_quantizer.MatMulNBitsQuantizer


class _Feeds(CalibrationDataReader):
    """As ONNX Runtime's calibration reads them."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _products(model: ModelProto, vocabulary: int) -> Iterator[NodeProto]:
    """The products with a constant matrix, but the head."""
    matrices = {t.name: t.dims for t in model.graph.initializer if len(t.dims) == 2}
    for node in model.graph.node:
        constant = node.op_type in PRODUCTS and node.input[1] in matrices
        if constant and vocabulary not in matrices[node.input[1]]:
            yield node


def _without_gemm(model: ModelProto, vocabulary: int) -> set[str]:
    """Write the products as MatMul [.., K] x [K, N], for which alone int4 is made, and an Add.
    Returns their names."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = list(_products(model, vocabulary))
    names, matrices = {n.name for n in products}, {n.input[1] for n in products}
    nodes = []
    for node in graph.node:
        if node.name not in names or node.op_type == "MatMul":
            nodes.append(node)
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert {given.get(name, 1) for name in ("alpha", "beta")} == {1} and not given.get("transA")
        matrix = weights[node.input[1]]
        if given.get("transB"):
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
    kept = [value for value in graph.value_info if value.name not in matrices]  # old shapes
    for field, values in ((graph.node, nodes), (graph.value_info, kept)):
        del field[:]
        field.extend(values)
    return names


def _raise_opset(model: ModelProto, version: int) -> None:
    """To a version from which on nothing that the graph uses has changed."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, version)
