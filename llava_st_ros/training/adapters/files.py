"""The files of an adapter's folder, read without trust in them.

``adapter_config.json`` through peft's own class, and only where it says plain LoRA; tensors from
safetensors, or from pickles that hold tensors by name and nothing else.
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
from llava_st_ros.model.tensor_files import named, opened

ADAPTER_CONFIG = "adapter_config.json"
# Settings that say which layers are updated and how strongly: all are kept to.
_KEPT_TO = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    "modules_to_save",
}
# Settings of training, of saving or of other libraries: a merged weight does not depend on them.
_NO_MATTER = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "inference_mode", "revision"),
    *("base_model_name_or_path", "lora_dropout", "init_lora_weights", "eva_config"),
    *("megatron_core", "qalora_group_size", "runtime_config"),
}
# The ways to start that leave the base's weights as they were.
_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def read_lora_config(folder: Path) -> LoraConfig:
    """Raises CheckpointError where peft cannot read it or merging could not keep to it."""
    values = read_json(folder / ADAPTER_CONFIG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown settings, which are refused below
            config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: {error}; expected a LoRA adapter's config",
            "fetch it again",
        ) from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(
            f"{folder}: an adapter of type {values.get('peft_type')!r}; expected LORA"
        )
    numbers = {"r": config.r, "lora_alpha": config.lora_alpha}
    numbers |= {**(config.rank_pattern or {}), **(config.alpha_pattern or {})}
    plain = LoraConfig()
    known = {f.name for f in dataclasses.fields(LoraConfig)}
    strange = {n: v for n, v in values.items() if n not in known and n not in _NO_MATTER and v}
    for name in known - _KEPT_TO - _NO_MATTER:
        value = getattr(config, name)
        if value and value != getattr(plain, name):
            strange[name] = value
    if config.init_lora_weights not in _STARTS:
        strange["init_lora_weights"] = config.init_lora_weights
    strange |= {n: v for n, v in numbers.items() if not isinstance(v, (int, float)) or v <= 0}
    if strange:
        listed = ", ".join(f"{name} {value!r}" for name, value in sorted(strange.items()))
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: {listed}; expected plain LoRA", "merge it with peft itself"
        )
    return config


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """``stem``.safetensors or .bin of the folder: floating point tensors, mapped where possible."""
    path = next((p for s in (".safetensors", ".bin") if (p := folder / (stem + s)).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"no {stem}.safetensors or .bin in {folder}; expected it there",
            "fetch the missing file",
        )
    tensors = _from_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    odd = sorted(name for name, value in tensors.items() if not value.is_floating_point())
    if odd:
        raise CheckpointError(
            f"{path}: {named(odd)} not of floating point; expected weights as trained",
            "fetch it again",
        )
    return tensors


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_pickle(path: Path) -> dict[str, Tensor]:
    """A file of torch.save's that holds tensors by name and nothing else; no code of it is run."""
    try:
        try:
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # torch.save's older format cannot be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _not_tensors(path, "more than tensors, or damaged") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _not_tensors(path, reason) from error
    if not isinstance(loaded, Mapping):
        raise _not_tensors(path, f"a {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _not_tensors(path, f"{name!r} of type {type(value).__name__}")
    return {name: value.detach() for name, value in loaded.items()}


def _not_tensors(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {found}"
        "; expected tensors by name and nothing else, for a pickle can run any code",
        "fetch the file again, or do not trust it",
    )
