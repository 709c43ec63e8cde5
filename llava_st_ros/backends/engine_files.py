"""The files of an engine directory that every engine backend reads besides its graphs; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.manifest import REBUILD, Manifest, check_files, read_manifest
from llava_st_ros.errors import EngineError
from llava_st_ros.files.tensor_file import read_tensors
from llava_st_ros.records import Prompt
from llava_st_ros.text.tokenizer import Tokenizer

COORDINATES = "coordinates.safetensors"  # the coordinate input tables, by axis


@dataclass(frozen=True)
class EngineFiles:
    """An engine directory whose files were checked against its manifest.

    Attributes:
        tokenizer: None when the checkpoint had none (a parity case).
        tables: The coordinate tokens' input embeddings [rows, D] of each axis.
    """

    folder: Path
    manifest: Manifest
    config: ModelConfig
    tokenizer: Tokenizer | None
    tables: dict[Axis, np.ndarray]

    def graph(self, name: str) -> Path:
        """The file of a graph. Raises EngineError if the manifest has no such graph."""
        if name not in self.manifest.graphs:
            raise EngineError(f"{self.folder} has no graph {name}", REBUILD)
        return self.folder / self.manifest.graphs[name]

    @property
    def library(self) -> Path | None:
        """The plugin library that the engines need, if any."""
        names = [name for name in self.manifest.files if name.endswith(".so")]
        return self.folder / names[0] if names else None

    def coordinate_embeddings(self, prompt: Prompt) -> dict[Axis, np.ndarray]:
        """The embeddings [K, D] of each axis's K coordinate values in a prompt."""
        return {axis: _interpolate(self.tables[axis], v) for axis, v in prompt.inputs.items()}


def open_engine(folder: Path, backend: str) -> EngineFiles:
    """Check and read an engine directory that ``backend`` is to run. Raises EngineError."""
    manifest = read_manifest(folder)
    if manifest.backend != backend:
        raise EngineError(
            f"{folder} is an engine directory for {manifest.backend}, not for {backend}",
            f"leave the backend out, or export with a target that runs on {backend}",
        )
    if missing := sorted({"config.json", COORDINATES} - set(manifest.files)):
        raise EngineError(f"{folder} has no {', '.join(missing)}", REBUILD)
    check_files(folder, manifest)
    config = read_config(read_checkpoint_json(folder / "config.json"), {})
    tokenizer = None
    if "tokenizer.json" in manifest.files:
        tokenizer = Tokenizer.load(folder)
        tokenizer.check_fits(config)
    tables = _read_tables(folder / COORDINATES, config)
    return EngineFiles(folder, manifest, config, tokenizer, tables)


def _read_tables(path: Path, config: ModelConfig) -> dict[Axis, np.ndarray]:
    tables = read_tensors(path, EngineError, REBUILD)
    names = {axis: axis.table for axis in Axis}
    if set(tables) != set(names.values()):
        raise EngineError(
            f"{path} has tables {', '.join(sorted(tables))}; expected {', '.join(names.values())}",
            REBUILD,
        )
    for axis, name in names.items():
        table, rows = tables[name], config.coordinates.rows(axis)
        expected = (rows, config.language.hidden_size)
        if table.shape != expected or table.dtype.kind != "f":
            raise EngineError(
                f"{path}: {name} is {table.dtype} {list(table.shape)}; expected floating point "
                f"{list(expected)}, as in config.json",
                REBUILD,
            )
        if not np.isfinite(table).all():
            raise EngineError(f"{path}: {name} has values that are not finite", REBUILD)
    return {axis: tables[name] for axis, name in names.items()}


def _interpolate(table: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    """CoordinateTable.interpolate in NumPy: values [K], clipped to [0, 1] -> [K, D]."""
    position = np.clip(np.asarray(values, np.float64), 0.0, 1.0) * (len(table) - 1)
    low, high = np.floor(position).astype(np.int64), np.ceil(position).astype(np.int64)
    ratio = (position - low).astype(table.dtype)[:, None]
    return table[low] * (1 - ratio) + table[high] * ratio
