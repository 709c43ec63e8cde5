"""What an exported graph holds, read from its file without its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from llava_st_ros.errors import EngineError
from llava_st_ros.export.graphs.region_attention import DOMAIN


def inspect_graph(path: Path) -> dict[str, Any]:
    """Inputs and outputs ("name dtype [sizes]"), number of nodes and of plugin nodes, bytes of
    weights, and which dtypes the weights have. Raises EngineError."""
    try:
        model = onnx_ir.from_proto(onnx.load(path, load_external_data=False))
    except Exception as error:  # protobuf's own
        raise EngineError(f"{path}: {error}; expected an ONNX file", "export again") from error
    graph = model.graph
    weights = [value.const_value for value in graph.initializers.values()]
    by_type = Counter()
    for weight in weights:
        by_type[weight.dtype.name.lower()] += weight.nbytes
    return {
        "inputs": [_tensor(value) for value in graph.inputs],
        "outputs": [_tensor(value) for value in graph.outputs],
        "nodes": len(graph),
        "plugins": sum(node.domain == DOMAIN for node in graph),
        "weights": sum(by_type.values()),
        "precisions": [name for name, _ in by_type.most_common()],
    }


def _tensor(value: onnx_ir.Value) -> str:
    sizes = ", ".join(map(str, value.shape or ()))
    return f"{value.name} {value.dtype.name.lower()} [{sizes}]"
