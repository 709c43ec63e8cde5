"""What every engine backend reads of an engine directory besides its graphs; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from llava_st_ros.checkpoint_config import read_config, read_json
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.manifest import REBUILD, Manifest, check_files, read_manifest
from llava_st_ros.errors import EngineError
from llava_st_ros.records import Prompt
from llava_st_ros.text.tokenizer import Tokenizer

COORDINATES = "coordinates.safetensors"  # the input tables, by axis


@dataclass(frozen=True)
class EngineFiles:
    """An engine directory, its files checked; ``tables`` [rows, D] by axis are the coordinates'
    input embeddings. ``tokenizer`` is None where the checkpoint had none (a parity case)."""

    folder: Path
    manifest: Manifest
    config: ModelConfig
    tokenizer: Tokenizer | None
    tables: dict[Axis, np.ndarray]

    def graph(self, name: str) -> Path:
        """The file of a graph."""
        return self.folder / self.manifest.graphs[name]

    @property
    def library(self) -> Path | None:
        """The plugin library that its engines need."""
        names = [name for name in self.manifest.files if name.endswith(".so")]
        return self.folder / names[0] if names else None

    def mixed(self, prompt: Prompt) -> dict[Axis, np.ndarray]:
        """For each axis the embeddings [K, D] of the prompt's coordinate values."""
        return {axis: _mix(self.tables[axis], given) for axis, given in prompt.inputs.items()}


def open_engine(folder: Path, backend: str) -> EngineFiles:
    """Check and read an engine directory for ``backend``. Raises EngineError."""
    manifest = read_manifest(folder)
    if manifest.backend != backend:
        raise EngineError(
            f"{folder}: an engine directory for {manifest.backend}; expected one for {backend}",
            f"leave the backend out, or export with a target that runs on {backend}",
        )
    if missing := sorted({"config.json", COORDINATES} - set(manifest.files)):
        raise EngineError(
            f"{folder}: no {', '.join(missing)}; expected all of an engine's files", REBUILD
        )
    check_files(folder, manifest)
    config = read_config(read_json(folder / "config.json"), {})
    tokenizer = None
    if "tokenizer.json" in manifest.files:
        tokenizer = Tokenizer.load(folder)
        tokenizer.check_fits(config)
    try:
        tables = load_file(folder / COORDINATES)
    except (OSError, SafetensorError) as error:
        raise EngineError(
            f"{folder / COORDINATES}: {error}; expected a whole file", REBUILD
        ) from error
    names = {axis: axis.table for axis in Axis}
    if set(tables) != set(names.values()):
        raise EngineError(
            f"{folder / COORDINATES}: tables {', '.join(sorted(tables))}; expected "
            f"{', '.join(names.values())}",
            REBUILD,
        )
    by_axis = {axis: tables[name] for axis, name in names.items()}
    return EngineFiles(folder, manifest, config, tokenizer, by_axis)


def _mix(table: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    """Values [K], clipped to [0, 1] -> [K, D]: CoordinateTable.mix in NumPy."""
    position = np.clip(np.asarray(values, np.float64), 0.0, 1.0) * (len(table) - 1)
    low, high = np.floor(position).astype(np.int64), np.ceil(position).astype(np.int64)
    ratio = (position - low).astype(table.dtype)[:, None]
    return table[low] * (1 - ratio) + table[high] * ratio
