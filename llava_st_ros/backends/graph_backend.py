"""Runs the four graphs of an engine directory; shared by ONNX Runtime and TensorRT.

Each graph writes its outputs where they are needed next: the vision graph writes a frame's features
into the pool that the packer reads, the packer writes the decoder's input, and the decoder writes
new keys and values directly after the old ones in the KV cache. No intermediate result is copied.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

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
from llava_st_ros.text.prompt_layout import make_layout

GRAPHS = ("vision", "image", "packer", "language")
CACHE_STEP = 1024  # positions; a cache's capacity is a multiple of it


class GraphSession(Protocol):
    """A runtime session of one graph of the engine directory.

    Attributes:
        inputs: Names of the inputs.
        outputs: Data types of the outputs, by name.
    """

    @property
    def inputs(self) -> Collection[str]: ...

    @property
    def outputs(self) -> Mapping[str, np.dtype]: ...

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Run the graph and write the results into ``outputs``.

        All arrays are on the backend's device or on the host. Host outputs are complete on return.
        Raises BackendError.
        """
        ...


@dataclass(frozen=True)
class VisualTokens:
    """Visual tokens [W, D].

    Attributes:
        rows: The tokens [W, D].
        counts: (N,) for an image, (fast, slow) for a video.
    """

    rows: DeviceArray
    counts: tuple[int, ...]

    @property
    def fast(self) -> DeviceArray:
        return self.rows[: self.counts[0]]

    @property
    def slow(self) -> DeviceArray:
        return self.rows[self.counts[0] :]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.rows).astype(self.rows.dtype if dtype is None else dtype)


@dataclass(frozen=True)
class PromptInputs:
    """A prompt, or a slice of it, as inputs of the language graph (export/graphs/language.py).

    It replaces the prompt's embeddings, which the graph looks up itself.

    Attributes:
        ids: One index per position, i64 [L]: a token id below V, V + a row of ``visual``, or
            -1 - a row of ``coordinates``, with V the vocabulary size.
        visual: Visual tokens [W, D].
        coordinates: Embeddings of the coordinate inputs [K, D].
    """

    ids: np.ndarray
    visual: DeviceArray
    coordinates: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> PromptInputs:
        return replace(self, ids=np.ascontiguousarray(self.ids[part]))


