"""Checkpoints: a Hugging Face-layout folder <-> the model. No network, no pickle."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llava_st_ros.checkpoint_config import read_config, read_json, write_config
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.tensor_files import SINGLE, find_tensors, named
from llava_st_ros.text.tokenizer import Tokenizer

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_VISION = r"model\.vision_tower\.vision_tower\.vision_model\."
# In published files, but no part of the network that runs.
STRAYS = re.compile(
    rf"model\.image_newline|{_VISION}(post_layernorm|head)\..*|{_VISION}embeddings\.position_ids|"
    r".*\.rotary_emb\.inv_freq"
)
_VISION_LAYER = re.compile(rf"{_VISION}encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder; ``tokenizer`` is None where the folder has none (a parity case)."""

    config: ModelConfig
    model: LlavaST
    tokenizer: Tokenizer | None


def load_checkpoint(
    path: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Load ``path``: safetensors (single or sharded), config.json, the tokenizer's files if any.

    ``overrides`` has the form of config.json's ``llava_st`` section and wins over it. The model is
    built without memory and takes the tensors one file at a time, cast to ``dtype``.
    Raises CheckpointError: anything missing, damaged, extra, misshapen, or a tokenizer that does
    not meet the vocabulary; ConfigError: a geometry that cannot work.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; expected a checkpoint folder")
    values = read_json(folder / "config.json")
    tensors = find_tensors(folder)
    tokenizer = Tokenizer.load_if_any(folder)
    special = None if tokenizer is None else tokenizer.special
    config = read_config(values, tensors.shapes, special, overrides)
    if tokenizer is not None:
        tokenizer.check_fits(config)
        config = replace(config, end_token_ids=_end_tokens(folder, config, tokenizer))

    with torch.device("meta"):
        model = LlavaST(config)
    names = check_tensors(config, model, tensors.shapes)
    for part in tensors.read(names, device, dtype):
        model.load_state_dict(part, strict=False, assign=True)
    model.materialize_buffers(device)
    return Checkpoint(config, model.eval(), tokenizer)


def save_checkpoint(
    folder: str | Path,
    model: LlavaST,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    dtype: str = "float16",
) -> None:
    """Write a folder that ``load_checkpoint`` reads: weights as ``dtype`` (one of DTYPES).

    Each file is written aside and then renamed, the weights last, so that a reader never sees half
    a file. Raises CheckpointError where a weight does not fit into ``dtype``.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    state = {}
    for name in published_names(config):
        module, _, leaf = name.rpartition(".")
        # Read through the module, so that a parametrisation's value is saved, not its parts.
        value = getattr(model.get_submodule(module), leaf).detach()
        state[name] = value.to(device="cpu", dtype=DTYPES[dtype]).contiguous()
        if not torch.isfinite(state[name]).all():
            raise CheckpointError(
                f"{name} is not finite as {dtype}; expected finite weights",
                "save as float32 and look",
            )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        values = {**write_config(config), "torch_dtype": dtype}
        text = json.dumps(values, indent=1) + "\n"
        (aside / "config.json").write_text(text, encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(aside)
        save_file(state, str(aside / SINGLE), metadata={"format": "pt"})
        for file in sorted(aside.iterdir(), key=lambda file: file.name == SINGLE):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def published_names(config: ModelConfig) -> list[str]:
    """Every parameter's name in a checkpoint of this geometry."""
    with torch.device("meta"):
        return list(LlavaST(config).state_dict())


def check_tensors(
    config: ModelConfig, model: LlavaST, shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """The names to load; CheckpointError unless there are exactly those, in their shapes."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing = sorted(expected.keys() - shapes.keys())
    extra = sorted(
        name
        for name in shapes.keys() - expected.keys()
        if not _is_stray(name, config.vision.num_layers)
    )
    misshapen = [
        f"{name} {list(shapes[name])} for {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = [
        f"{kind} {named(names)}"
        for kind, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            ("; ".join(problems))
            + f"; expected the {len(expected)} tensors that config.json implies, in their shapes",
            "use the config.json that belongs to the weights",
        )
    return list(expected)


def _is_stray(name: str, num_layers: int) -> bool:
    layer = _VISION_LAYER.match(name)
    return bool(STRAYS.fullmatch(name)) or (layer is not None and int(layer[1]) >= num_layers)


def _end_tokens(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The config's end tokens, generation_config.json's, and the one that closes a turn."""
    ids = list(config.end_token_ids)
    if (folder / "generation_config.json").is_file():
        more = read_json(folder / "generation_config.json").get("eos_token_id")
        ids += [i for i in (more if isinstance(more, list) else [more]) if isinstance(i, int)]
    closing = tokenizer.encode("<|im_end|>")
    ids += closing if len(closing) == 1 else []
    return tuple(dict.fromkeys(ids))
