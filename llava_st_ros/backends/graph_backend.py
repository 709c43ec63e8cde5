"""What ONNX Runtime and TensorRT share: an engine directory's four graphs as a backend.

Each graph is given the places where its results belong: the vision graph writes a frame's features
where the packer reads them, the packer writes where the decoder reads, and the decoder puts new
keys and values right behind the old ones in the cache. What has been there is never copied again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from llava_st_ros.backends.base import BackendDescription, Cache, check_ids
from llava_st_ros.backends.engine_files import EngineFiles
from llava_st_ros.backends.frame_pool import FramePool, PooledFrame
from llava_st_ros.backends.preprocessing import preprocess
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.device_arrays import HOST, Device, DeviceArray
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.records import Prompt
from llava_st_ros.text.prompt_layout import lay_out

GRAPHS = ("vision", "image", "packer", "language")
CACHE_STEP = 1024  # positions; a cache has room for a multiple of them


class Graph(Protocol):
    """A graph of the engine directory, ready to run; ``inputs`` are their names, ``outputs`` the
    data types by name."""

    @property
    def inputs(self) -> Collection[str]: ...

    @property
    def outputs(self) -> Mapping[str, np.dtype]: ...

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Compute ``outputs``, which may lie on the backend's device or on the host, as ``inputs``
        may. Those on the host are whole on return. Raises BackendError."""
        ...


@dataclass(frozen=True)
class VisualTokens:
    """Visual tokens [W, D] and how many of them are of which kind: (N,) or (fast, slow)."""

    rows: DeviceArray
    counts: tuple[int, ...]

    @property
    def fast(self) -> DeviceArray:
        return self.rows[: self.counts[0]]

    @property
    def slow(self) -> DeviceArray:
        return self.rows[self.counts[0] :]

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.asarray(self.rows).astype(dtype or self.rows.dtype)


@dataclass(frozen=True)
class PromptRows:
    """A prompt, or a part of it, as the language graph takes it: see export.language_graph.
    Stands for the embeddings of its positions."""

    ids: np.ndarray
    visual: DeviceArray
    mixed: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> PromptRows:
        return replace(self, ids=np.ascontiguousarray(self.ids[part]))


