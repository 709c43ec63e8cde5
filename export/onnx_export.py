"""Export a model's four graphs to ONNX files.

Sizes that change between calls are dynamic axes: the batch of images, frames, cached and new
positions, visual tokens, coordinate inputs, and rows of logits. ``export.graphs`` defines what the
graphs compute.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import nn
from torch.export import Dim

from llava_st_ros.errors import EngineError, reason_of
from llava_st_ros.export.graphs.language import LanguageGraph
from llava_st_ros.export.graphs.packer import ImageGraph, PackerGraph
from llava_st_ros.export.graphs.region_attention import OPSET, TRANSLATIONS, add_function
from llava_st_ros.export.graphs.vision import VisionGraph
from llava_st_ros.model.llava_st import LlavaST

TESTED_TORCH = "2.13"
ANNOTATIONS = ("doc_string", "metadata_props")  # ONNX's fields that do not affect the results
EXTERNAL_DATA_BYTES = 256 << 20  # weights from this size on are external; protobuf's limit is 2 GiB


@dataclass(frozen=True)
class GraphSpec:
    """A module and what its export needs.

    Attributes:
        name: Name of the graph.
        module: The module to export.
        inputs: Example inputs.
        dynamic: Dynamic axes of each input, as torch.export's ``dynamic_shapes``.
        input_names: Names of the inputs, lists flattened.
        output_names: Names of the outputs.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def graph_specs(model: LlavaST) -> Iterator[GraphSpec]:
    """Yield the four graphs of a model on the CPU. They compute in the model's dtype."""
    # Example sizes are neither 0 nor 1 nor equal to each other: torch.export would specialize or
    # merge the axes.
    yield _vision_spec(model)
    yield _image_spec(model)
    yield _packer_spec(model)
    yield _language_spec(model)


def _vision_spec(model: LlavaST) -> GraphSpec:
    size = model.config.image_size
    return GraphSpec(
        "vision",
        VisionGraph(model),
        (torch.zeros(3, 3, size, size),),
        ({0: Dim("images")},),
        ("pixels",),
        ("features",),
    )


def _image_spec(model: LlavaST) -> GraphSpec:
    return GraphSpec(
        "image", ImageGraph(model), (_features(model),), ({},), ("features",), ("tokens",)
    )


def _packer_spec(model: LlavaST) -> GraphSpec:
    regions, region = Dim("regions"), model.config.packer.temporal_region
    return GraphSpec(
        "packer",
        PackerGraph(model),
        (
            _features(model, 3),
            torch.zeros(2 * region, dtype=torch.long),
            torch.arange(2 * region),
        ),
        ({0: Dim("kept")}, {0: region * regions}, {0: region * regions}),
        ("features", "frames", "time_indices"),
        ("fast", "slow"),
    )


def _language_spec(model: LlavaST) -> GraphSpec:
    language, dtype = model.config.language, model.lm_head.weight.dtype
    width, layers = language.hidden_size, language.num_hidden_layers
    head_dim = width // language.num_attention_heads
    past = torch.zeros(7, language.num_key_value_heads, head_dim, dtype=dtype)
    before = Dim("before")
    cache_names = [f"{kind}_{layer}" for kind in ("key", "value") for layer in range(layers)]
    return GraphSpec(
        "language",
        LanguageGraph(model),
        (
            torch.arange(5),
            torch.zeros(3, width, dtype=dtype),
            torch.zeros(4, width, dtype=dtype),
            torch.arange(2),
            [past.clone() for _ in range(layers)],
            [past.clone() for _ in range(layers)],
        ),
        (
            {0: Dim("positions")},
            {0: Dim("visual_tokens")},
            {0: Dim("coordinates")},
            {0: Dim("wanted")},
            [{0: before}] * layers,
            [{0: before}] * layers,
        ),
        ("ids", "visual", "mixed", "rows", *(f"past_{name}" for name in cache_names)),
        ("logits", *(f"new_{name}" for name in cache_names)),
    )


def _features(model: LlavaST, *batch: int) -> torch.Tensor:
    """Example features [*batch, N, D]."""
    shape = (*batch, model.config.tokens_per_frame, model.config.language.hidden_size)
    return torch.zeros(shape, dtype=model.lm_head.weight.dtype)


def export_graph(spec: GraphSpec, path: Path) -> None:
    """Export a graph to an ONNX file for ONNX Runtime.

    Raises:
        EngineError: torch cannot export the graph.
        OSError: The file cannot be written.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                spec.module.eval(),
                spec.inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=spec.dynamic,
                input_names=list(spec.input_names),
                output_names=list(spec.output_names),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise EngineError(
                f"torch cannot export the {spec.name} graph: {reason_of(error)}",
                f"use torch {TESTED_TORCH}, the tested version",
            ) from error
    assert program is not None  # it is None only with the TorchScript exporter
    model = program.model
    _add_squeeze_axes(model)
    add_function(model)
    save_model(model, path)


def transform_graph(path: Path, transform: Callable[[onnx_ir.Model], None]) -> None:
    """Change how an exported graph represents region attention, in place.

    Args:
        path: ONNX file.
        transform: A function of ``export.graphs.region_attention``.
    """
    model = onnx_ir.load(path)
    model.functions.clear()
    transform(model)
    save_model(model, path)


def save_model(model: onnx_ir.Model, path: Path) -> None:
    """Write and check an ONNX file.

    Weights of EXTERNAL_DATA_BYTES or more in total are written to <name>.data next to it.
    Annotations are not written: torch stores source paths of this machine in them, and equal
    graphs must give equal files everywhere.
    """
    weights = [value.const_value for value in model.graph.initializers.values()]
    data = path.with_suffix(".data")
    if sum(weight.nbytes for weight in weights if weight is not None) >= EXTERNAL_DATA_BYTES:
        onnx_ir.save(model, path, external_data=data.name)
    else:
        onnx_ir.save(onnx_ir.external_data.load_to_model(model), path)
        data.unlink(missing_ok=True)
    file = onnx.load(path, load_external_data=False)
    _clear_annotations(file)
    onnx.save(file, path)
    onnx.checker.check_model(path)


def _clear_annotations(message: Any) -> None:
    """Clear the metadata and doc strings of a protobuf message and of all messages in it."""
    for field, value in message.ListFields():
        if field.name in ANNOTATIONS:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                _clear_annotations(part)


def _add_squeeze_axes(model: onnx_ir.Model) -> None:
    """Add the axes input to each Squeeze that has none.

    torch omits it where it reads a size as a scalar; the ONNX parsers of some TensorRT
    versions require it (operators.yaml).
    """
    nodes = [n for n in model.graph if n.op_type == "Squeeze" and len(n.inputs) == 1]
    if not nodes:
        return
    axes = onnx_ir.Value(name="squeezed_axes", const_value=onnx_ir.tensor([0]))
    model.graph.register_initializer(axes)
    for node in nodes:
        (squeezed,) = node.inputs
        assert squeezed is not None and squeezed.shape is not None and squeezed.shape.rank() == 1
        node.resize_inputs(2)
        node.replace_input_with(1, axes)