class GraphCache:
    """The KV cache of one conversation: keys and values [layers, capacity, kv_heads, head_dim]."""

    def __init__(
        self, device: Device, config: ModelConfig, dtype: np.dtype, positions: int
    ) -> None:
        language = config.language
        self._device, self._limit = device, positions
        heads = language.num_key_value_heads
        dim = language.hidden_size // language.num_attention_heads
        shape = (language.num_hidden_layers, min(CACHE_STEP, self._limit), heads, dim)
        self.keys, self.values = device.empty(shape, dtype), device.empty(shape, dtype)
        self.length = 0

    def reserve(self, count: int) -> None:
        """Reserve ``count`` more positions. Raises BackendError beyond the model's limit."""
        needed = self.length + count
        if needed > self._limit:
            raise BackendError(
                f"the cache would have {needed} positions; expected at most {self._limit}",
                "shorten the query or allow fewer new tokens",
            )
        capacity = self.keys.shape[1]
        if needed <= capacity:
            return
        capacity = min(max(-(-needed // CACHE_STEP) * CACHE_STEP, 2 * capacity), self._limit)
        if self.length:
            self.keys = self._device.grow(self.keys, capacity, axis=1)
            self.values = self._device.grow(self.values, capacity, axis=1)
        else:
            shape = (self.keys.shape[0], capacity, *self.keys.shape[2:])
            self.keys, self.values = (self._device.empty(shape, self.keys.dtype) for _ in range(2))

    def truncate(self, length: int) -> None:
        """Drop every position from ``length`` on. Raises BackendError out of range."""
        if not 0 <= length <= self.length:
            raise BackendError(
                f"truncate({length}) of a cache of {self.length} positions; expected 0 to "
                f"{self.length}"
            )
        self.length = length


class GraphBackend:
    """A Backend over one session per graph; thread-safe.

    Attributes:
        max_positions: The most positions of a prompt and its answer together.

    Args:
        name: The backend's name.
        engine: The engine directory.
        device: Where arrays are allocated.
        sessions: A session for each of GRAPHS.

    Raises:
        EngineError: The graphs' inputs or outputs are those of another version.
    """

    def __init__(
        self, name: str, engine: EngineFiles, device: Device, sessions: Mapping[str, GraphSession]
    ) -> None:
        self.config = engine.config
        self.sessions = sessions
        self.max_positions = engine.config.language.max_position_embeddings
        self._name, self._engine, self._device = name, engine, device
        self._layers = range(self.config.language.num_hidden_layers)
        self._check_sessions()
        self._dtype = sessions["vision"].outputs["features"]
        width = self.config.language.hidden_size
        self._width = width
        self.frame_pool = FramePool(
            device, (self.config.tokens_per_frame, width), self._dtype, 2 * self.config.num_frames
        )
        self._no_visual = device.put(np.zeros((1, width), self._dtype))
        self._no_coordinates = np.zeros((1, width), self._dtype)
        # Serializes runs: a growing pool moves its array, and one graph uses all threads anyway.
        self._run_lock = threading.RLock()

    def describe(self) -> BackendDescription:
        precision = self._engine.manifest.precision
        return BackendDescription(
            self._name, self.config, str(self._device), precision, self.max_positions
        )

    def encode_frame(self, image: np.ndarray) -> PooledFrame:
        return self.encode_pixels(preprocess(image, self.config.image_size)[None])[0]

    def encode_pixels(self, pixels: np.ndarray) -> list[PooledFrame]:
        """Encode normalized pixels f32 [B, 3, S, S] -> B frames' features [N, D] before LAPE."""
        frames = []
        with self._run_lock:
            for image in pixels:
                frame = self.frame_pool.acquire()
                self.sessions["vision"].run(
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
        with self._run_lock:
            self.sessions["packer"].run(
                {
                    "features": self.frame_pool.array,
                    "frames": HOST.put(np.array([frame.row for frame in features], np.int64)),
                    "time_indices": HOST.put(np.array(time_indices, np.int64)),
                },
                {"fast": tokens[:fast], "slow": tokens[fast:]},
            )
        return VisualTokens(tokens, (fast, slow))

    def image_tokens(self, features: PooledFrame) -> VisualTokens:
        tokens = self._device.empty((self.config.tokens_per_frame, self._width), self._dtype)
        with self._run_lock:
            self.sessions["image"].run({"features": features.array}, {"tokens": tokens})
        return VisualTokens(tokens, (len(tokens),))

    def embed(self, prompt: Prompt, visual: VisualTokens | None) -> PromptInputs:
        ids = np.array(prompt.token_ids, np.int64)
        check_ids(self.config, ids)
        layout = make_layout(ids, self.config, visual.counts if visual else (), prompt.inputs)
        for position, row, count in layout.blocks:
            ids[position : position + count] = self.config.vocabulary + row + np.arange(count)
        embeddings = self._engine.coordinate_embeddings(prompt)
        coordinates: list[np.ndarray] = []
        for axis in Axis:
            positions = layout.inputs[axis]
            if len(positions):
                first = sum(len(rows) for rows in coordinates)
                ids[positions] = -1 - first - np.arange(len(positions))
                coordinates.append(embeddings[axis].astype(self._dtype, copy=False))
        return PromptInputs(
            ids,
            visual.rows if visual else self._no_visual,
            np.concatenate(coordinates) if coordinates else self._no_coordinates,
        )

    def new_cache(self) -> GraphCache:
        return GraphCache(self._device, self.config, self._dtype, self.max_positions)

    def prefill(self, embeddings: PromptInputs, cache: Cache) -> np.ndarray:
        if not len(embeddings):
            raise BackendError("the prompt is empty; expected at least one position")
        last = np.array([len(embeddings) - 1])
        return self._append(embeddings, last, cache)[0]

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        ids = np.asarray(token_ids, np.int64)
        if not len(ids):
            return np.empty((0, self.config.vocabulary), np.float32)
        check_ids(self.config, ids)
        inputs = PromptInputs(ids, self._no_visual, self._no_coordinates)
        return self._append(inputs, np.arange(len(ids)), cache)

    def _append(self, prompt: PromptInputs, rows: np.ndarray, cache: Cache) -> np.ndarray:
        """Append positions to the cache -> logits f32 [R, vocabulary] of the positions ``rows``."""
        if not isinstance(cache, GraphCache):
            raise BackendError(
                f"{type(cache).__name__} is not a cache of this backend", "use new_cache()"
            )
        cache.reserve(len(prompt))
        start, stop = cache.length, cache.length + len(prompt)
        logits = np.empty((len(rows), self.config.vocabulary), np.float32)
        inputs: dict[str, DeviceArray] = {
            "ids": HOST.put(prompt.ids),
            "visual": prompt.visual,
            "mixed": HOST.put(prompt.coordinates),
            "rows": HOST.put(rows.astype(np.int64)),
        }
        outputs: dict[str, DeviceArray] = {"logits": HOST.put(logits)}
        for kind, states in (("key", cache.keys), ("value", cache.values)):
            for layer in self._layers:
                inputs[f"past_{kind}_{layer}"] = states[layer][:start]
                outputs[f"new_{kind}_{layer}"] = states[layer][start:stop]
        with self._run_lock:
            self.sessions["language"].run(inputs, outputs)
        cache.length = stop
        return logits

    def _check_sessions(self) -> None:
        """Raise EngineError unless the graphs' inputs and outputs are those of this version."""
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
            session = self.sessions[name]
            unmatched = sorted(set(session.inputs) ^ inputs | set(session.outputs) ^ outputs)
            if unmatched:
                raise EngineError(
                    f"{self._engine.graph(name)} has other inputs or outputs than this version "
                    f"({', '.join(unmatched[:3])})",
                    "export the checkpoint again",
                )
