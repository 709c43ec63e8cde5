"""Adapters in the published layout: what one of them does to a checkpoint's tensors.

A folder of a LoRA stage holds ``adapter_config.json`` and ``adapter_model.safetensors`` (or .bin),
as peft writes them, and ``non_lora_trainables.bin``: the parameters that were trained whole
(packers, embeddings, tables).
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
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.tensor_files import named
from llava_st_ros.training.adapters.files import ADAPTER_CONFIG, read_lora_config, read_tensors

LORA, WHOLE = "adapter_model", "non_lora_trainables"
EMBEDDINGS = "model.embed_tokens.weight"
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Update:
    """What LoRA adds to a weight [out, in]: ``scale`` * ``b`` [out, r] @ ``a`` [r, in]."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def added_to(self, weight: Tensor) -> Tensor:
        """In float32 (or wider), then rounded back to the weight's dtype."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        return (weight.to(wide) + self.scale * (self.b.to(wide) @ self.a.to(wide))).to(weight.dtype)


@dataclass(frozen=True)
class Adapter:
    """One folder: ``updates`` of and ``replaced`` values for parameters, by published name.

    The tensors are maps of their files, where these allow it: memory is used when they are read.
    """

    folder: Path
    config: LoraConfig
    updates: Mapping[str, Update]
    replaced: Mapping[str, Tensor]

    def shapes_after(
        self, shapes: Mapping[str, tuple[int, ...]], may_begin: Iterable[str]
    ) -> dict[str, tuple[int, ...]]:
        """The checkpoint's shapes with this adapter merged; parameters of ``may_begin`` can be new.

        Raises CheckpointError where a tensor has no place or does not fit into it, and where the
        vocabulary shrinks, as it does in a chain out of order.
        """
        after = dict(shapes)
        lost = sorted(self.updates.keys() - shapes.keys())
        lost += sorted(self.replaced.keys() - shapes.keys() - set(may_begin))
        if lost:
            raise CheckpointError(
                f"{self.folder}: no place in the checkpoint for {named(lost)}"
                "; expected an adapter of this checkpoint",
                "merge it into the checkpoint that it was trained on",
            )
        for name, value in self.replaced.items():
            new, old = tuple(value.shape), shapes.get(name, tuple(value.shape))
            if name == EMBEDDINGS and new[1:] == old[1:] and new[0] < old[0]:
                raise CheckpointError(
                    f"{self.folder}: {new[0]} text tokens after {old[0]}"
                    "; expected stages in the order of training, in which tokens are only added",
                    "put the adapters into that order",
                )
            grows = name in (EMBEDDINGS, LM_HEAD) and new[1:] == old[1:] and new[0] > old[0]
            if new != old and not grows:
                raise self._misfit(name, new, old)
            after[name] = new
        if EMBEDDINGS in self.replaced and LM_HEAD not in self.replaced and LM_HEAD in after:
            after[LM_HEAD] = (after[EMBEDDINGS][0], *after[LM_HEAD][1:])
        for name, update in self.updates.items():
            if update.shape != after[name]:
                raise self._misfit(f"the update of {name}", update.shape, after[name])
        return after

    def check_complete(self, modules: Iterable[str]) -> None:
        """Raise CheckpointError where its config targets a module that it holds no update for."""
        without = [
            module
            for module in modules
            if check_target_module_exists(self.config, module)
            and f"{module}.weight" not in self.updates
        ]
        if without:
            raise CheckpointError(
                f"{self.folder}: no LoRA tensors for {named(without)}"
                f"; expected all that {ADAPTER_CONFIG} targets",
                "fetch the adapter again",
            )

    def applied(self, name: str, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The parameter ``name`` after this adapter; ``weight`` is None where it does not exist."""
        if name in self.replaced:
            weight = self.replaced[name].to(dtype)
        elif name == LM_HEAD and EMBEDDINGS in self.replaced and weight is not None:
            # The stages freeze lm_head: what stands for the tokens that a stage adds is the mean
            # of the old rows, as its training began.
            added = len(self.replaced[EMBEDDINGS]) - len(weight)
            mean = weight.float().mean(0, keepdim=True).to(dtype)
            weight = torch.cat([weight, mean.expand(added, -1)])
        if name in self.updates and weight is not None:
            weight = self.updates[name].added_to(weight)
        return weight

    def _misfit(self, what: str, new: tuple[int, ...], old: tuple[int, ...]) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {what} of shape {list(new)}; expected {list(old)}",
            "merge it into the checkpoint that it was trained on",
        )


def read_adapter(folder: Path) -> Adapter:
    """Raises CheckpointError: files missing or damaged, a pickle of more than tensors, a kind of
    adapter that is not plain LoRA on linear layers, an A without its B."""
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; expected an adapter's folder")
    config = read_lora_config(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key, value in read_tensors(folder, LORA).items():
        name = published_name(key)
        factor = _FACTOR.fullmatch(name)
        if factor is not None:
            factors.setdefault(factor[1], {})[factor[2]] = value
        elif "lora_" in name:
            raise CheckpointError(
                f"{folder}: {key}; expected LoRA on linear layers only", "merge it with peft itself"
            )
        else:  # peft's modules_to_save
            replaced[name] = value
    if not factors:
        raise CheckpointError(
            f"{folder}: {LORA} without a LoRA tensor; expected lora_A and lora_B", "fetch it again"
        )
    replaced |= {published_name(k): v for k, v in read_tensors(folder, WHOLE).items()}
    updates = {f"{m}.weight": _update(folder, config, m, pair) for m, pair in factors.items()}
    return Adapter(folder, config, updates, replaced)


def published_name(key: str) -> str:
    """A name as peft's wrapped model spells it -> as a checkpoint does."""
    name = key.removeprefix("base_model.").replace(".base_layer.", ".")
    # One ``model.`` is the wrapper's where another, or the head beside it, follows.
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    return name


def _update(folder: Path, config: LoraConfig, module: str, pair: Mapping[str, Tensor]) -> Update:
    if pair.keys() != {"A", "B"}:
        missing = "B" if "A" in pair else "A"
        raise CheckpointError(
            f"{folder}: {module} without lora_{missing}; expected both factors", "fetch it again"
        )
    rank = _of_pattern(config.rank_pattern or {}, module, config.r)
    alpha = _of_pattern(config.alpha_pattern or {}, module, config.lora_alpha)
    a, b = pair["A"], pair["B"]
    if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
        raise CheckpointError(
            f"{folder}: {module} with lora_A {list(a.shape)} and lora_B {list(b.shape)}"
            f"; expected [{rank}, in] and [out, {rank}], as {ADAPTER_CONFIG} says",
            "use the config that belongs to the tensors",
        )
    return Update(a, b, alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _of_pattern(patterns: Mapping[str, int], module: str, otherwise: int) -> int:
    """The number of the first pattern that the module's name ends with, as peft finds it."""
    return patterns.get(get_pattern_key(list(patterns), module), otherwise)
