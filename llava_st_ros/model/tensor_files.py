"""Reading the tensors of a folder in Hugging Face's layout: one safetensors file or several.

The files' headers are read first, so that an unusable folder is rejected before any weights are
loaded. Pickle files are never opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_st_ros.checkpoint_config import read_checkpoint_json
from llava_st_ros.errors import CheckpointError, shown
from llava_st_ros.files.raw import is_file_name
from llava_st_ros.files.tensor_file import TensorFile, open_tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"  # in the folder of a LoRA adapter
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a folder, from the files' headers.

    Attributes:
        files: The file of each tensor, by name.
        shapes: The shape of each tensor.
        dtypes: The dtype of each tensor.
    """

    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def read(
        self, names: list[str], device: torch.device | str, dtype: torch.dtype
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Copy the named tensors to ``device`` as ``dtype``; yields those of one file at a time."""
        for path in sorted({self.files[name] for name in names}):
            with open_safetensors(path) as file:
                yield {
                    name: file.tensor(name).to(device=device, dtype=dtype, copy=True)
                    for name in names
                    if self.files[name] == path
                }


def find_tensors(folder: Path) -> TensorFiles:
    """Read the headers of a folder's safetensors files.

    Raises:
        CheckpointError: There are no such files (or only pickles), a file or tensor of the index is
            missing, a file is damaged, or a tensor is not floating point.
    """
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for path, indexed in _weight_files(folder).items():
        if not path.is_file():
            raise CheckpointError(
                f"{INDEX} names {path.name}, which does not exist", "download the missing file"
            )
        with open_safetensors(path) as file:
            for name in file.names:
                shape, dtype = file.header(name)
                if dtype not in FLOATS:
                    raise CheckpointError(
                        f"{path.name}: {name} is of type {dtype}; expected floating point weights",
                        "use a checkpoint that is not quantized",
                    )
                files[name], shapes[name], dtypes[name] = path, shape, FLOATS[dtype]
        absent = sorted(name for name in indexed if name not in files)
        if absent:
            raise CheckpointError(
                f"{path.name} does not contain {list_names(absent)}, which {INDEX} lists",
                "download the file again",
            )
    return TensorFiles(files, shapes, dtypes)


def list_names(names: list[str], limit: int = 3) -> str:
    """The number of tensors and the first few names, on one line, for an error message."""
    more = ", ..." if len(names) > limit else ""
    return f"{len(names)} tensor{'s' * (len(names) != 1)} ({', '.join(names[:limit])}{more})"


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """Return the safetensors files, each with the tensors that the index, if any, lists for it."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: []}
    if (folder / INDEX).is_file():
        weight_map = read_checkpoint_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{INDEX} has no weight_map", "download the file again")
        paths: dict[Path, list[str]] = {}
        for name, file in weight_map.items():
            if not is_file_name(file):
                raise CheckpointError(
                    f"{INDEX} maps {name[:80]} to {shown(file)}; expected a file in the same folder"
                )
            paths.setdefault(folder / file, []).append(name)
        return paths
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has only pickle files ({', '.join(pickles[:3])})"
            f"; expected {SINGLE} or {INDEX}, as loading a pickle can run any code",
            "if you trust the files, convert them to safetensors",
        )
    raise CheckpointError(f"{folder} has no weights; expected {SINGLE} or {INDEX}")


def open_safetensors(path: Path) -> AbstractContextManager[TensorFile]:
    """Open a safetensors file of torch tensors; CheckpointError if it cannot be read."""
    return open_tensors(path, CheckpointError, "download the file again", framework="pt")
