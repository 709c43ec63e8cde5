"""Writing a checkpoint folder whose tensors are computed one by one.

Peak memory is little more than one output file, however large the model. The folder is written
atomically.
"""

from __future__ import annotations

import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava_st_ros.atomic_files import atomic_folder
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.tensor_files import INDEX, SINGLE, TensorFiles

SHARD_BYTES = 2 * 2**30
# Files that are copied unchanged.
COPIED = ("generation_config.json", "preprocessor_config.json", "chat_template.jinja")


class ComputedTensors(ABC):
    """The tensors of a checkpoint to write, each computed when it is needed.

    Attributes:
        operation: How they are computed, for error messages ("merging").
        base: The tensors of an existing checkpoint; those to write have its dtypes and the order of
            its files.
        shapes: The shapes of the tensors to write, by name.
    """

    operation: ClassVar[str]
    base: TensorFiles
    shapes: Mapping[str, tuple[int, ...]]

    @abstractmethod
    def compute(self, name: str) -> Tensor:
        """Return a tensor of shape ``shapes[name]`` and of dtype ``dtype(name)``."""

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is written: that of the base."""
        return self.base.dtypes[name]

    def num_bytes(self, name: str) -> int:
        """The size of a tensor as it is written."""
        return math.prod(self.shapes[name]) * self.dtype(name).itemsize


def require_new_folder(out: Path) -> None:
    """Raise CheckpointError if the output folder exists."""
    if out.exists():
        raise CheckpointError(f"{out} exists", "remove it or choose another folder")


@contextmanager
def new_checkpoint(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``out`` after the block; if the block raises, it is deleted.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        with atomic_folder(out) as part:
            yield part
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {out}: {error}") from error


def write_small_files(values: Mapping[str, Any], folders: Sequence[Path], part: Path) -> None:
    """Write config.json and copy the files of COPIED, each from the last folder that has it.

    Args:
        values: The content of config.json.
        folders: Checkpoint folders.
        part: The folder to write.
    """
    text = json.dumps(values, indent=1) + "\n"
    (part / "config.json").write_text(text, encoding="utf-8")
    for name in COPIED:
        if (source := last_with(folders, name)) is not None:
            shutil.copyfile(source / name, part / name)


def last_with(folders: Sequence[Path], *names: str) -> Path | None:
    """Return the last folder with a file of one of the names, or None."""
    for folder in reversed(folders):
        if any((folder / name).is_file() for name in names):
            return folder
    return None


def write_tensors(
    tensors: ComputedTensors,
    part: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compute and write all tensors: one safetensors file, or several with an index.

    Args:
        tensors: The tensors.
        part: The folder to write.
        shard_bytes: The maximum size of an output file, unless a single tensor is larger.
        on_tensor: Called after each tensor with the numbers of tensors done and in total.

    Raises:
        CheckpointError: The disk has too little space, or a value is NaN or infinite.
        OSError, SafetensorError: A file cannot be written.
    """
    _check_space(tensors, part)
    shards = _split_into_shards(tensors, shard_bytes)
    files = [SINGLE]
    if len(shards) > 1:
        files = [
            f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
        ]
    num_written = 0
    for file, names in zip(files, shards):
        computed = {}
        for name in names:
            computed[name] = _compute(tensors, name)
            num_written += 1
            on_tensor(num_written, len(tensors.shapes))
        save_file(computed, part / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(tensors.num_bytes, tensors.shapes))},
            "weight_map": {name: file for file, names in zip(files, shards) for name in names},
        }
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _check_space(tensors: ComputedTensors, part: Path) -> None:
    required, free = sum(map(tensors.num_bytes, tensors.shapes)), shutil.disk_usage(part).free
    if required > free:
        raise CheckpointError(
            f"the disk has {free / 1e9:.1f} GB free; the weights need {required / 1e9:.1f} GB",
            "free disk space or choose another disk",
        )


def _compute(tensors: ComputedTensors, name: str) -> Tensor:
    value = tensors.compute(name)
    if not torch.isfinite(value).all():
        dtype = str(tensors.dtype(name)).removeprefix("torch.")
        raise CheckpointError(f"{name} is not finite as {dtype} after {tensors.operation}")
    return value


def _split_into_shards(tensors: ComputedTensors, shard_bytes: int) -> list[list[str]]:
    """The names in each output file: in the order of the base's files, then the new tensors."""
    files = tensors.base.files
    order = sorted(
        tensors.shapes, key=lambda name: (name not in files, files.get(name, Path()), name)
    )
    shards: list[list[str]] = [[]]
    size = 0
    for name in order:
        if shards[-1] and size + tensors.num_bytes(name) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors.num_bytes(name)
    return shards
