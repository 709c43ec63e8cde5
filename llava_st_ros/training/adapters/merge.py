"""Merging a full checkpoint and the LoRA adapters trained on it, in order, into one checkpoint.

Tensors are merged one by one, so that peak memory is little more than one output file, however
large the model. Everything is checked before anything is computed, and the output folder is
written atomically.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava_st_ros.atomic_files import atomic_folder
from llava_st_ros.checkpoint_config import (
    LM_HEAD,
    SECTION,
    check_layers,
    read_checkpoint_json,
    read_config,
)
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.checkpoint import check_tensors
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.tensor_files import (
    INDEX,
    SINGLE,
    TensorFiles,
    find_tensors,
    open_safetensors,
)
from llava_st_ros.text.tokenizer import TOKENIZER_FILES, Tokenizer
from llava_st_ros.training.adapters.adapter import Adapter, read_adapter
from llava_st_ros.training.adapters.files import ADAPTER_CONFIG
from llava_st_ros.training.objective import COORDINATE_TABLES

SHARD_BYTES = 2 * 2**30
TABLES = tuple(f"model.{name}.weight" for name in COORDINATE_TABLES)
# Files that are copied unchanged.
COPIED = ("generation_config.json", "preprocessor_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class MergedTensors:
    """The tensors of the merged checkpoint, each computed when it is needed.

    Attributes:
        base: The base checkpoint's tensors.
        adapters: The adapters, in the order of training.
        shapes: The shapes after merging, by name.
    """

    base: TensorFiles
    adapters: tuple[Adapter, ...]
    shapes: dict[str, tuple[int, ...]]

    def dtype(self, name: str) -> torch.dtype:
        """The stored dtype: the base's, or lm_head's for a table that the base does not have."""
        return self.base.dtypes.get(name, self.base.dtypes[LM_HEAD])

    def num_bytes(self, name: str) -> int:
        return math.prod(self.shapes[name]) * self.dtype(name).itemsize

    def compute(self, name: str) -> Tensor:
        """Merge a tensor, rounding to its stored dtype after every adapter.

        Raises:
            CheckpointError: A value of the result is NaN or infinite.
        """
        dtype = self.dtype(name)
        weight: Tensor | None = None
        if name in self.base.files:
            with open_safetensors(self.base.files[name]) as file:
                weight = file.tensor(name)
        for adapter in self.adapters:
            weight = adapter.apply_to(name, weight, dtype)
        assert weight is not None
        if not torch.isfinite(weight).all():
            raise CheckpointError(
                f"{name} is not finite as {str(dtype).removeprefix('torch.')} after merging"
            )
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
    if out.exists():
        raise CheckpointError(f"{out} exists", "remove it or choose another folder")
    merged = _read(base, folders)
    try:
        with atomic_folder(out) as part:
            names = _write_small_files([base, *folders], merged, part)
            for adapter in merged.adapters:
                adapter.check_complete(name.removesuffix(".weight") for name in names)
            _check_space(merged, part)
            _write_weights(merged, part, shard_bytes, on_tensor)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {out}: {error}") from error


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
    if isinstance(values.get(SECTION), dict):  # a calibration is that of the weights before
        values[SECTION] = {k: v for k, v in values[SECTION].items() if k != "calibration"}
    temporal, spatial = (merged.shapes.get(name) for name in (TABLES[0], TABLES[2]))
    if temporal is None or spatial is None:
        raise CheckpointError(
            "neither the checkpoint nor an adapter has coordinate tables", "add the missing stage"
        )
    values |= {
        "vocab_size": merged.shapes[LM_HEAD][0],
        "num_temporal_tokens": temporal[0],
        "num_spatial_tokens": spatial[0],
    }
    (part / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    for name in COPIED:
        if (source := _last_with(folders, name)) is not None:
            shutil.copyfile(source / name, part / name)
    tokenizer: Tokenizer | None = None
    if (source := _last_with(folders, *TOKENIZER_FILES)) is not None:
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


def _last_with(folders: Sequence[Path], *names: str) -> Path | None:
    for folder in reversed(folders):
        if any((folder / name).is_file() for name in names):
            return folder
    return None


def _check_space(merged: MergedTensors, part: Path) -> None:
    required, free = sum(map(merged.num_bytes, merged.shapes)), shutil.disk_usage(part).free
    if required > free:
        raise CheckpointError(
            f"the disk has {free / 1e9:.1f} GB free; the weights need {required / 1e9:.1f} GB",
            "free disk space or choose another disk",
        )


def _write_weights(
    merged: MergedTensors, part: Path, shard_bytes: int, on_tensor: Callable[[int, int], None]
) -> None:
    shards = _split_into_shards(merged, shard_bytes)
    files = [SINGLE]
    if len(shards) > 1:
        files = [
            f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
        ]
    num_written = 0
    for file, names in zip(files, shards):
        tensors = {}
        for name in names:
            tensors[name] = merged.compute(name)
            num_written += 1
            on_tensor(num_written, len(merged.shapes))
        save_file(tensors, part / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(merged.num_bytes, merged.shapes))},
            "weight_map": {name: file for file, names in zip(files, shards) for name in names},
        }
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _split_into_shards(merged: MergedTensors, shard_bytes: int) -> list[list[str]]:
    """The names in each output file: in the order of the base's files, then the new tables."""
    files = merged.base.files
    order = sorted(
        merged.shapes, key=lambda name: (name not in files, files.get(name, Path()), name)
    )
    shards: list[list[str]] = [[]]
    size = 0
    for name in order:
        if shards[-1] and size + merged.num_bytes(name) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += merged.num_bytes(name)
    return shards
