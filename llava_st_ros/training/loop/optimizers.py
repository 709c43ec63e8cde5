"""Optimizers and learning rates: which parameter is trained by what, and how fast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from llava_st_ros.errors import ConfigError

OUTPUT_LAYERS = ("lm_head", "labels")  # linear layers that return logits
Optimizer = torch.optim.AdamW | torch.optim.Muon


@dataclass(frozen=True)
class OptimizerConfig:
    """Learning rates.

    Attributes:
        rate: Peak learning rate of AdamW.
        matrix_rate: Peak learning rate of Muon, which then trains the weights of hidden linear
            layers. None: AdamW trains everything.
        rates: Other peak learning rates, by shell patterns of parameter names ("*lora_*"). The
            first matching pattern counts, and AdamW trains its parameters.
        weight_decay: Weight decay of matrices and embeddings; vectors have none.
    """

    rate: float
    matrix_rate: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.05


def make_optimizers(module: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Return optimizers that together train every parameter with a gradient, each once.

    Muon (torch.optim.Muon, with AdamW's root mean square) trains hidden matrices. AdamW trains
    embeddings, coordinate tables, output layers and all vectors.

    Raises:
        ConfigError: A pattern of ``rates`` matches no trained parameter, or nothing is trained.
    """
    hidden = set(map(id, hidden_matrices(module))) if config.matrix_rate is not None else set()
    matrices: list[nn.Parameter] = []
    others: dict[tuple[float, float], list[nn.Parameter]] = {}  # by rate and weight decay
    unused = set(config.rates)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        pattern = next((p for p in config.rates if fnmatchcase(name, p)), None)
        unused.discard(pattern or "")
        if pattern is None and id(parameter) in hidden:
            matrices.append(parameter)
        else:
            rate = config.rate if pattern is None else config.rates[pattern]
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            others.setdefault((rate, decay), []).append(parameter)
    if unused:
        raise ConfigError(f"rates for {', '.join(sorted(unused))} match no trained parameter")
    groups = [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in others.items()]
    optimizers: list[Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98)))
    if matrices:
        assert config.matrix_rate is not None
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=config.matrix_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if not optimizers:
        raise ConfigError("a step without parameters to train", "unfreeze a part of the model")
    return optimizers


def train_only(module: nn.Module, *trained: nn.Module) -> None:
    """Freeze ``module``, then unfreeze the submodules ``trained``."""
    module.requires_grad_(False)
    for submodule in trained:
        submodule.requires_grad_(True)


def hidden_matrices(module: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of linear layers and attention, except those of output layers."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and name.rpartition(".")[2] not in OUTPUT_LAYERS:
            yield child.weight
        elif isinstance(child, nn.MultiheadAttention):
            yield child.in_proj_weight


def rate_factor(progress: float, step: int, warmup: int) -> float:
    """The learning rate as a fraction of its peak: linear warm-up, times a cosine down to 0.02.

    Args:
        progress: The fraction of the stage that is done, in [0, 1].
        step: The step, counted from 0.
        warmup: The number of warm-up steps.
    """
    warm = min(1.0, (step + 1) / max(1, warmup))
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress)))
