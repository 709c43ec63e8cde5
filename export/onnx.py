"""A checkpoint's four graphs as ONNX files.

Sizes that change from call to call are dynamic: images at once, frames, positions before and at
hand, visual tokens, coordinate inputs, wanted logits. ``vision_graph``, ``packer_graph`` and
``language_graph`` say what they compute.
"""

from __future__ import annotations

import itertools
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

from llava_st_ros.errors import EngineError
from llava_st_ros.export.graphs.language import LanguageGraph
from llava_st_ros.export.graphs.packer import ImageGraph, PackerGraph
from llava_st_ros.export.graphs.region_attention import OPSET, TRANSLATIONS, with_body
from llava_st_ros.export.graphs.vision import VisionGraph
from llava_st_ros.model.llava_st import LlavaST

TESTED = "2.13"
EXTERNAL = 256 << 20  # bytes; a protobuf ends at 2 GiB


@dataclass(frozen=True)
class Graph:
    """A module and what its export needs: example inputs, dynamic sizes (by input), names."""

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def graphs(model: LlavaST) -> Iterator[Graph]:
    """The four of a model, which is on the CPU in the precision that its graphs shall have."""
    config, dtype = model.config, model.lm_head.weight.dtype
    language, width = config.language, config.language.hidden_size
    size, tokens = config.image_size, config.tokens_per_frame
    # Examples of sizes that no dynamic axis may be taken for: not 0, 1, nor two alike.
    yield Graph(
        "vision",
        VisionGraph(model),
        (torch.zeros(3, 3, size, size),),
        ({0: Dim("images")},),
        ("pixels",),
        ("features",),
    )
    yield Graph(
        "image",
        ImageGraph(model),
        (torch.zeros(tokens, width, dtype=dtype),),
        ({},),
        ("features",),
        ("tokens",),
    )
    regions, region = Dim("regions"), config.packer.temporal_region
    yield Graph(
        "packer",
        PackerGraph(model),
        (
            torch.zeros(3, tokens, width, dtype=dtype),
            torch.zeros(2 * region, dtype=torch.long),
            torch.arange(2 * region),
        ),
        ({0: Dim("kept")}, {0: region * regions}, {0: region * regions}),
        ("features", "frames", "time_indices"),
        ("fast", "slow"),
    )
    layers = language.num_hidden_layers
    past = torch.zeros(
        7, language.num_key_value_heads, width // language.num_attention_heads, dtype=dtype
    )
    before = Dim("before")
    names = [[f"{kind}_{i}" for i in range(layers)] for kind in ("key", "value")]
    yield Graph(
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
        ("ids", "visual", "mixed", "rows", *(f"past_{name}" for name in itertools.chain(*names))),
        ("logits", *(f"new_{name}" for name in itertools.chain(*names))),
    )


def write(graph: Graph, path: Path) -> None:
    """Export a graph in the form that ONNX Runtime takes. Raises EngineError where torch cannot
    export it, OSError."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is missing
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph.module.eval(),
                graph.inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=graph.dynamic,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise EngineError(
                f"{graph.name}: {str(error).splitlines()[0]}; expected a graph that torch exports",
                f"use torch {TESTED}, with which this is tested",
            ) from error
    model = program.model
    _give_axes(model)
    with_body(model)
    save(model, path)


def rewrite(path: Path, form: Callable[[onnx_ir.Model], None]) -> None:
    """Bring an exported graph into another form of ``region_attention``."""
    model = onnx_ir.load(path)
    model.functions.clear()
    form(model)
    save(model, path)


def save(model: onnx_ir.Model, path: Path) -> None:
    """Write a checked ONNX file. Weights of EXTERNAL bytes and more lie beside it, in
    <name>.data."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    aside = path.with_suffix(".data")
    if weights >= EXTERNAL:
        onnx_ir.save(model, path, external_data=aside.name)
    else:
        onnx_ir.save(onnx_ir.external_data.load_to_model(model), path)
        aside.unlink(missing_ok=True)
    onnx.checker.check_model(path)


def _give_axes(model: onnx_ir.Model) -> None:
    """To Squeeze, of which torch leaves them out where it takes a size for a number: some versions
    of TensorRT's parser want them (operators.yaml)."""
    bare = [n for n in model.graph if n.op_type == "Squeeze" and len(n.inputs) == 1]
    if bare:
        axes = onnx_ir.Value(name="squeezed_axes", const_value=onnx_ir.tensor([0]))
        model.graph.register_initializer(axes)
    for node in bare:
        assert node.inputs[0].shape.rank() == 1
        node.resize_inputs(2)
        node.replace_input_with(1, axes)
