"""Describe an exported ONNX graph without loading its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from llava_st_ros.errors import EngineError
from llava_st_ros.export.plugin_names import DOMAIN


def inspect_graph(path: Path) -> dict[str, Any]:
    """Describe the graph in an ONNX file.

    Returns:
        "inputs" and "outputs" as a list of "name dtype [sizes]", the number of "nodes" and of
        "plugins" (plugin nodes), "weights" in bytes, and "precisions": the dtypes of the weights,
        largest share first.

    Raises:
        EngineError: The file is not an ONNX file.
    """
    try:
        model = onnx_ir.from_proto(onnx.load(path, load_external_data=False))
    except Exception as error:  # errors of protobuf and onnx_ir
        raise EngineError(f"{path} is not a readable ONNX file: {error}", "export again") from error
    graph = model.graph
    bytes_by_dtype: Counter[str] = Counter()
    for value in graph.initializers.values():
        weight = value.const_value
        assert weight is not None  # an initializer of a file has a value
        bytes_by_dtype[weight.dtype.name.lower()] += weight.nbytes
    return {
        "inputs": [_describe(value) for value in graph.inputs],
        "outputs": [_describe(value) for value in graph.outputs],
        "nodes": len(graph),
        "plugins": sum(node.domain == DOMAIN for node in graph),
        "weights": sum(bytes_by_dtype.values()),
        "precisions": [name for name, _ in bytes_by_dtype.most_common()],
    }


def _describe(value: onnx_ir.Value) -> str:
    assert value.dtype is not None  # inputs and outputs of a file have a type
    sizes = ", ".join(map(str, value.shape or ()))
    return f"{value.name} {value.dtype.name.lower()} [{sizes}]"
