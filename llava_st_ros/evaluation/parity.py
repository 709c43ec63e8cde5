"""Parity cases: inputs and the numbers that the published LLaVA-ST code computes for them.

A case is a folder with a small checkpoint (``model.safetensors``, ``config.json``), ``case.json``
(the sizes that config.json lacks and the prompts' coordinate values), ``inputs.npz`` and
``expected.safetensors``. Any backend can be held against it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from llava_st_ros.backends.preprocessing import normalize
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError, DataError
from llava_st_ros.records import Modality, Prompt

TOLERANCE = 1e-3  # of the reference's standard deviation
REMEDY = "correct the case"
VISION = "vision_features_first4"


@dataclass(frozen=True)
class Comparison:
    """One expected array: ``difference`` is the largest absolute one, ``std`` the reference's."""

    name: str
    shape: tuple[int, ...]
    difference: float
    std: float
    passed: bool


@dataclass(frozen=True)
class IdComparison:
    """Generated ids: where they first differ, None where they are equal."""

    name: str
    length: int
    first_difference: int | None
    passed: bool


@dataclass(frozen=True)
class Unseen:
    """An expected array that the backend computes but does not give out."""

    name: str


class Case:
    """A case's files, read and checked. Raises DataError where they are not what they must be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values = _read_case(folder / "case.json")
        self.inputs = _read_inputs(folder / "inputs.npz")
        self.expected = _read_expected(folder / "expected.safetensors")
        self.image_size = self._integer("image_size")
        self.patch_size = self._integer("patch_size")
        small = self.inputs.get("frames_small")
        grid = self.image_size // self.patch_size
        if (
            small is None
            or small.dtype != np.uint8
            or small.shape[1:] != (grid, grid, 3)
            or not len(small)
        ):
            found = None if small is None else f"{small.dtype} {list(small.shape)}"
            raise DataError(
                f"inputs.npz: frames_small {found}; expected uint8 [F, {grid}, {grid}, 3]", REMEDY
            )
        self.frames = small
        unknown = sorted(self.expected.keys() - set(QUANTITIES))
        if unknown or not self.expected:
            raise DataError(
                f"expected.safetensors with {unknown or 'nothing'}"
                f"; expected some of {', '.join(QUANTITIES)}",
                REMEDY,
            )

    def overrides(self) -> dict[str, Any]:
        """case.json in the form of config.json's ``llava_st`` section."""
        vision = dict(self._object("vision"))
        vision.pop("select", None)
        layers = vision.pop("num_hidden_layers", None)
        if not isinstance(layers, int) or layers < 2:
            raise DataError(
                f"case.json: vision.num_hidden_layers {layers!r}; expected at least 2", REMEDY
            )
        return {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "vision": {**vision, "num_layers": layers - 1},
            "packer": self._object("packer"),
            "special_tokens": self._object("token_ids"),
            "num_frames": len(self.frames),
        }

    def pixels(self, start: int, stop: int) -> np.ndarray:
        """Frames start..stop-1 as the case defines them, normalized f32 [n, 3, S, S]."""
        patch, size = self.patch_size, self.image_size
        frames = self.frames[start:stop].repeat(patch, axis=1).repeat(patch, axis=2)
        pixels = np.zeros((len(frames), 3, size, size), dtype=np.float32)
        for row, frame in zip(pixels, frames):
            row[:, : frame.shape[0], : frame.shape[1]] = normalize(frame)
        return pixels

    def prompt(self, kind: str) -> Prompt:
        """``kind`` "video" or "image"."""
        ids = self.inputs.get(f"{kind}_prompt")
        if ids is None or ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise DataError(f"inputs.npz: no usable {kind}_prompt; expected token ids [L]", REMEDY)
        variables = self._object(f"{kind}_variables")
        values = {}
        for axis in Axis:
            if variables.get(f"{axis.table}_output_locations"):
                raise DataError(
                    f"case.json: {kind}_variables with {axis.table}_output_locations"
                    "; expected none: a question has no output placeholders",
                    REMEDY,
                )
            found = variables.get(f"{axis.table}_input_locations", [])
            if not isinstance(found, list) or not all(isinstance(v, (int, float)) for v in found):
                raise DataError(
                    f"case.json: {kind}_variables.{axis.table}_input_locations {found!r}"
                    "; expected a list of numbers",
                    REMEDY,
                )
            values[axis] = tuple(map(float, found))
        return Prompt(ids.astype(np.int64), Modality(kind), *values.values())

    def _object(self, name: str) -> dict[str, Any]:
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise DataError(f"case.json: {name} {value!r}; expected a JSON object", REMEDY)
        return value

    def _integer(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"case.json: {name} {value!r}; expected a positive integer", REMEDY)
        return value


