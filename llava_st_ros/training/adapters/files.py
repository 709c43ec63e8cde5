"""Reading the files of an adapter folder without running code from them.

``adapter_config.json`` is parsed by peft and accepted only if it describes plain LoRA. Tensors are
read from safetensors, or from pickles that contain nothing but named tensors.
"""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor

from llava_st_ros.checkpoint_config import read_json
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.tensor_files import list_names, open_safetensors

ADAPTER_CONFIG = "adapter_config.json"
# Stems of the tensor files: LoRA factors, and parameters that were trained in full.
LORA_TENSORS, NON_LORA_TENSORS = "adapter_model", "non_lora_trainables"
# Settings that select the updated layers and scale the updates: merging honors all of them.
_HONORED = {
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
}
# Settings of training, of saving or of other libraries: they do not affect merged weights.
_IRRELEVANT = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "revision",
    "base_model_name_or_path",
    "lora_dropout",
    "init_lora_weights",
    "eva_config",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
}
# The values of init_lora_weights that leave the base's weights unchanged.
_NEUTRAL_INITS = (True, False, "gaussian", "orthogonal", "eva")


def read_lora_config(folder: Path) -> LoraConfig:
    """Read ``adapter_config.json``.

    Raises:
        CheckpointError: peft cannot read it, or it has a setting that merging does not support.
    """
    path = folder / ADAPTER_CONFIG
    values = read_json(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown settings, which are rejected below
            config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a LoRA adapter's config: {error}") from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(f"{path}: peft_type is {values.get('peft_type')!r}; expected LORA")
    default = LoraConfig()
    known = {f.name for f in dataclasses.fields(LoraConfig)}
    unsupported = {
        name: value
        for name, value in values.items()
        if name not in known and name not in _IRRELEVANT and value
    }
    for name in known - _HONORED - _IRRELEVANT:
        value = getattr(config, name)
        if value and value != getattr(default, name):
            unsupported[name] = value
    if config.init_lora_weights not in _NEUTRAL_INITS:
        unsupported["init_lora_weights"] = config.init_lora_weights
    numbers = {"r": config.r, "lora_alpha": config.lora_alpha}
    numbers |= {**(config.rank_pattern or {}), **(config.alpha_pattern or {})}
    unsupported |= {n: v for n, v in numbers.items() if not isinstance(v, (int, float)) or v <= 0}
    if unsupported:
        listed = ", ".join(f"{name} is {value!r}" for name, value in sorted(unsupported.items()))
        raise CheckpointError(
            f"{path}: {listed}; only plain LoRA is supported", "merge it with peft instead"
        )
    return config


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """Read ``stem``.safetensors, or ``stem``.bin if there is none, memory-mapped where possible.

    Raises:
        CheckpointError: There is no such file, it cannot be read, or it holds tensors that are not
            floating point.
    """
    path = next((p for s in (".safetensors", ".bin") if (p := folder / (stem + s)).is_file()), None)
    if path is None:
        raise CheckpointError(f"no {stem}.safetensors or {stem}.bin in {folder}")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    integers = sorted(name for name, value in tensors.items() if not value.is_floating_point())
    if integers:
        raise CheckpointError(
            f"{path}: {list_names(integers)} not of a floating point type; expected trained weights"
        )
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read a file of ``torch.save`` that holds named tensors and nothing else.

    Raises:
        CheckpointError: The file is damaged or holds anything else; no code in it is run.
    """
    try:
        try:
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # torch.save's legacy format cannot be memory-mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _not_tensors(path, "contains more than tensors, or is damaged") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _not_tensors(path, f"cannot be read ({reason})") from error
    if not isinstance(loaded, Mapping):
        raise _not_tensors(path, f"contains a {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _not_tensors(path, f"contains {name!r} of type {type(value).__name__}")
    return {name: value.detach() for name, value in loaded.items()}


def _not_tensors(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {problem}; expected named tensors and nothing else, as a pickle can run any code"
    )
