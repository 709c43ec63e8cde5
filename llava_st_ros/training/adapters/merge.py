"""A published chain, a full checkpoint and LoRA adapters trained one after another, into one.

Tensor by tensor, so that memory holds little more than one output file however large the model.
Everything is checked before anything is computed; the folder appears under its name when whole.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava_st_ros.checkpoint_config import LM_HEAD, read_config, read_json
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.checkpoint import check_tensors
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.tensor_files import (
    INDEX,
    SINGLE,
    TensorFiles,
    find_tensors,
    opened,
)
from llava_st_ros.text.tokenizer import TOKENIZER_FILES, Tokenizer
from llava_st_ros.training.adapters.apply import Adapter, read_adapter
from llava_st_ros.training.adapters.files import ADAPTER_CONFIG
from llava_st_ros.training.objective import COORDINATE_TABLES

SHARD_BYTES = 2 * 2**30
TABLES = tuple(f"model.{name}.weight" for name in COORDINATE_TABLES)
CARRIED = ("generation_config.json", "preprocessor_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class _Chain:
    """What is merged: the base's tensors, the adapters, and the shapes after them."""

    files: TensorFiles
    adapters: tuple[Adapter, ...]
    shapes: dict[str, tuple[int, ...]]

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which it is stored; a table that the base has not is stored as lm_head."""
        return self.files.dtypes.get(name, self.files.dtypes[LM_HEAD])

    def bytes(self, name: str) -> int:
        return math.prod(self.shapes[name]) * self.dtype(name).itemsize

    def value(self, name: str) -> Tensor:
        """The merged parameter, rounded to its stored dtype after every adapter."""
        dtype = self.dtype(name)
        weight: Tensor | None = None
        if name in self.files.files:
            with opened(self.files.files[name]) as file:
                weight = file.get_tensor(name)
        for adapter in self.adapters:
            weight = adapter.applied(name, weight, dtype)
        assert weight is not None
        if not torch.isfinite(weight).all():
            raise CheckpointError(
                f"{name} is not finite as {str(dtype).removeprefix('torch.')}"
                "; expected finite weights",
                "look at the adapters' tensors",
            )
        # A copy: safetensors writes no view of another file's memory.
        return weight.detach().clone(memory_format=torch.contiguous_format)


def merge(
    base: Path,
    adapters: Sequence[Path],
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Merge ``adapters``, in the order of their training, into ``base``; write the folder ``out``.

    Weights keep the base's dtypes, in files of at most ``shard_bytes`` (or one tensor);
    ``on_tensor`` hears of each, done of total. Raises CheckpointError where the chain does not
    hold together, a file cannot be read, or the disk is full; then nothing of ``out`` is left.
    """
    base, out = Path(base), Path(out)
    folders = [Path(folder) for folder in adapters]
    _check_order(base, folders)
    if out.exists():
        raise CheckpointError(f"{out} exists; expected a new folder", "remove it or choose another")
    chain = _read_chain(base, folders)
    part = out.with_name(f"{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # a killed run's
        part.mkdir(parents=True)
        names = _write_small_files([base, *folders], chain, part)
        for adapter in chain.adapters:
            adapter.check_complete(name.removesuffix(".weight") for name in names)
        _check_space(chain, part)
        _write_weights(chain, part, shard_bytes, on_tensor)
        part.rename(out)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{out}: {error}; expected a folder with room to write to") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_order(base: Path, folders: Sequence[Path]) -> None:
    if (base / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{base} is an adapter; expected a full checkpoint first",
            "name stage 1, then the adapters",
        )
    if not folders:
        raise CheckpointError(
            "no adapter; expected one or more", "name them in order of their training"
        )
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise CheckpointError("an adapter named twice; expected each once", "name each once")
    for folder in folders:
        if folder.is_dir() and not (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(
                f"no {ADAPTER_CONFIG} in {folder}; expected an adapter",
                "name the full checkpoint first",
            )


def _read_chain(base: Path, folders: Sequence[Path]) -> _Chain:
    files = find_tensors(base)
    read_json(base / "config.json")
    chain = [read_adapter(folder) for folder in folders]
    for place, adapter in enumerate(chain):
        trained_on = Path(str(adapter.config.base_model_name_or_path)).name
        if trained_on in {folder.name for folder in folders[place + 1 :]}:
            raise CheckpointError(
                f"{adapter.folder}, trained on {trained_on}, before it"
                "; expected stages in the order of training",
                "put the adapters into that order",
            )
    if LM_HEAD not in files.shapes:
        raise CheckpointError(f"{base}: no {LM_HEAD}; expected a full checkpoint")
    shapes = dict(files.shapes)
    for adapter in chain:
        shapes = adapter.shapes_after(shapes, TABLES)
    return _Chain(files, tuple(chain), shapes)


def _write_small_files(folders: Sequence[Path], chain: _Chain, part: Path) -> list[str]:
    """config.json, tokenizer and what else goes along, each from the last folder that has it.

    Returns the names of the network's parameters. Raises CheckpointError or ConfigError
    unless these files describe the tensors that will be written.
    """
    values: dict[str, Any] = {}
    for folder in folders:
        if (folder / "config.json").is_file():
            values |= read_json(folder / "config.json")
    temporal, spatial = (chain.shapes.get(name) for name in (TABLES[0], TABLES[2]))
    if temporal is None or spatial is None:
        raise CheckpointError(
            "a chain without coordinate tables; expected tables in some stage",
            "add the missing stage",
        )
    values |= {
        "vocab_size": chain.shapes[LM_HEAD][0],
        "num_temporal_tokens": temporal[0],
        "num_spatial_tokens": spatial[0],
    }
    (part / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    for name in CARRIED:
        if (source := _last_with(folders, name)) is not None:
            shutil.copyfile(source / name, part / name)
    tokenizer: Tokenizer | None = None
    if (source := _last_with(folders, *TOKENIZER_FILES)) is not None:
        # The published adapters bring none, and stage 1's has no tokens for coordinates yet.
        tokenizer = Tokenizer.load_completed(source, temporal[0], spatial[0])
        tokenizer.save(part)
    config = read_config(values, chain.shapes, None if tokenizer is None else tokenizer.special)
    if tokenizer is not None:
        tokenizer.check_fits(config)
    with torch.device("meta"):
        model = LlavaST(config)
    return check_tensors(config, model, chain.shapes)


def _last_with(folders: Sequence[Path], *names: str) -> Path | None:
    for folder in reversed(folders):
        if any((folder / name).is_file() for name in names):
            return folder
    return None


def _check_space(chain: _Chain, part: Path) -> None:
    needed, free = sum(map(chain.bytes, chain.shapes)), shutil.disk_usage(part).free
    if needed > free:
        raise CheckpointError(
            f"{free / 1e9:.1f} GB free for {needed / 1e9:.1f} GB of weights"
            "; expected room for them",
            "free some or choose another disk",
        )


def _write_weights(
    chain: _Chain, part: Path, shard_bytes: int, on_tensor: Callable[[int, int], None]
) -> None:
    shards = _shards(chain, shard_bytes)
    files = [SINGLE]
    if len(shards) > 1:
        files = [
            f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
        ]
    done = 0
    for file, names in zip(files, shards):
        tensors = {}
        for name in names:
            tensors[name] = chain.value(name)
            done += 1
            on_tensor(done, len(chain.shapes))
        save_file(tensors, part / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(chain.bytes, chain.shapes))},
            "weight_map": {name: file for file, names in zip(files, shards) for name in names},
        }
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _shards(chain: _Chain, shard_bytes: int) -> list[list[str]]:
    """The names by output file, in the base's order of files, tables that it has not at the end."""
    order: Iterable[str] = sorted(
        chain.shapes,
        key=lambda name: (name not in chain.files.files, chain.files.files.get(name, Path()), name),
    )
    shards: list[list[str]] = [[]]
    size = 0
    for name in order:
        if shards[-1] and size + chain.bytes(name) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += chain.bytes(name)
    return shards
