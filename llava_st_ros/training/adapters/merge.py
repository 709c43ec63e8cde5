"""Merging a full checkpoint and the LoRA adapters trained on it, in order, into one checkpoint.

Everything is checked before anything is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from llava_st_ros.checkpoint_config import (
    LM_HEAD,
    check_layers,
    read_checkpoint_json,
    read_config,
    without_calibration,
)
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.checkpoint import check_tensors
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.tensor_files import (
    ADAPTER_CONFIG,
    TensorFiles,
    find_tensors,
    open_safetensors,
)
from llava_st_ros.model.tensor_writer import (
    SHARD_BYTES,
    ComputedTensors,
    last_with,
    new_checkpoint,
    require_new_folder,
    write_small_files,
    write_tensors,
)
from llava_st_ros.text.tokenizer import TOKENIZER_FILES, Tokenizer
from llava_st_ros.training.adapters.adapter import Adapter, read_adapter
from llava_st_ros.training.objective import COORDINATE_TABLES

TABLES = tuple(f"model.{name}.weight" for name in COORDINATE_TABLES)


@dataclass(frozen=True)
class MergedTensors(ComputedTensors):
    """The tensors of the merged checkpoint, each computed when it is needed.

    Attributes:
        base: The base checkpoint's tensors.
        adapters: The adapters, in the order of training.
        shapes: The shapes after merging, by name.
    """

    operation: ClassVar[str] = "merging"

    base: TensorFiles
    adapters: tuple[Adapter, ...]
    shapes: dict[str, tuple[int, ...]]

    def dtype(self, name: str) -> torch.dtype:
        """The stored dtype: the base's, or lm_head's for a table that the base does not have."""
        return self.base.dtypes.get(name, self.base.dtypes[LM_HEAD])

    def compute(self, name: str) -> Tensor:
        """Merge a tensor, rounding to its stored dtype after every adapter."""
        dtype = self.dtype(name)
        weight: Tensor | None = None
        if name in self.base.files:
            with open_safetensors(self.base.files[name]) as file:
                weight = file.tensor(name)
        for adapter in self.adapters:
            weight = adapter.apply_to(name, weight, dtype)
        assert weight is not None
        # safetensors cannot write a view of another file's memory.
        return weight.detach().clone(memory_format=torch.contiguous_format)


def merge(
    base: Path,
    adapters: Sequence[Path],
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Merge ``adapters`` into the checkpoint ``base`` and write the result to ``out``.

    Weights keep the base's dtypes.

    Args:
        base: The folder of a full checkpoint.
        adapters: Adapter folders, in the order of training.
        out: The folder to write; it must not exist.
        shard_bytes: The maximum size of an output file, unless a single tensor is larger.
        on_tensor: Called after each tensor with the numbers of tensors done and in total.

    Raises:
        CheckpointError: The adapters do not fit the checkpoint or each other, a file cannot be
            read, or the disk is full. ``out`` does not exist then.
    """
    base, out = Path(base), Path(out)
    folders = [Path(folder) for folder in adapters]
    _check_order(base, folders)
    require_new_folder(out)
    merged = _read(base, folders)
    with new_checkpoint(out) as part:
        names = _write_small_files([base, *folders], merged, part)
        for adapter in merged.adapters:
            adapter.check_complete(name.removesuffix(".weight") for name in names)
        write_tensors(merged, part, shard_bytes=shard_bytes, on_tensor=on_tensor)


def _check_order(base: Path, folders: Sequence[Path]) -> None:
    first = "name the full checkpoint first, then the adapters in the order of training"
    if (base / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{base} is an adapter; expected a full checkpoint", first)
    if not folders:
        raise CheckpointError("no adapter; expected one or more", first)
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise CheckpointError("an adapter is named twice")
    for folder in folders:
        if folder.is_dir() and not (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(f"no {ADAPTER_CONFIG} in {folder}; expected an adapter", first)


def _read(base: Path, folders: Sequence[Path]) -> MergedTensors:
    tensors = find_tensors(base)
    read_checkpoint_json(base / "config.json")
    adapters = [read_adapter(folder) for folder in folders]
    for number, adapter in enumerate(adapters):
        _check_base(adapter, [base, *folders[: number + 1]], folders[number + 1 :])
    if LM_HEAD not in tensors.shapes:
        raise CheckpointError(f"{base} has no {LM_HEAD}; expected a full checkpoint")
    shapes = dict(tensors.shapes)
    for adapter in adapters:
        shapes = adapter.merged_shapes(shapes, TABLES)
    return MergedTensors(tensors, tuple(adapters), shapes)


def _check_base(adapter: Adapter, before: Sequence[Path], after: Sequence[Path]) -> None:
    """Raise CheckpointError if an adapter was trained on a folder that is named after it.

    Folders are compared by their last parts: they may have been moved since, and the Trainer of
    transformers names the folders of all stages alike (``checkpoint-1000``). A folder after the
    adapter is its base only if it agrees in more parts than those before and the adapter's own.
    """
    trained_on = Path(str(adapter.config.base_model_name_or_path))
    if not after:
        return
    likely = max(after, key=lambda folder: _common_parts(folder, trained_on))
    if _common_parts(likely, trained_on) > max(_common_parts(f, trained_on) for f in before):
        raise CheckpointError(
            f"{adapter.folder} was trained on {trained_on}, and {likely} is named after it",
            "name the adapters in the order of training",
        )


def _common_parts(folder: Path, path: Path) -> int:
    """The number of last parts in which two paths agree."""
    pairs = zip(reversed(folder.resolve().parts), reversed(path.parts))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _write_small_files(folders: Sequence[Path], merged: MergedTensors, part: Path) -> list[str]:
    """Write every file except the weights, each from the last folder that has it.

    Returns:
        The names of the network's parameters.

    Raises:
        CheckpointError, ConfigError: The files do not describe the tensors that will be written.
    """
    values: dict[str, Any] = {}
    for folder in folders:
        if (folder / "config.json").is_file():
            values |= read_checkpoint_json(folder / "config.json")
    temporal, spatial = (merged.shapes.get(name) for name in (TABLES[0], TABLES[2]))
    if temporal is None or spatial is None:
        raise CheckpointError(
            "neither the checkpoint nor an adapter has coordinate tables", "add the missing stage"
        )
    values = without_calibration(values) | {
        "vocab_size": merged.shapes[LM_HEAD][0],
        "num_temporal_tokens": temporal[0],
        "num_spatial_tokens": spatial[0],
    }
    write_small_files(values, folders, part)
    tokenizer: Tokenizer | None = None
    if (source := last_with(folders, *TOKENIZER_FILES)) is not None:
        # The published adapters have no tokenizer, and stage 1's lacks the coordinate tokens.
        tokenizer = Tokenizer.load_completed(source, temporal[0], spatial[0])
        tokenizer.save(part)
    config = read_config(values, merged.shapes, None if tokenizer is None else tokenizer.special)
    if tokenizer is not None:
        tokenizer.check_fits(config)
    check_layers(config, merged.shapes)
    with torch.device("meta"):
        model = LlavaST(config)
    return check_tensors(config, model, merged.shapes)
