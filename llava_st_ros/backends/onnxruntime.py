"""ONNX Runtime over the graphs of an engine directory, on the CPU or a CUDA device.

Nothing is copied from call to call: the vision graph writes a frame's features where the packer
reads them, the packer writes where the decoder reads, and the decoder puts new keys and values
right behind the old ones in the cache.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from llava_st_ros.backends.base import BackendDescription, Cache, check_ids, check_window
from llava_st_ros.backends.device_arrays import Device, DeviceArray
from llava_st_ros.backends.engine_files import EngineFiles
from llava_st_ros.backends.frame_pool import FramePool, PooledFrame
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.model.preprocessing import preprocess
from llava_st_ros.model.prompt_layout import AXES, lay_out
from llava_st_ros.records import Prompt

NAME = "onnxruntime"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
GRAPHS = ("vision", "image", "packer", "language")
CACHE_STEP = 1024  # positions; a cache has room for a multiple of them
QUIET = 3  # errors only


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


class OnnxCache:
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
                f"{needed} positions",
                f"at most the model's {self._limit}",
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
                f"truncate({length}) of a cache of {self.length} positions",
                "a length between 0 and what it holds",
                "correct the caller",
            )
        self.length = length


class OnnxBackend:
    """See ``backends.base.Backend`` for the contract. Calls may come from several threads.

    ``threads`` is how many CPU threads one graph may use, 0 as OMP_NUM_THREADS says or else all
    cores. Raises EngineError for graphs that ONNX Runtime does not load or that are another
    version's, BackendError where the device is not there.
    """

    def __init__(self, engine: EngineFiles, *, device: str = "cpu", threads: int = 0) -> None:
        self.config = engine.config
        self._engine = engine
        self._device = check_device(device)
        self._dtype = _dtype(engine)
        self._layers = range(self.config.language.num_hidden_layers)
        options = _options(threads)
        self._vision, self._image, self._packer, self._language = (
            _session(engine.graph(name), options, self._device) for name in GRAPHS
        )
        self._check_graphs()
        width = self.config.language.hidden_size
        self._width = width
        frame = (self.config.tokens_per_frame, width)
        self._pool = FramePool(self._device, frame, self._dtype, 2 * self.config.num_frames)
        self._nothing = self._device.put(np.zeros((1, width), self._dtype))
        # A frame's place may move while the pool grows; and one graph uses all threads anyway.
        self._running = threading.RLock()

    def describe(self) -> BackendDescription:
        precision = self._engine.manifest.precision
        return BackendDescription(NAME, self.config, str(self._device), precision)

    def encode_frame(self, image: np.ndarray) -> PooledFrame:
        return self.encode_pixels(preprocess(image, self.config.image_size)[None])[0]

    def encode_pixels(self, pixels: np.ndarray) -> list[PooledFrame]:
        """Normalised pixels f32 [B, 3, S, S] -> B frames' features [N, D] before LAPE."""
        frames = []
        with self._running:
            for image in pixels:
                frame = self._pool.take()
                self._run(
                    self._vision,
                    {"pixels": _host(image[None])},
                    {"features": _batch_of_one(frame.array)},
                )
                frames.append(frame)
        return frames

    def pack(self, features: Sequence[PooledFrame], time_indices: Sequence[int]) -> VisualTokens:
        check_window(self.config, len(features), time_indices)
        fast = len(features) * self.config.fast_tokens_per_frame
        slow = len(features) // self.config.packer.temporal_region
        slow *= self.config.slow_tokens_per_frame
        tokens = self._device.empty((fast + slow, self._width), self._dtype)
        with self._running:
            self._run(
                self._packer,
                {
                    "features": self._pool.array,
                    "frames": _host(np.array([frame.row for frame in features], np.int64)),
                    "time_indices": _host(np.array(time_indices, np.int64)),
                },
                {"fast": tokens[:fast], "slow": tokens[fast:]},
            )
        return VisualTokens(tokens, (fast, slow))

    def image_tokens(self, features: PooledFrame) -> VisualTokens:
        tokens = self._device.empty((self.config.tokens_per_frame, self._width), self._dtype)
        with self._running:
            self._run(self._image, {"features": features.array}, {"tokens": tokens})
        return VisualTokens(tokens, (len(tokens),))

    def embed(self, prompt: Prompt, visual: VisualTokens | None) -> PromptRows:
        ids = np.array(prompt.token_ids, np.int64)
        check_ids(self.config, ids)
        values = (prompt.temporal_inputs, prompt.height_inputs, prompt.width_inputs)
        layout = lay_out(ids, self.config, visual.counts if visual else (), values)
        for position, row, count in layout.blocks:
            ids[position : position + count] = self.config.vocabulary + row + np.arange(count)
        mixed, given = [], self._engine.mixed(prompt)
        for axis in AXES:
            places = layout.inputs[axis]
            if len(places):
                ids[places] = -1 - sum(map(len, mixed)) - np.arange(len(places))
                mixed.append(given[axis].astype(self._dtype, copy=False))
        return PromptRows(
            ids,
            visual.rows if visual else self._nothing,
            np.concatenate(mixed) if mixed else np.zeros((1, self._width), self._dtype),
        )

    def new_cache(self) -> OnnxCache:
        return OnnxCache(self._device, self.config, self._dtype)

    def prefill(self, embeddings: PromptRows, cache: Cache) -> np.ndarray:
        if not len(embeddings):
            raise BackendError("an empty prompt", "at least one position", "correct the caller")
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
        if not isinstance(cache, OnnxCache):
            raise BackendError(
                f"a {type(cache).__name__}", "a cache of this backend", "use new_cache()"
            )
        cache.reserve(len(prompt))
        start, stop = cache.length, cache.length + len(prompt)
        logits = np.empty((len(rows), self.config.vocabulary), np.float32)
        inputs = {
            "ids": _host(prompt.ids),
            "visual": prompt.visual,
            "mixed": _host(prompt.mixed),
            "rows": _host(rows.astype(np.int64)),
        }
        outputs = {"logits": _host(logits)}
        for kind, states in (("key", cache.keys), ("value", cache.values)):
            for layer in self._layers:
                inputs[f"past_{kind}_{layer}"] = states[layer][:start]
                outputs[f"new_{kind}_{layer}"] = states[layer][start:stop]
        with self._running:
            self._run(self._language, inputs, outputs)
        cache.length = stop
        return logits

    def _check_graphs(self) -> None:
        """EngineError unless inputs and outputs are named as this version names them."""
        states = [f"{kind}_{layer}" for kind in ("key", "value") for layer in self._layers]
        expected = (
            ({"pixels"}, {"features"}),
            ({"features"}, {"tokens"}),
            ({"features", "frames", "time_indices"}, {"fast", "slow"}),
            (
                {"ids", "visual", "mixed", "rows", *(f"past_{name}" for name in states)},
                {"logits", *(f"new_{name}" for name in states)},
            ),
        )
        sessions = (self._vision, self._image, self._packer, self._language)
        for name, session, (inputs, outputs) in zip(GRAPHS, sessions, expected):
            found = (
                {value.name for value in session.get_inputs()},
                {value.name for value in session.get_outputs()},
            )
            if found != (inputs, outputs):
                odd = sorted(found[0] ^ inputs | found[1] ^ outputs)
                raise EngineError(
                    f"{self._engine.graph(name)}: other inputs or outputs ({', '.join(odd[:3])})",
                    "those of this version",
                    "export the checkpoint again",
                )

    def _run(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Mapping[str, DeviceArray],
        outputs: Mapping[str, DeviceArray],
    ) -> None:
        binding = session.io_binding()
        try:
            for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
                for name, array in arrays.items():
                    device = array.device
                    bind(name, device.kind, device.index, array.dtype, array.shape, array.address)
            session.run_with_iobinding(binding)
            if self._device.kind != "cpu":
                binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            raise BackendError(
                f"ONNX Runtime: {error}", "a graph that runs", "export the checkpoint again"
            ) from error


