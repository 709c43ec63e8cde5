"""Before anything is built: how much memory an engine needs, and how fast a board could run it.

Everything is read off the graphs' own modules on torch's meta device, which have shapes but no
memory: weights are counted, operations counted as they run, and nothing of a checkpoint but its
geometry is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.export.graphs.language import LanguageGraph
from llava_st_ros.export.graphs.packer import PackerGraph
from llava_st_ros.export.graphs.vision import VisionGraph
from llava_st_ros.export.tensorrt.profiles import ANSWER, WORDS
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality
from llava_st_ros.text.prompt import visual_block

BOARDS = Path(__file__).parent / "boards.yaml"
GEOMETRIES = Path(__file__).parent / "geometries"  # config.json of models whose weights are far
RESERVED = 2.5 * 2**30  # system, node and CUDA's own
KEPT_WINDOWS = 2  # frames whose features are kept, in windows (backends/frame_pool.py)


@dataclass(frozen=True)
class Precision:
    """Bytes of a value: in the decoder's matrices, and in everything else. ``group`` weights share
    a 16-bit scale, 0: none."""

    matrices: float
    rest: int
    group: int = 0

    @property
    def of_matrices(self) -> float:
        return self.matrices + (2 / self.group if self.group else 0)


PRECISIONS = {
    "float32": Precision(4, 4),
    "float16": Precision(2, 2),
    "bfloat16": Precision(2, 2),
    "int8": Precision(1, 2),
    "int4": Precision(0.5, 2, group=128),
}


@dataclass(frozen=True)
class Board:
    """``memory`` GiB, ``bandwidth`` GB/s, ``tflops`` dense float16 TFLOP/s."""

    name: str
    memory: float
    bandwidth: float
    tflops: float


@dataclass(frozen=True)
class Stage:
    """One run of a graph. ``flops`` counts a multiply-add as two; ``moved`` are the bytes that have
    to be read or written at least once: weights, inputs, outputs; ``working`` the largest inputs
    and outputs of a single operation, bytes."""

    name: str
    flops: int
    moved: float
    working: float

    def seconds(self, board: Board) -> float:
        """The roofline: no run takes less."""
        return max(self.flops / (board.tflops * 1e12), self.moved / (board.bandwidth * 1e9))


@dataclass(frozen=True)
class Plan:
    """Bytes: ``weights`` of each graph, ``cache`` of the keys and values of the longest
    conversation (``positions``), ``frames`` of the features kept."""

    precision: str
    positions: int
    weights: Mapping[str, float]
    cache: float
    frames: float
    stages: tuple[Stage, ...]

    @cached_property
    def running(self) -> float:
        """Bytes of the device's memory while it runs, the system's own left out."""
        working = max(stage.working for stage in self.stages)
        return sum(self.weights.values()) + self.cache + self.frames + working

    @cached_property
    def building(self) -> float:
        """An estimate of the bytes at the worst moment of the build: the largest graph's weights as
        they are read and as they are placed, and what one operation of it needs."""
        working = max(stage.working for stage in self.stages)
        return 2 * max(self.weights.values()) + working

    def fits(self, board: Board) -> bool:
        return max(self.running, self.building) + RESERVED <= board.memory * 2**30


def boards() -> list[Board]:
    values = yaml.safe_load(BOARDS.read_text(encoding="utf-8"))
    return [Board(name, **sizes) for name, sizes in values.items()]


def make_plan(config: ModelConfig, precision: str) -> Plan:
    """Raises ConfigError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    sizes = PRECISIONS[precision]
    dtype = torch.float32 if sizes.rest == 4 else torch.float16
    with torch.device("meta"):
        model = LlavaST(config)
        model.materialize_buffers("meta")
        model.to(dtype)
        parts: dict[str, nn.Module] = {
            "vision": VisionGraph(model),
            "packer": PackerGraph(model),
            "language": LanguageGraph(model),
        }
        weights = {name: _weights(part, sizes) for name, part in parts.items()}
        language, frames = config.language, config.num_frames
        width, tokens = language.hidden_size, config.tokens_per_frame
        visual = len(visual_block(config, Modality.VIDEO))
        prompt = visual + WORDS
        positions = min(
            max(prompt, tokens + WORDS) + ANSWER, config.language.max_position_embeddings
        )
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
        seen = torch.zeros(frames, tokens, width, dtype=dtype)
        window = torch.zeros(frames, dtype=torch.long)

        # Of the table of embeddings only the rows asked for are read.
        read = weights["language"] - config.vocabulary * width * sizes.rest

        def decoder(new: int, before: int) -> tuple[Any, ...]:
            dim = width // language.num_attention_heads
            past = torch.zeros(before, language.num_key_value_heads, dim, dtype=dtype)
            return (
                torch.zeros(new, dtype=torch.long),
                torch.zeros(visual, width, dtype=dtype),
                torch.zeros(1, width, dtype=dtype),
                torch.zeros(1, dtype=torch.long),
                [past] * language.num_hidden_layers,
                [past] * language.num_hidden_layers,
            )

        stages = (
            _stage("encode a frame", parts["vision"], weights["vision"], (pixels,)),
            _stage("pack a window", parts["packer"], weights["packer"], (seen, window, window)),
            _stage("prefill", parts["language"], read, decoder(prompt, 0)),
            _stage("decode a token", parts["language"], read, decoder(1, prompt)),
        )
    heads = language.num_key_value_heads * (width // language.num_attention_heads)
    cache = 2 * language.num_hidden_layers * heads * positions * sizes.rest
    return Plan(precision, positions, weights, cache, KEPT_WINDOWS * seen.nbytes, stages)


def _weights(part: nn.Module, sizes: Precision) -> float:
    """Bytes of a graph's weights. Matrices inside the decoder's layers may be quantized; the
    table, the head and everything else keep their precision."""
    layers = getattr(part, "layers", None) if isinstance(part, LanguageGraph) else None
    matrices = {
        id(module.weight)
        for module in (layers.modules() if layers is not None else ())
        if isinstance(module, nn.Linear)
    }
    total = 0.0
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.is_floating_point():
            each = sizes.of_matrices if id(tensor) in matrices else sizes.rest
            total += tensor.numel() * each
    return total


def _stage(name: str, part: nn.Module, weights: float, inputs: tuple[Any, ...]) -> Stage:
    own = {_storage(tensor) for tensor in (*part.parameters(), *part.buffers())}
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _WorkingSet(own) as working:
        outputs = part(*inputs)
    given = sum(tensor.nbytes for tensor in _tensors((inputs, outputs)))
    return Stage(name, flops.get_total_flops(), weights + given, working.largest)


class _WorkingSet(TorchDispatchMode):
    """Notes the operation whose inputs and outputs, weights left out, are largest, in bytes."""

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
