"""Loading and saving checkpoints in Hugging Face's folder layout, without network or pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llava_st_ros.atomic_files import staged_files
from llava_st_ros.calibration import Calibration
from llava_st_ros.checkpoint_config import (
    check_layers,
    read_checkpoint_json,
    read_config,
    write_config,
)
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.tensor_files import SINGLE, TensorFiles, find_tensors, list_names
from llava_st_ros.text.tokenizer import Tokenizer

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_VISION = r"model\.vision_tower\.vision_tower\.vision_model\."
# In published files, but not part of the network.
UNUSED_TENSORS = re.compile(
    rf"model\.image_newline|{_VISION}(post_layernorm|head)\..*|{_VISION}embeddings\.position_ids|"
    r".*\.rotary_emb\.inv_freq"
)
_VISION_LAYER = re.compile(rf"{_VISION}encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; ``tokenizer`` is None if the folder has none."""

    config: ModelConfig
    model: LlavaST
    tokenizer: Tokenizer | None


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint folder that was checked, but whose weights were not read.

    Attributes:
        values: The content of config.json.
        config: The geometry and the settings.
        tokenizer: The tokenizer; None if the folder has none.
        tensors: All tensors, those that the network does not use included.
        network: The network on the meta device, without values.
        parameters: The names of the network's parameters.
    """

    values: dict[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer | None
    tensors: TensorFiles
    network: LlavaST
    parameters: list[str]


def load_checkpoint(
    path: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Load a checkpoint folder: safetensors, config.json and, if present, the tokenizer's files.

    The model is built on the meta device and loaded file by file, so that peak memory is that of
    the model and one file.

    Args:
        path: The folder.
        overrides: Settings that replace those of config.json's ``llava_st`` section.
        device: The device of the model.
        dtype: The dtype of the parameters.

    Raises:
        CheckpointError: A file or tensor is missing, damaged, unexpected or of the wrong shape, or
            the tokenizer does not fit the vocabulary.
        ConfigError: The geometry is invalid.
    """
    files = read_checkpoint_files(Path(path), overrides)
    model = files.network
    for part in files.tensors.read(files.parameters, device, dtype):
        model.load_state_dict(part, strict=False, assign=True)
    model.materialize_buffers(device)
    return Checkpoint(files.config, model.eval(), files.tokenizer)


def read_checkpoint_files(
    folder: Path, overrides: Mapping[str, Any] | None = None
) -> CheckpointFiles:
    """Read a checkpoint's small files and the headers of its weights, and check that they fit.

    Args:
        folder: The folder.
        overrides: Settings that replace those of config.json's ``llava_st`` section.

    Raises:
        CheckpointError, ConfigError: As for ``load_checkpoint``.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; expected a checkpoint folder")
    values = read_checkpoint_json(folder / "config.json")
    tensors = find_tensors(folder)
    tokenizer = Tokenizer.load_optional(folder)
    special = None if tokenizer is None else tokenizer.special
    config = read_config(values, tensors.shapes, special, overrides)
    if tokenizer is not None:
        tokenizer.check_fits(config)
        config = replace(config, end_token_ids=_end_tokens(folder, config, tokenizer))

    check_layers(config, tensors.shapes)
    with torch.device("meta"):
        network = LlavaST(config)
    names = check_tensors(config, network, tensors.shapes)
    return CheckpointFiles(values, config, tokenizer, tensors, network, names)


def save_checkpoint(
    folder: str | Path,
    model: LlavaST,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    dtype: str = "float16",
) -> None:
    """Write a checkpoint folder that ``load_checkpoint`` reads.

    Existing files are replaced one by one, atomically, the weights last; other files are kept. A
    calibration is not written: it belongs to the weights for which it was fitted.

    Args:
        folder: The folder to write.
        model: The model; a parametrized weight is saved as its value.
        config: The model's config.
        tokenizer: The tokenizer, if any.
        dtype: The dtype of the weights, one of DTYPES.

    Raises:
        CheckpointError: A weight is NaN, infinite or out of the range of ``dtype``.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    state = {}
    for name in parameter_names(config):
        module, _, leaf = name.rpartition(".")
        # state_dict() would give a parametrization's original tensor; the attribute is its value.
        value = getattr(model.get_submodule(module), leaf).detach()
        state[name] = value.to(device="cpu", dtype=DTYPES[dtype]).contiguous()
        if not torch.isfinite(state[name]).all():
            remedy = "" if dtype == "float32" else "save as float32"
            raise CheckpointError(f"{name} is not finite as {dtype}", remedy)
    config = replace(config, calibration=Calibration())
    values = {**write_config(config), "torch_dtype": dtype}
    with staged_files(Path(folder), last=SINGLE) as stage:
        text = json.dumps(values, indent=1) + "\n"
        (stage / "config.json").write_text(text, encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(stage)
        save_file(state, str(stage / SINGLE), metadata={"format": "pt"})


def parameter_names(config: ModelConfig) -> list[str]:
    """The names of all parameters in a checkpoint of this geometry."""
    with torch.device("meta"):
        return list(LlavaST(config).state_dict())


def check_tensors(
    config: ModelConfig, model: LlavaST, shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Check a checkpoint's tensors against the network's parameters.

    Args:
        config: The checkpoint's config.
        model: A network of this config; its values are not read.
        shapes: The shapes of the checkpoint's tensors, by name.

    Returns:
        The names of the parameters to load.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of the wrong shape.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing = sorted(expected.keys() - shapes.keys())
    extra = sorted(
        name
        for name in shapes.keys() - expected.keys()
        if not _is_unused(name, config.vision.num_layers)
    )
    misshapen = [
        f"{name} {list(shapes[name])} for {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = [
        f"{kind} {list_names(names)}"
        for kind, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{'; '.join(problems)}; config.json implies {len(expected)} tensors",
            "use the config.json that belongs to the weights",
        )
    for name, number in asdict(config.special_tokens).items():
        if not 0 <= number < config.language.vocab_size:
            raise CheckpointError(
                f"config.json: the id of {name} is {number}; expected a text id, below "
                f"{config.language.vocab_size}"
            )
    return list(expected)


def _is_unused(name: str, num_layers: int) -> bool:
    layer = _VISION_LAYER.match(name)
    return bool(UNUSED_TENSORS.fullmatch(name)) or (
        layer is not None and int(layer[1]) >= num_layers
    )


def _end_tokens(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The end tokens of config.json and generation_config.json, and ``<|im_end|>``."""
    ids = list(config.end_token_ids)
    if (folder / "generation_config.json").is_file():
        more = read_checkpoint_json(folder / "generation_config.json").get("eos_token_id")
        ids += [i for i in (more if isinstance(more, list) else [more]) if isinstance(i, int)]
    closing = tokenizer.encode("<|im_end|>")
    ids += closing if len(closing) == 1 else []
    return tuple(dict.fromkeys(ids))
