"""An adapter in the published layout, and its effect on a checkpoint's tensors.

The folder of a LoRA stage holds ``adapter_config.json`` and ``adapter_model.safetensors`` (or
.bin), as peft writes them, and ``non_lora_trainables.bin`` (or .safetensors): the parameters that
were trained in full (packers, embeddings, tables).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor

from llava_st_ros.checkpoint_config import LM_HEAD
from llava_st_ros.errors import CheckpointError, reason_of
from llava_st_ros.model.tensor_files import ADAPTER_CONFIG, list_names
from llava_st_ros.training.adapters.files import (
    LORA_TENSORS,
    NON_LORA_TENSORS,
    read_lora_config,
    read_tensors,
)

EMBEDDINGS = "model.embed_tokens.weight"
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_ALL_LINEAR = "all-linear"  # peft's shorthand in target_modules
_OTHER_BASE = "merge the adapter into the checkpoint that it was trained on"


@dataclass(frozen=True)
class LoraUpdate:
    """LoRA's update of a weight [out, in]: ``scale`` * ``b`` [out, r] @ ``a`` [r, in]."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def apply_to(self, weight: Tensor) -> Tensor:
        """The updated weight, computed in float32 (or wider) and rounded to the weight's dtype."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        return (weight.to(wide) + self.scale * (self.b.to(wide) @ self.a.to(wide))).to(weight.dtype)


@dataclass(frozen=True)
class Adapter:
    """The contents of an adapter folder.

    The tensors are memory-mapped where the file format allows it.

    Attributes:
        folder: The folder that it was read from.
        config: peft's config.
        updates: The LoRA updates, by the parameter's name in a checkpoint.
        replacements: The values of parameters that were trained in full, by name.
    """

    folder: Path
    config: LoraConfig
    updates: Mapping[str, LoraUpdate]
    replacements: Mapping[str, Tensor]

    def merged_shapes(
        self, shapes: Mapping[str, tuple[int, ...]], may_add: Iterable[str]
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of a checkpoint's parameters after merging this adapter.

        Args:
            shapes: The checkpoint's shapes, by name.
            may_add: Names of parameters that the adapter may add to the checkpoint.

        Raises:
            CheckpointError: A tensor belongs to no parameter or has the wrong shape, or the
                vocabulary shrinks because the adapters are in the wrong order.
        """
        merged = dict(shapes)
        unknown = sorted(self.updates.keys() - shapes.keys())
        unknown += sorted(self.replacements.keys() - shapes.keys() - set(may_add))
        if unknown:
            raise CheckpointError(
                f"{self.folder}: the checkpoint has no parameter for {list_names(unknown)}",
                _OTHER_BASE,
            )
        for name, value in self.replacements.items():
            shape, base_shape = tuple(value.shape), shapes.get(name, tuple(value.shape))
            if name == EMBEDDINGS and shape[1:] == base_shape[1:] and shape[0] < base_shape[0]:
                raise CheckpointError(
                    f"{self.folder} has {shape[0]} text tokens, the stage before it {base_shape[0]}"
                    "; a later stage never removes tokens",
                    "name the adapters in the order of training",
                )
            grows = (
                name in (EMBEDDINGS, LM_HEAD)
                and shape[1:] == base_shape[1:]
                and shape[0] > base_shape[0]
            )
            if shape != base_shape and not grows:
                raise self._shape_error(name, shape, base_shape)
            merged[name] = shape
        is_head_frozen = LM_HEAD in merged and LM_HEAD not in self.replacements
        if EMBEDDINGS in self.replacements and is_head_frozen:
            merged[LM_HEAD] = (merged[EMBEDDINGS][0], *merged[LM_HEAD][1:])
        for name, update in self.updates.items():
            if update.shape != merged[name]:
                raise self._shape_error(f"the update of {name}", update.shape, merged[name])
        return merged

    def check_complete(self, modules: Iterable[str]) -> None:
        """Raise CheckpointError unless exactly those ``modules`` have an update that are targeted.

        peft ignores an update of a module that the config does not target.
        """
        modules = list(modules)
        missing = [
            module
            for module in modules
            if self._targets(module) and f"{module}.weight" not in self.updates
        ]
        if missing:
            raise CheckpointError(
                f"{self.folder}: no LoRA tensors for {list_names(missing)}, which "
                f"{ADAPTER_CONFIG} targets",
                "download the adapter again",
            )
        if self.config.target_modules == _ALL_LINEAR:  # depends on the network
            return
        surplus = [m for m in modules if f"{m}.weight" in self.updates and not self._targets(m)]
        if surplus:
            raise CheckpointError(
                f"{self.folder}: LoRA tensors for {list_names(surplus)}, which {ADAPTER_CONFIG} "
                "does not target",
                "use the config that belongs to the tensors",
            )

    def _targets(self, module: str) -> bool:
        try:
            return bool(check_target_module_exists(self.config, module))
        except Exception as error:  # peft does not check the types of its settings
            raise CheckpointError(
                f"{self.folder}: {ADAPTER_CONFIG} selects layers by invalid settings: "
                f"{reason_of(error)}"
            ) from error

    def apply_to(self, name: str, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """A parameter after merging this adapter.

        Args:
            name: The parameter's name in a checkpoint.
            weight: Its value; None if it does not exist yet.
            dtype: The dtype in which it is stored.
        """
        if name in self.replacements:
            weight = self.replacements[name].to(dtype)
        elif name == LM_HEAD and EMBEDDINGS in self.replacements and weight is not None:
            # The stages freeze lm_head. The rows of tokens that a stage adds keep the value that
            # the published code initializes them with: the mean of the existing rows.
            added = len(self.replacements[EMBEDDINGS]) - len(weight)
            mean = weight.float().mean(0, keepdim=True).to(dtype)
            weight = torch.cat([weight, mean.expand(added, -1)])
        if name in self.updates and weight is not None:
            weight = self.updates[name].apply_to(weight)
        return weight

    def _shape_error(
        self, name: str, shape: tuple[int, ...], expected: tuple[int, ...]
    ) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {name} has shape {list(shape)}; expected {list(expected)}", _OTHER_BASE
        )


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        CheckpointError: A file is missing or damaged, a pickle holds more than tensors, or the
            adapter is not plain LoRA on linear layers with both factors of each update.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; expected an adapter's folder")
    config = read_lora_config(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    replacements: dict[str, Tensor] = {}
    for name, (key, value) in _by_checkpoint_name(folder, LORA_TENSORS).items():
        factor = _FACTOR.fullmatch(name)
        if factor is not None:
            factors.setdefault(factor[1], {})[factor[2]] = value
        elif "lora_" in name:
            raise CheckpointError(
                f"{folder}: {key} is not a factor of a linear layer's LoRA",
                "merge it with peft instead",
            )
        else:  # peft's modules_to_save
            replacements[name] = value
    if not factors:
        raise CheckpointError(f"{folder}: {LORA_TENSORS} contains no LoRA tensor")
    non_lora = _by_checkpoint_name(folder, NON_LORA_TENSORS)
    replacements |= {name: value for name, (_, value) in non_lora.items()}
    updates = {
        f"{module}.weight": _read_update(folder, config, module, pair)
        for module, pair in factors.items()
    }
    return Adapter(folder, config, updates, replacements)


def checkpoint_name(key: str) -> str:
    """Map a parameter's name in peft's wrapper to its name in a checkpoint."""
    name = key.removeprefix("base_model.").replace(".base_layer.", ".")
    # The first ``model.`` is the wrapper's if the network's own prefix follows it.
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    return name


def _by_checkpoint_name(folder: Path, stem: str) -> dict[str, tuple[str, Tensor]]:
    """The tensors of a file and their keys in it, by their names in a checkpoint."""
    tensors: dict[str, tuple[str, Tensor]] = {}
    for key, value in read_tensors(folder, stem).items():
        name = checkpoint_name(key).replace(".default.", ".")  # peft's name of the only adapter
        if name in tensors:
            raise CheckpointError(
                f"{folder}: {stem} has two tensors for {name}: {tensors[name][0]} and {key}"
            )
        tensors[name] = key, value
    return tensors


def _read_update(
    folder: Path, config: LoraConfig, module: str, pair: Mapping[str, Tensor]
) -> LoraUpdate:
    if pair.keys() != {"A", "B"}:
        missing = "B" if "A" in pair else "A"
        raise CheckpointError(
            f"{folder}: {module} has no lora_{missing}", "download the adapter again"
        )
    rank = _pattern_value(config.rank_pattern or {}, module, config.r)
    alpha = _pattern_value(config.alpha_pattern or {}, module, config.lora_alpha)
    a, b = pair["A"], pair["B"]
    if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
        raise CheckpointError(
            f"{folder}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}; expected "
            f"[{rank}, in] and [out, {rank}] according to {ADAPTER_CONFIG}",
            "use the config that belongs to the tensors",
        )
    return LoraUpdate(a, b, alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _pattern_value(patterns: Mapping[str, int], module: str, default: int) -> int:
    """The value of the first pattern that matches the end of the module's name, as in peft."""
    return patterns.get(get_pattern_key(list(patterns), module), default)
