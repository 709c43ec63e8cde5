"""The torch backend, the reference: the unmodified model on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from llava_st_ros.backends.base import BackendDescription, Cache, check_ids
from llava_st_ros.backends.preprocessing import preprocess
from llava_st_ros.config import ModelConfig
from llava_st_ros.engine.device import DeviceSpec
from llava_st_ros.errors import BackendError, reason_of
from llava_st_ros.model.checkpoint import Checkpoint
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.records import Prompt


class TorchCache:
    """The KV cache of one conversation."""

    def __init__(self) -> None:
        self.states = DynamicCache()

    @property
    def length(self) -> int:
        return int(self.states.get_seq_length())

    def truncate(self, length: int) -> None:
        """Drop every position from ``length`` on. Raises BackendError out of range."""
        surplus = self.length - length
        if length < 0 or surplus < 0:
            raise BackendError(
                f"truncate({length}) of a cache of {self.length} positions; expected 0 to "
                f"{self.length}"
            )
        if surplus:
            # A negative count removes that many; a positive one depends on transformers' version.
            self.states.crop(-surplus)


class TorchBackend:
    """Runs a LlavaST in torch; thread-safe.

    Args:
        checkpoint: A loaded checkpoint, or a model and its geometry. The model is moved to
            ``device`` and ``dtype`` in place.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: The precision.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | tuple[LlavaST, ModelConfig],
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if isinstance(checkpoint, Checkpoint):
            model, self.config = checkpoint.model, checkpoint.config
        else:
            model, self.config = checkpoint
        self.device, self.dtype = torch.device(device), dtype
        self.model = model.to(device=self.device, dtype=dtype).eval()
        # The rotary frequencies stay float32 in every precision, as in the published runs.
        self.model.materialize_buffers(self.device)

    def describe(self) -> BackendDescription:
        precision = str(self.dtype).removeprefix("torch.")
        return BackendDescription("torch", self.config, str(self.device), precision)

    def encode_frame(self, image: np.ndarray) -> Any:
        return self.encode_pixels(preprocess(image, self.config.image_size)[None])[0]

    @torch.inference_mode()
    def encode_pixels(self, pixels: np.ndarray) -> Any:
        """Encode normalized pixels f32 [B, 3, S, S] -> features [B, N, D] before LAPE."""
        return self.model.project(self._vision_features(pixels))

    @torch.inference_mode()
    def vision_features(self, pixels: np.ndarray) -> np.ndarray:
        """Normalized pixels f32 [B, 3, S, S] -> the vision tower's output f32 [B, N, Dv]."""
        return self._vision_features(pixels).float().cpu().numpy()

    @torch.inference_mode()
    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> VideoTokens:
        self.config.check_window(len(features), time_indices)
        return self.model.pack(torch.stack(tuple(features)), time_indices)

    @torch.inference_mode()
    def image_tokens(self, features: Any) -> torch.Tensor:
        return self.model.image_tokens(features)

    @torch.inference_mode()
    def embed(self, prompt: Prompt, visual: VideoTokens | torch.Tensor | None) -> torch.Tensor:
        check_ids(self.config, prompt.token_ids)
        return self.model.embed_prompt(prompt.token_ids, visual, prompt.inputs)

    def new_cache(self) -> TorchCache:
        return TorchCache()

    @torch.inference_mode()
    def prefill(self, embeddings: torch.Tensor, cache: Cache) -> np.ndarray:
        if not len(embeddings):
            raise BackendError("the prompt is empty; expected at least one position")
        return self._logits(self._append(embeddings, cache)[-1])

    @torch.inference_mode()
    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        if not len(token_ids):
            return np.empty((0, self.config.vocabulary), dtype=np.float32)
        ids = np.asarray(token_ids, dtype=np.int64)
        check_ids(self.config, ids)
        embeddings = self.model.embed_tokens(torch.from_numpy(ids).to(self.device))
        return self._logits(self._append(embeddings, cache))

    def _vision_features(self, pixels: np.ndarray) -> torch.Tensor:
        return self.model.vision_features(
            torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device, self.dtype)
        )

    def _append(self, embeddings: torch.Tensor, cache: Cache) -> torch.Tensor:
        if not isinstance(cache, TorchCache):
            raise BackendError(
                f"{type(cache).__name__} is not a cache of this backend", "use new_cache()"
            )
        limit = self.config.language.max_position_embeddings
        if cache.length + len(embeddings) > limit:
            raise BackendError(
                f"the cache would have {cache.length + len(embeddings)} positions; "
                f"expected at most the model's {limit}",
                "shorten the query or allow fewer new tokens",
            )
        return self.model.decode(embeddings.unsqueeze(0), cache=cache.states)[0]

    def _logits(self, hidden: torch.Tensor) -> np.ndarray:
        return self.model.logits(hidden).float().cpu().numpy()


def resolve_device(name: str) -> torch.device:
    """Return the device that ``name`` denotes (see DeviceSpec.parse).

    Raises BackendError when torch cannot put a tensor on it.
    """
    DeviceSpec.parse(name)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            f"device {name!r} is not available: {reason_of(error)}", "use cpu"
        ) from error


def limit_threads(threads: int) -> None:
    """Limit every torch operation in this process to ``threads`` CPU threads, 1 or more.

    On cores shared with a robot's other processes, threads that wait for each other cost more than
    they gain (docs/lab_notes.md).
    """
    torch.set_num_threads(threads)
