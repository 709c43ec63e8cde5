"""Parity cases: inputs and the values that the published LLaVA-ST code computes for them.

A case is a folder with a small checkpoint (``model.safetensors``, ``config.json``), ``case.json``
(the sizes that config.json lacks and the prompts' coordinate values), ``inputs.npz`` and
``expected.safetensors``. Any backend can be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.preprocessing import normalize
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError, DataError
from llava_st_ros.files.array_files import read_arrays
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.tensor_file import read_tensors
from llava_st_ros.records import Modality, Prompt

TOLERANCE = 1e-3  # of the reference's standard deviation


class PixelBackend(Backend, Protocol):
    """A backend that also accepts preprocessed pixels."""

    def encode_pixels(self, pixels: np.ndarray) -> Sequence[Any]:
        """Encode normalized pixels f32 [B, 3, S, S] into B frames' features [N, D]."""
        ...


@runtime_checkable
class VisionFeaturesBackend(Protocol):
    """A backend that exposes the output of its vision tower."""

    def vision_features(self, pixels: np.ndarray) -> np.ndarray:
        """Encode normalized pixels f32 [B, 3, S, S] into projector inputs f32 [B, N, Dv]."""
        ...


@dataclass(frozen=True)
class ArrayComparison:
    """The comparison of one expected array.

    Attributes:
        difference: Largest absolute difference.
        std: Standard deviation of the expected array.
    """

    name: str
    shape: tuple[int, ...]
    difference: float
    std: float
    passed: bool


@dataclass(frozen=True)
class IdComparison:
    """The comparison of generated ids; ``first_difference`` is None where they are equal."""

    name: str
    length: int
    first_difference: int | None
    passed: bool


@dataclass(frozen=True)
class NotExposed:
    """An expected array that the backend computes internally but does not expose."""

    name: str


