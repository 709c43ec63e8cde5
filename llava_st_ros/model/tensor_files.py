"""The tensors of a Hugging Face-layout folder: one safetensors file or several with an index.

Headers are read first, so that a wrong folder is refused before gigabytes are. Pickles never are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llava_st_ros.checkpoint_config import read_json
from llava_st_ros.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class TensorFiles:
    """Where each tensor lies (``files``: name -> file), its shape and dtype, from the headers."""

    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def read(
        self, names: list[str], device: torch.device | str, dtype: torch.dtype
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The named tensors, file by file, each copied out of its file to ``device``."""
        for path in sorted({self.files[name] for name in names}):
            with opened(path) as file:
                yield {
                    name: file.get_tensor(name).to(device=device, dtype=dtype, copy=True)
                    for name in names
                    if self.files[name] == path
                }


def find_tensors(folder: Path) -> TensorFiles:
    """Read the headers of a folder's safetensors files.

    Raises CheckpointError: no such files (or only pickles), a shard or tensor that the index names
    but that is not there, a damaged file, tensors that are not floating point.
    """
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for path, promised in _paths(folder).items():
        if not path.is_file():
            raise CheckpointError(
                f"{INDEX} names {path.name}, which is not there"
                "; expected every shard beside its index",
                "fetch the missing file",
            )
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                if part.get_dtype() not in FLOATS:
                    raise CheckpointError(
                        f"{path.name}: {name} of type {part.get_dtype()}"
                        "; expected floating point weights",
                        "use a checkpoint that is not quantized",
                    )
                files[name], shapes[name] = path, tuple(part.get_shape())
                dtypes[name] = FLOATS[part.get_dtype()]
        absent = sorted(name for name in promised if name not in files)
        if absent:
            raise CheckpointError(
                f"{path.name} without {named(absent)}; expected what {INDEX} promises",
                "fetch the file again",
            )
    return TensorFiles(files, shapes, dtypes)


def named(names: list[str], most: int = 3) -> str:
    """The count and the first few of ``names``, for an error's one line."""
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} tensor{'s' * (len(names) != 1)} ({', '.join(names[:most])}{more})"


def _paths(folder: Path) -> dict[Path, list[str]]:
    """The safetensors files and, where an index says so, which tensors each must hold."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: []}
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(
                f"{INDEX} without a weight_map; expected one", "fetch the file again"
            )
        paths: dict[Path, list[str]] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(
                    f"{INDEX} sends {name} to {file!r}; expected a file of the same folder",
                )
            paths.setdefault(folder / file, []).append(name)
        return paths
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickle files ({', '.join(pickles[:3])})"
            f"; expected {SINGLE} or {INDEX}, as loading a pickle can run any code",
            "convert the weights to safetensors where you trust them",
        )
    raise CheckpointError(f"{folder}: no weights; expected {SINGLE} or {INDEX}")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, as safe_open gives it. CheckpointError where it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: {error}; expected a whole safetensors file", "fetch the file again"
        ) from error
