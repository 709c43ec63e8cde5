"""Store the float32 weights that float16 represents exactly in half the bytes.

Most checkpoints are float16, and their weights stay as they are in a float32 engine. A Cast node in
front of each gives the graph its float32 weight; ONNX Runtime runs these nodes once, when it loads
the graph, so that it computes with the same numbers as before at the same speed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir

from llava_st_ros.export.onnx_export import save_model

LEAST_BYTES = 1024  # of float32; a node for less is not worth its bytes


def store_exact_weights_in_half(path: Path) -> None:
    """Change the float32 weights of an ONNX file that float16 represents exactly, in place.

    A graph with external data is left as it is: ONNX Runtime maps such a file into memory, but
    would have to keep the result of a Cast node in memory of its own.
    """
    if path.with_suffix(".data").exists():
        return
    model = onnx_ir.load(path)
    graph = model.graph
    casts = [
        cast
        for value in list(graph.initializers.values())
        if (cast := _store_in_half(value, graph))
    ]
    if casts:
        graph.insert_before(graph[0], casts)
        save_model(model, path)


def _store_in_half(value: onnx_ir.Value, graph: onnx_ir.Graph) -> onnx_ir.Node | None:
    """Replace an initializer by its float16 form; return the Cast node that produces the value."""
    weight = value.const_value
    assert weight is not None and value.name is not None  # an initializer of a file has both
    if weight.dtype != onnx_ir.DataType.FLOAT or weight.nbytes < LEAST_BYTES:
        return None
    single = weight.numpy()
    with np.errstate(over="ignore"):  # infinity is not equal to the weight
        half = single.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), single):
        return None
    name = value.name
    stored = onnx_ir.Value(name=f"{name}.half", const_value=onnx_ir.tensor(half))
    cast = onnx_ir.node(
        "Cast", [stored], {"to": onnx_ir.DataType.FLOAT.value}, name=f"{name}.float32"
    )
    (single_again,) = cast.outputs
    value.replace_all_uses_with(single_again)
    del graph.initializers[name]
    single_again.name = name
    graph.register_initializer(stored)
    return cast