class ParityCase:
    """The files of a parity case, read and checked.

    Attributes:
        folder: The case's folder, which is a checkpoint too.
        values: case.json.
        inputs: The arrays of inputs.npz.
        expected: The arrays of expected.safetensors, a subset of QUANTITIES.
        frames: uint8 [F, G, G, 3], one pixel per patch of the G x G grid.

    Raises:
        DataError: A file is missing, unreadable or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values = read_json(folder / "case.json", DataError)
        self.inputs = read_arrays(folder / "inputs.npz", DataError)
        self.expected = read_tensors(folder / "expected.safetensors", DataError)
        self.image_size = self._integer("image_size")
        self.patch_size = self._integer("patch_size")
        frames = self.inputs.get("frames_small")
        grid = self.image_size // self.patch_size
        if (
            frames is None
            or frames.dtype != np.uint8
            or frames.shape[1:] != (grid, grid, 3)
            or not len(frames)
        ):
            found = "missing" if frames is None else f"{frames.dtype} {list(frames.shape)}"
            raise DataError(
                f"inputs.npz: frames_small is {found}; expected uint8 [F, {grid}, {grid}, 3]"
            )
        self.frames = frames
        unknown = sorted(self.expected.keys() - set(QUANTITIES))
        if unknown or not self.expected:
            raise DataError(
                f"expected.safetensors contains {', '.join(unknown) or 'no arrays'}"
                f"; expected some of {', '.join(QUANTITIES)}"
            )

    def overrides(self) -> dict[str, Any]:
        """Return case.json in the form of config.json's ``llava_st`` section."""
        vision = dict(self._object("vision"))
        vision.pop("select", None)
        layers = vision.pop("num_hidden_layers", None)
        if not isinstance(layers, int) or layers < 2:
            raise DataError(
                f"case.json: vision.num_hidden_layers is {layers!r}; expected at least 2"
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
        """Return frames start..stop-1 as normalized pixels f32 [n, 3, S, S], padded with 0."""
        patch, size = self.patch_size, self.image_size
        frames = self.frames[start:stop].repeat(patch, axis=1).repeat(patch, axis=2)
        pixels = np.zeros((len(frames), 3, size, size), dtype=np.float32)
        for row, frame in zip(pixels, frames):
            row[:, : frame.shape[0], : frame.shape[1]] = normalize(frame)
        return pixels

    def prompt(self, modality: Modality) -> Prompt:
        """Return the case's prompt about its video or its first image."""
        kind = modality.value
        ids = self.inputs.get(f"{kind}_prompt")
        if ids is None or ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise DataError(
                f"inputs.npz: {kind}_prompt is missing or not a list of token ids; "
                "expected integers [L]"
            )
        variables = self._object(f"{kind}_variables")
        values = {}
        for axis in Axis:
            if variables.get(f"{axis.table}_output_locations"):
                raise DataError(
                    f"case.json: {kind}_variables.{axis.table}_output_locations is not empty; "
                    "prompts have no output placeholders"
                )
            locations = variables.get(f"{axis.table}_input_locations", [])
            if not isinstance(locations, list) or not all(
                isinstance(value, (int, float)) for value in locations
            ):
                raise DataError(
                    f"case.json: {kind}_variables.{axis.table}_input_locations is {locations!r}; "
                    "expected a list of numbers"
                )
            values[axis] = tuple(map(float, locations))
        return Prompt(ids.astype(np.int64), modality, *values.values())

    def _object(self, name: str) -> dict[str, Any]:
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise DataError(f"case.json: {name} is {value!r}; expected a JSON object")
        return value

    def _integer(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"case.json: {name} is {value!r}; expected a positive integer")
        return value


class CaseOutputs:
    """A backend's outputs for a case, each computed once and only when used."""

    def __init__(self, case: ParityCase, backend: PixelBackend) -> None:
        self.case, self.backend = case, backend
        self._features: list[Any] = []
        self._video: Any = None

    def features(self, count: int) -> list[Any]:
        """Return the first ``count`` frames' features [N, D] after the projector."""
        for index in range(len(self._features), count):
            pixels = self.case.pixels(index, index + 1)
            self._features.append(self.backend.encode_pixels(pixels)[0])
        return self._features[:count]

    def visual(self, modality: Modality) -> Any:
        """Return the visual tokens of the video or of the first image."""
        if modality is Modality.IMAGE:
            return self.backend.image_tokens(self.features(1)[0])
        if self._video is None:
            frames = len(self.case.frames)
            self._video = self.backend.pack(self.features(frames), range(frames))
        return self._video

    def vision_features(self, count: int) -> np.ndarray | None:
        """Return the first ``count`` frames' projector inputs f32 [count, N, Dv].

        Returns None if the backend is not a VisionFeaturesBackend.
        """
        backend = self.backend
        if not isinstance(backend, VisionFeaturesBackend):
            return None
        return np.concatenate(
            [backend.vision_features(self.case.pixels(i, i + 1)) for i in range(count)]
        )

    def projector_features(self, count: int) -> np.ndarray:
        """Return the first ``count`` frames' features f32 [count, N, D]."""
        return np.stack([_to_numpy(feature) for feature in self.features(count)])

    def fast_tokens(self) -> np.ndarray:
        """Return the video's fast tokens f32 [F, n_fast, D]."""
        model = self.backend.describe().model
        tokens = _to_numpy(self.visual(Modality.VIDEO).fast)
        return tokens.reshape(-1, model.fast_tokens_per_frame, tokens.shape[-1])

    def slow_tokens(self) -> np.ndarray:
        """Return the video's slow tokens f32 [temporal regions, n_slow, D]."""
        model = self.backend.describe().model
        tokens = _to_numpy(self.visual(Modality.VIDEO).slow)
        return tokens.reshape(-1, model.slow_tokens_per_frame, tokens.shape[-1])

    def image_tokens(self) -> np.ndarray:
        """Return the first image's visual tokens f32 [1, N, D]."""
        return _to_numpy(self.visual(Modality.IMAGE))[None]

    def last_logits(self, modality: Modality, count: int) -> np.ndarray:
        """Return the logits f32 [count, vocabulary] of the prompt's last positions."""
        embeddings = self.backend.embed(self.case.prompt(modality), self.visual(modality))
        cache, first = self.backend.new_cache(), len(embeddings) - count + 1
        if first < 1:
            raise DataError(
                f"{modality.value}_last_logits has {count} rows, more than the prompt's "
                f"{len(embeddings)} positions"
            )
        rows = [self.backend.prefill(embeddings[:first], cache)]
        for position in range(first, len(embeddings)):
            rows.append(self.backend.prefill(embeddings[position : position + 1], cache))
        return np.stack(rows)

    def generated_ids(self, modality: Modality, count: int) -> np.ndarray:
        """Return ``count`` greedily decoded ids; the end token does not stop decoding."""
        embeddings = self.backend.embed(self.case.prompt(modality), self.visual(modality))
        cache = self.backend.new_cache()
        logits, ids = self.backend.prefill(embeddings, cache), []
        while True:
            ids.append(int(logits.argmax()))
            if len(ids) >= count:
                return np.array(ids, dtype=np.int64)
            logits = self.backend.extend(ids[-1:], cache)[-1]


# What a case may expect, in the model's order: computes the value with that many rows, or returns
# None if the backend does not expose it.
QUANTITIES: dict[str, Callable[[CaseOutputs, int], np.ndarray | None]] = {
    "vision_features_first4": CaseOutputs.vision_features,
    "projector_features_first4": CaseOutputs.projector_features,
    "fast_tokens": lambda outputs, _: outputs.fast_tokens(),
    "slow_tokens": lambda outputs, _: outputs.slow_tokens(),
    "image_tokens": lambda outputs, _: outputs.image_tokens(),
    "video_last_logits": lambda outputs, rows: outputs.last_logits(Modality.VIDEO, rows),
    "image_last_logits": lambda outputs, rows: outputs.last_logits(Modality.IMAGE, rows),
    "video_generated_ids": lambda outputs, rows: outputs.generated_ids(Modality.VIDEO, rows),
    "image_generated_ids": lambda outputs, rows: outputs.generated_ids(Modality.IMAGE, rows),
}


def compare(
    case: ParityCase, backend: PixelBackend
) -> Iterator[ArrayComparison | IdComparison | NotExposed]:
    """Compare a backend with each expected array, in the model's order.

    Arrays agree within TOLERANCE times the expected array's standard deviation; ids must be equal.

    Args:
        case: The case.
        backend: Runs the case's checkpoint. Its vision tower is compared only if it is a
            VisionFeaturesBackend.

    Raises:
        DataError: An expected array does not fit the model.
    """
    outputs = CaseOutputs(case, backend)
    for name, compute in QUANTITIES.items():
        if name not in case.expected:
            continue
        expected = case.expected[name]
        rows = len(expected) if expected.ndim else 0
        if not rows or (rows > len(case.frames) and name.endswith("first4")):
            raise DataError(
                f"expected.safetensors: {name} is {list(expected.shape)}; "
                f"expected 1 to {len(case.frames)} rows"
            )
        try:
            actual = compute(outputs, rows)
        except BackendError as error:
            raise DataError(f"{name}: {error.problem}", error.remedy) from error
        yield NotExposed(name) if actual is None else _compare(name, expected, actual)


def _compare(name: str, expected: np.ndarray, actual: np.ndarray) -> ArrayComparison | IdComparison:
    if actual.shape != expected.shape:
        raise DataError(
            f"expected.safetensors: {name} is {list(expected.shape)}; the model's is "
            f"{list(actual.shape)}"
        )
    if name.endswith("_ids"):
        differing = np.flatnonzero(actual != expected)
        first = int(differing[0]) if len(differing) else None
        return IdComparison(name, len(expected), first, first is None)
    difference = float(np.abs(actual.astype(np.float64) - expected).max())
    std = float(expected.astype(np.float64).std())
    return ArrayComparison(name, actual.shape, difference, std, difference <= TOLERANCE * std)


def _to_numpy(value: Any) -> np.ndarray:
    """Convert a backend's array, a torch tensor on any device included, to float32."""
    return np.asarray(value.float().cpu() if hasattr(value, "cpu") else value, dtype=np.float32)