def _host(values: np.ndarray) -> DeviceArray:
    return Device("cpu").put(values)


def _batch_of_one(array: DeviceArray) -> DeviceArray:
    return replace(array, shape=(1, *array.shape))


def check_device(name: str) -> Device:
    """ "cpu", "cuda" or "cuda:1". Raises BackendError where ONNX Runtime has no such provider."""
    kind, _, index = name.partition(":")
    if kind not in PROVIDERS or not (index or "0").isdigit() or (kind == "cpu" and index):
        raise BackendError(f"device {name!r}", "cpu, cuda or cuda:N", "choose one")
    available = onnxruntime.get_available_providers()
    if PROVIDERS[kind] not in available:
        raise BackendError(
            f"device {name!r}, but this ONNX Runtime has {', '.join(available)}",
            PROVIDERS[kind],
            "install onnxruntime-gpu in place of onnxruntime, or use cpu",
        )
    return Device(kind, int(index or 0))


def _dtype(engine: EngineFiles) -> np.dtype:
    precision = engine.manifest.precision
    if precision not in DTYPES:
        raise EngineError(
            f"{engine.folder}: precision {precision!r}",
            f"one of {', '.join(DTYPES)}",
            "export the checkpoint again",
        )
    return DTYPES[precision]


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = threads or (int(limit) if limit.isdigit() else 0)
    # Each graph has threads of its own; those of one that waits must not keep cores busy.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = QUIET
    return options


def _session(
    path: Path, options: onnxruntime.SessionOptions, device: Device
) -> onnxruntime.InferenceSession:
    provider = PROVIDERS[device.kind]
    # TF32 would make a float32 engine another one.
    settings = {} if device.kind == "cpu" else {"device_id": device.index, "use_tf32": 0}
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, [(provider, settings)], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors share no base of their own
        raise EngineError(
            f"{path}: {error}", "a graph that ONNX Runtime loads", "export the checkpoint again"
        ) from error
    if provider not in session.get_providers():  # it falls back to the CPU and says nothing
        raise BackendError(
            f"device {device}, but ONNX Runtime could not start {provider}",
            "CUDA and cuDNN of the versions that onnxruntime-gpu names",
            "install them, or use cpu",
        )
    return session
