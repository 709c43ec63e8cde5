"""Who trains which parameter, and how fast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from llava_st_ros.errors import ConfigError

HEADS = ("lm_head", "labels")  # linear layers that give logits
Optimizer = torch.optim.AdamW | torch.optim.Muon


@dataclass(frozen=True)
class RateConfig:
    """``rate`` is AdamW's peak learning rate.

    ``rates`` gives others by patterns of parameter names ("*lora_*", as in a shell): the first that
    fits counts, and its parameters stay with AdamW. With ``matrix_rate`` the remaining weights of
    linear layers are trained by Muon at that peak.
    """

    rate: float
    matrix_rate: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.05


def make_optimizers(module: nn.Module, config: RateConfig) -> list[Optimizer]:
    """What trains every parameter of ``module`` that has a gradient, each once.

    Muon (torch.optim.Muon, with AdamW's root mean square) takes the matrices inside the network;
    embeddings, tables, the layers that give logits and all vectors stay with AdamW. Raises
    ConfigError for a pattern of ``rates`` that fits nothing trained.
    """
    inner = set(map(id, inner_matrices(module))) if config.matrix_rate is not None else set()
    matrices: list[nn.Parameter] = []
    others: dict[tuple[float, float], list[nn.Parameter]] = {}  # by rate and weight decay
    unused = set(config.rates)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        pattern = next((p for p in config.rates if fnmatchcase(name, p)), None)
        unused.discard(pattern or "")
        if pattern is None and id(parameter) in inner:
            matrices.append(parameter)
        else:
            rate = config.rate if pattern is None else config.rates[pattern]
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            others.setdefault((rate, decay), []).append(parameter)
    if unused:
        raise ConfigError(
            f"rates for {', '.join(sorted(unused))}"
            "; expected patterns that each fit a trained parameter's name",
            "correct or remove them",
        )
    groups = [{"params": p, "lr": rate, "weight_decay": d} for (rate, d), p in others.items()]
    found: list[Optimizer] = []
    if groups:
        found.append(torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98)))
    if matrices:
        assert config.matrix_rate is not None
        found.append(
            torch.optim.Muon(
                matrices,
                lr=config.matrix_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if not found:
        raise ConfigError(
            "a step without parameters to train; expected at least one", "unfreeze a part"
        )
    return found


def train_only(whole: nn.Module, *parts: nn.Module) -> None:
    """A gradient for the parameters of ``parts`` and for no others of ``whole``."""
    whole.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def inner_matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of linear layers and attention, but not of layers named as heads."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and name.rpartition(".")[2] not in HEADS:
            yield child.weight
        elif isinstance(child, nn.MultiheadAttention):
            yield child.in_proj_weight


def rate_share(done: float, step: int, warmup: int) -> float:
    """The learning rate of a step (from 0) as a share of its peak: warm-up, then a cosine.

    ``done`` is the share of the stage that is over, in [0, 1].
    """
    warm = min(1.0, (step + 1) / warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done)))