class Computed:
    """The same quantities from a backend, each computed once and only where it is asked for."""

    def __init__(self, case: Case, backend: Any) -> None:
        self.case, self.backend = case, backend
        self._features: list[Any] = []
        self._video: Any = None

    def features(self, count: int) -> list[Any]:
        """The first ``count`` frames after the projector."""
        for index in range(len(self._features), count):
            pixels = self.case.pixels(index, index + 1)
            self._features.append(self.backend.encode_pixels(pixels)[0])
        return self._features[:count]

    def visual(self, kind: str) -> Any:
        if kind == "image":
            return self.backend.image_tokens(self.features(1)[0])
        if self._video is None:
            frames = len(self.case.frames)
            self._video = self.backend.pack(self.features(frames), range(frames))
        return self._video

    def vision_features(self, count: int) -> np.ndarray:
        return np.concatenate(
            [self.backend.vision_features(self.case.pixels(i, i + 1)) for i in range(count)]
        )

    def projector_features(self, count: int) -> np.ndarray:
        return np.stack([_array(feature) for feature in self.features(count)])

    def video_tokens(self, name: str) -> np.ndarray:
        """``name`` "slow" or "fast": one row of tokens for each (slow: packed) frame."""
        tokens = _array(getattr(self.visual("video"), name))
        model = self.backend.describe().model
        each = model.slow_tokens_per_frame if name == "slow" else model.fast_tokens_per_frame
        return tokens.reshape(-1, each, tokens.shape[-1])

    def last_logits(self, kind: str, count: int) -> np.ndarray:
        embeddings = self.backend.embed(self.case.prompt(kind), self.visual(kind))
        cache, first = self.backend.new_cache(), len(embeddings) - count + 1
        if first < 1:
            raise DataError(
                f"{count} logits of {len(embeddings)} positions; expected fewer", REMEDY
            )
        rows = [self.backend.prefill(embeddings[:first], cache)]
        for place in range(first, len(embeddings)):
            rows.append(self.backend.prefill(embeddings[place : place + 1], cache))
        return np.stack(rows)

    def generated_ids(self, kind: str, count: int) -> np.ndarray:
        """Greedy, no end token."""
        embeddings = self.backend.embed(self.case.prompt(kind), self.visual(kind))
        cache = self.backend.new_cache()
        logits, ids = self.backend.prefill(embeddings, cache), []
        while True:
            ids.append(int(logits.argmax()))
            if len(ids) >= count:
                return np.array(ids, dtype=np.int64)
            logits = self.backend.extend(ids[-1:], cache)[-1]


# What a case may expect, in the model's order: the value, given the expected rows.
QUANTITIES: dict[str, Callable[[Computed, int], np.ndarray]] = {
    VISION: Computed.vision_features,
    "projector_features_first4": Computed.projector_features,
    "fast_tokens": lambda computed, _: computed.video_tokens("fast"),
    "slow_tokens": lambda computed, _: computed.video_tokens("slow"),
    "image_tokens": lambda computed, _: _array(computed.visual("image"))[None],
    "video_last_logits": lambda computed, rows: computed.last_logits("video", rows),
    "image_last_logits": lambda computed, rows: computed.last_logits("image", rows),
    "video_generated_ids": lambda computed, rows: computed.generated_ids("video", rows),
    "image_generated_ids": lambda computed, rows: computed.generated_ids("image", rows),
}


def compare(case: Case, backend: Any) -> Iterator[Comparison | IdComparison | Unseen]:
    """Each expected array against the backend's, in the model's order.

    ``backend`` is a Backend with ``encode_pixels`` besides, and ``vision_features`` where it can
    tell what the projector is given.
    """
    computed = Computed(case, backend)
    for name, compute in QUANTITIES.items():
        if name not in case.expected:
            continue
        if name == VISION and not hasattr(backend, "vision_features"):
            yield Unseen(name)
            continue
        expected = case.expected[name]
        rows = len(expected) if expected.ndim else 0
        if not rows or (rows > len(case.frames) and name.endswith("first4")):
            raise DataError(
                f"expected {name} {list(expected.shape)}; expected an array that fits", REMEDY
            )
        try:
            found = compute(computed, rows)
        except BackendError as error:
            raise DataError(f"{name}: {error.problem}", REMEDY) from error
        if found.shape != expected.shape:
            raise DataError(
                f"expected {name} {list(expected.shape)}; expected {list(found.shape)}", REMEDY
            )
        if name.endswith("_ids"):
            differing = np.flatnonzero(found != expected)
            first = int(differing[0]) if len(differing) else None
            yield IdComparison(name, rows, first, first is None)
        else:
            difference = float(np.abs(found.astype(np.float64) - expected).max())
            std = float(expected.astype(np.float64).std())
            passed = difference <= TOLERANCE * std
            yield Comparison(name, found.shape, difference, std, passed)


def _array(value: Any) -> np.ndarray:
    """A backend's array as NumPy float32."""
    return np.asarray(value.float().cpu() if hasattr(value, "cpu") else value, dtype=np.float32)


def _read_case(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected a readable case.json", REMEDY) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: a JSON {type(values).__name__}; expected a JSON object", REMEDY)
    return values


def _read_inputs(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {error}; expected a readable inputs.npz", REMEDY) from error


def _read_expected(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{path}: {error}; expected a readable expected.safetensors", REMEDY
        ) from error
