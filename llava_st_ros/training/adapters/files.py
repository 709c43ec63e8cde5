"""Reading the files of an adapter folder without running code from them.

``adapter_config.json`` is parsed by peft and accepted only if it describes plain LoRA. Tensors are
read from safetensors, or from pickles that contain nothing but named tensors.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from torch import Tensor

from llava_st_ros.checkpoint_config import read_checkpoint_json
from llava_st_ros.errors import CheckpointError, reason_of, shown
from llava_st_ros.files.tensor_file import read_tensors as read_safetensors
from llava_st_ros.model.pickle_files import read_pickle
from llava_st_ros.model.tensor_files import ADAPTER_CONFIG, list_names

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
    values = read_checkpoint_json(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown settings, which are rejected below
            config = PeftConfig.from_peft_type(**values)
    except Exception as error:  # peft and its dataclasses raise errors of many types
        raise CheckpointError(
            f"{path} is not a LoRA adapter's config: {reason_of(error)}"
        ) from error
    _check_patterns(path, config)
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
    unsupported |= {n: v for n, v in numbers.items() if not _is_positive(v)}
    if unsupported:
        listed = ", ".join(
            f"{name} is {shown(value)}" for name, value in sorted(unsupported.items())
        )
        raise CheckpointError(
            f"{path}: {listed}; only plain LoRA is supported", "merge it with peft instead"
        )
    return config


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _check_patterns(path: Path, config: PeftConfig) -> None:
    """Raise CheckpointError if a pattern that selects layers is not a regular expression."""
    patterns = [getattr(config, name, None) for name in ("target_modules", "exclude_modules")]
    texts = [pattern for pattern in patterns if isinstance(pattern, str)]
    for name in ("rank_pattern", "alpha_pattern"):
        by_pattern = getattr(config, name, None) or {}
        if not isinstance(by_pattern, dict):
            raise CheckpointError(f"{path}: {name} is {shown(by_pattern)}; expected an object")
        texts += by_pattern
    for text in texts:
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{path}: {shown(text)} is not a regular expression: {reason_of(error)}"
            ) from error


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """Read ``stem``.safetensors, or ``stem``.bin if there is none, memory-mapped where possible.

    Raises:
        CheckpointError: There is no such file, it cannot be read, or it holds tensors that are not
            floating point.
    """
    path = next((p for s in (".safetensors", ".bin") if (p := folder / (stem + s)).is_file()), None)
    if path is None:
        raise CheckpointError(f"no {stem}.safetensors or {stem}.bin in {folder}")
    if path.suffix == ".safetensors":
        again = "download the adapter again"
        tensors = read_safetensors(path, CheckpointError, again, framework="pt")
    else:
        tensors = read_pickle(path, CheckpointError)
    integers = sorted(name for name, value in tensors.items() if not value.is_floating_point())
    if integers:
        raise CheckpointError(
            f"{path}: {list_names(integers)} not of a floating point type; expected trained weights"
        )
    return tensors