class GraphCache:
    """Keys and values [layers, capacity, kv_heads, head_dim] of one conversation."""

    def __init__(self, device: Device, config: ModelConfig, dtype: np.dtype) -> None:
        language = config.language
        self._device, self._limit = device, language.max_position_embeddings
        heads = language.num_key_value_heads
        dim = language.hidden_size // language.num_attention_heads
        shape = (language.num_hidden_layers, min(CACHE_STEP, self._limit), heads, dim)
        self.keys, self.values = device.empty(shape, dtype), device.empty(shape, dtype)
        self.length = 0

    def reserve(self, more: int) -> None:
        """Make room for so many positions. BackendError beyond the model's."""
        needed = self.length + more
        if needed > self._limit:
            raise BackendError(
                f"{needed} positions; expected at most the model's {self._limit}",
                "ask a shorter question or allow fewer new tokens",
            )
        rows = self.keys.shape[1]
        if needed <= rows:
            return
        rows = min(max(-(-needed // CACHE_STEP) * CACHE_STEP, 2 * rows), self._limit)
        if self.length:
            self.keys = self._device.grown(self.keys, rows, axis=1)
            self.values = self._device.grown(self.values, rows, axis=1)
        else:
            shape = (self.keys.shape[0], rows, *self.keys.shape[2:])
            self.keys, self.values = (self._device.empty(shape, self.keys.dtype) for _ in range(2))

    def truncate(self, length: int) -> None:
        """Forget every position from ``length`` on; BackendError unless 0 <= length <= held."""
        if not 0 <= length <= self.length:
            raise BackendError(
                f"truncate({length}) of a cache of {self.length} positions"
                "; expected a length between 0 and what it holds",
            )
        self.length = length


class GraphBackend:
    """See ``backends.base.Backend`` for the contract. Calls may come from several threads.

    ``graphs`` are those of GRAPHS, by name. Raises EngineError for graphs of another version.
    """

    def __init__(
        self, name: str, engine: EngineFiles, device: Device, graphs: Mapping[str, Graph]
    ) -> None:
        self.config = engine.config
        self._name, self._engine, self._device, self._graphs = name, engine, device, graphs
        self._layers = range(self.config.language.num_hidden_layers)
        self._check_graphs()
        self._dtype = graphs["vision"].outputs["features"]
        width = self.config.language.hidden_size
        self._width = width
        frame = (self.config.tokens_per_frame, width)
        self._pool = FramePool(self._device, frame, self._dtype, 2 * self.config.num_frames)
        self._nothing = self._device.put(np.zeros((1, width), self._dtype))
        # A frame's place may move while the pool grows; and one graph uses all threads anyway.
        self._running = threading.RLock()

    def describe(self) -> BackendDescription:
        precision = self._engine.manifest.precision
        return BackendDescription(self._name, self.config, str(self._device), precision)

    def encode_frame(self, image: np.ndarray) -> PooledFrame:
        return self.encode_pixels(preprocess(image, self.config.image_size)[None])[0]

    def encode_pixels(self, pixels: np.ndarray) -> list[PooledFrame]:
        """Normalised pixels f32 [B, 3, S, S] -> B frames' features [N, D] before LAPE."""
        frames = []
        with self._running:
            for image in pixels:
                frame = self._pool.take()
                self._graphs["vision"].run(
                    {"pixels": HOST.put(image[None])},
                    {"features": frame.array.as_batch()},
                )
                frames.append(frame)
        return frames

    def pack(self, features: Sequence[PooledFrame], time_indices: Sequence[int]) -> VisualTokens:
        self.config.check_window(len(features), time_indices)
        fast = len(features) * self.config.fast_tokens_per_frame
        slow = len(features) // self.config.packer.temporal_region
        slow *= self.config.slow_tokens_per_frame
        tokens = self._device.empty((fast + slow, self._width), self._dtype)
        with self._running:
            self._graphs["packer"].run(
                {
                    "features": self._pool.array,
                    "frames": HOST.put(np.array([frame.row for frame in features], np.int64)),
                    "time_indices": HOST.put(np.array(time_indices, np.int64)),
                },
                {"fast": tokens[:fast], "slow": tokens[fast:]},
            )
        return VisualTokens(tokens, (fast, slow))

    def image_tokens(self, features: PooledFrame) -> VisualTokens:
        tokens = self._device.empty((self.config.tokens_per_frame, self._width), self._dtype)
        with self._running:
            self._graphs["image"].run({"features": features.array}, {"tokens": tokens})
        return VisualTokens(tokens, (len(tokens),))

    def embed(self, prompt: Prompt, visual: VisualTokens | None) -> PromptRows:
        ids = np.array(prompt.token_ids, np.int64)
        check_ids(self.config, ids)
        layout = lay_out(ids, self.config, visual.counts if visual else (), prompt.inputs)
        for position, row, count in layout.blocks:
            ids[position : position + count] = self.config.vocabulary + row + np.arange(count)
        mixed, given = [], self._engine.mixed(prompt)
        for axis in Axis:
            places = layout.inputs[axis]
            if len(places):
                ids[places] = -1 - sum(map(len, mixed)) - np.arange(len(places))
                mixed.append(given[axis].astype(self._dtype, copy=False))
        return PromptRows(
            ids,
            visual.rows if visual else self._nothing,
            np.concatenate(mixed) if mixed else np.zeros((1, self._width), self._dtype),
        )

    def new_cache(self) -> GraphCache:
        return GraphCache(self._device, self.config, self._dtype)

    def prefill(self, embeddings: PromptRows, cache: Cache) -> np.ndarray:
        if not len(embeddings):
            raise BackendError("an empty prompt; expected at least one position")
        last = np.array([len(embeddings) - 1])
        return self._append(embeddings, last, cache)[0]

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        ids = np.asarray(token_ids, np.int64)
        if not len(ids):
            return np.empty((0, self.config.vocabulary), np.float32)
        check_ids(self.config, ids)
        nothing = np.zeros((1, self._width), self._dtype)
        return self._append(PromptRows(ids, self._nothing, nothing), np.arange(len(ids)), cache)

    def _append(self, prompt: PromptRows, rows: np.ndarray, cache: Cache) -> np.ndarray:
        """Append positions to the cache -> logits f32 [R, vocabulary] of some of them."""
        if not isinstance(cache, GraphCache):
            raise BackendError(
                f"a {type(cache).__name__}; expected a cache of this backend", "use new_cache()"
            )
        cache.reserve(len(prompt))
        start, stop = cache.length, cache.length + len(prompt)
        logits = np.empty((len(rows), self.config.vocabulary), np.float32)
        inputs = {
            "ids": HOST.put(prompt.ids),
            "visual": prompt.visual,
            "mixed": HOST.put(prompt.mixed),
            "rows": HOST.put(rows.astype(np.int64)),
        }
        outputs = {"logits": HOST.put(logits)}
        for kind, states in (("key", cache.keys), ("value", cache.values)):
            for layer in self._layers:
                inputs[f"past_{kind}_{layer}"] = states[layer][:start]
                outputs[f"new_{kind}_{layer}"] = states[layer][start:stop]
        with self._running:
            self._graphs["language"].run(inputs, outputs)
        cache.length = stop
        return logits

    def _check_graphs(self) -> None:
        """EngineError unless inputs and outputs are named as this version names them."""
        states = [f"{kind}_{layer}" for kind in ("key", "value") for layer in self._layers]
        expected = {
            "vision": ({"pixels"}, {"features"}),
            "image": ({"features"}, {"tokens"}),
            "packer": ({"features", "frames", "time_indices"}, {"fast", "slow"}),
            "language": (
                {"ids", "visual", "mixed", "rows", *(f"past_{name}" for name in states)},
                {"logits", *(f"new_{name}" for name in states)},
            ),
        }
        for name, (inputs, outputs) in expected.items():
            graph = self._graphs[name]
            odd = sorted(set(graph.inputs) ^ inputs | set(graph.outputs) ^ outputs)
            if odd:
                raise EngineError(
                    f"{self._engine.graph(name)}: other inputs or outputs ({', '.join(odd[:3])})"
                    "; expected those of this version",
                    "export the checkpoint again",
                )
