"""Count an engine's memory and operations from a checkpoint's geometry.

The graphs' own modules run on torch's meta device, which has shapes but no memory: their weights
and operations are counted, so that no weights are needed.
``python -m llava_st_ros.export.plan_counts`` stores the plans of the published models.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.config import ModelConfig
from llava_st_ros.export.graphs.language import LanguageGraph
from llava_st_ros.export.graphs.packer import PackerGraph
from llava_st_ros.export.graphs.vision import VisionGraph
from llava_st_ros.export.plan import (
    GEOMETRIES,
    PLANS,
    PRECISIONS,
    GraphCost,
    Precision,
    ResourcePlan,
    check_precision,
)
from llava_st_ros.export.tensorrt.profiles import MAX_ANSWER_TOKENS, TEXT_TOKENS
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality
from llava_st_ros.text.prompt import visual_block

POOLED_WINDOWS = 2  # size of the frame pool, in windows (backends/frame_pool.py)


def make_plan(config: ModelConfig, precision: str) -> ResourcePlan:
    """Estimate memory and cost of a model's engines.

    Raises:
        ConfigError: ``precision`` is not in PRECISIONS.
    """
    check_precision(precision)
    sizes = PRECISIONS[precision]
    dtype = torch.float32 if sizes.other_weights == 4 else torch.float16
    language = config.language
    prompt = len(visual_block(config, Modality.VIDEO)) + TEXT_TOKENS
    longest = max(prompt, config.tokens_per_frame + TEXT_TOKENS) + MAX_ANSWER_TOKENS
    positions = min(longest, language.max_position_embeddings)
    with torch.device("meta"):
        graphs = _graphs(config, dtype)
        weights = {name: _weight_bytes(graph, sizes) for name, graph in graphs.items()}
        # Only the tokens' rows of the embedding table are read.
        table = config.vocabulary * language.hidden_size * sizes.other_weights
        moved = {**weights, "language": weights["language"] - table}
        costs = tuple(
            _cost(name, graphs[graph], moved[graph], inputs)
            for name, graph, inputs in _runs(config, dtype, prompt)
        )
    heads = language.num_key_value_heads * _head_dim(config)
    cache = 2 * language.num_hidden_layers * heads * positions * sizes.other_weights
    frame = config.tokens_per_frame * language.hidden_size * dtype.itemsize
    frames = POOLED_WINDOWS * config.num_frames * frame
    return ResourcePlan(precision, positions, weights, cache, frames, costs)


def _graphs(config: ModelConfig, dtype: torch.dtype) -> dict[str, nn.Module]:
    model = LlavaST(config)
    model.materialize_buffers("meta")
    model.to(dtype)
    return {
        "vision": VisionGraph(model),
        "packer": PackerGraph(model),
        "language": LanguageGraph(model),
    }


def _runs(
    config: ModelConfig, dtype: torch.dtype, prompt: int
) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Each kind of run: its name, its graph, and the graph's inputs."""
    width, window = config.language.hidden_size, config.num_frames
    visual = len(visual_block(config, Modality.VIDEO))

    def decoder_inputs(new: int, cached: int) -> tuple[Any, ...]:
        heads, layers = config.language.num_key_value_heads, config.language.num_hidden_layers
        past = torch.zeros(cached, heads, _head_dim(config), dtype=dtype)
        return (
            torch.zeros(new, dtype=torch.long),
            torch.zeros(visual, width, dtype=dtype),
            torch.zeros(1, width, dtype=dtype),
            torch.zeros(1, dtype=torch.long),
            [past] * layers,
            [past] * layers,
        )

    pixels = torch.zeros(1, 3, config.image_size, config.image_size)
    features = torch.zeros(window, config.tokens_per_frame, width, dtype=dtype)
    rows = torch.zeros(window, dtype=torch.long)
    return [
        ("encode a frame", "vision", (pixels,)),
        ("pack a window", "packer", (features, rows, rows)),
        ("prefill", "language", decoder_inputs(prompt, 0)),
        ("decode a token", "language", decoder_inputs(1, prompt)),
    ]


def _head_dim(config: ModelConfig) -> int:
    return config.language.hidden_size // config.language.num_attention_heads


def _weight_bytes(graph: nn.Module, sizes: Precision) -> float:
    """Bytes of a graph's weights.

    Only matrices of the decoder's layers are quantized; the embedding table, the head and all
    other graphs keep their precision.
    """
    quantized = graph.layers.modules() if isinstance(graph, LanguageGraph) else ()
    matrices = {id(module.weight) for module in quantized if isinstance(module, nn.Linear)}
    total = 0.0
    for tensor in (*graph.parameters(), *graph.buffers()):
        if tensor.is_floating_point():
            bytes_per_value = (
                sizes.matrices_with_scales if id(tensor) in matrices else sizes.other_weights
            )
            total += tensor.numel() * bytes_per_value
    return total


def _cost(name: str, graph: nn.Module, weights: float, inputs: tuple[Any, ...]) -> GraphCost:
    """Run a graph on the meta device and count; ``weights`` are the bytes of weights it reads."""
    own = {_storage(tensor) for tensor in (*graph.parameters(), *graph.buffers())}
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _WorkingSet(own) as working:
        outputs = graph(*inputs)
    data = sum(tensor.nbytes for tensor in _tensors((inputs, outputs)))
    return GraphCost(name, flops.get_total_flops(), weights + data, working.largest)


class _WorkingSet(TorchDispatchMode):
    """Record the largest inputs and outputs of an operation, in bytes, weights excluded."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self.largest = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        storages = {
            _storage(tensor): tensor.untyped_storage().nbytes()
            for tensor in _tensors((args, kwargs, result))
        }
        used = sum(size for key, size in storages.items() if key not in self._weights)
        self.largest = max(self.largest, used)
        return result


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Any) -> list[torch.Tensor]:
    found = []
    for value in values.values() if isinstance(values, dict) else values or ():
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)):
            found += _tensors(value)
    return found


def plan_values(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the content of a stored plan: the plan's values by precision."""
    plans = {name: asdict(make_plan(config, name)) for name in PRECISIONS}
    return {
        name: {k: v for k, v in plan.items() if k != "precision"} for name, plan in plans.items()
    }


def main() -> None:
    """Store the plans of the models in ``geometries``."""
    for path in GEOMETRIES.glob("*.json"):
        values = plan_values(read_config(read_checkpoint_json(path), {}))
        with atomic_file(PLANS / path.name) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
