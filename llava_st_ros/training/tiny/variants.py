"""Variants of the network for ablations: each takes one of LLaVA-ST's ideas away.

Whatever a variant lacks is replaced in place, so that prompts keep their length and every variant
does the same work in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llava_st_ros.config import Compat, ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.model.lape import CoordinateTable, positional_embedding
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.records import Modality
from llava_st_ros.training.tiny.dense_alignment import DenseStep
from llava_st_ros.training.tiny.initialize import smooth_table
from llava_st_ros.training.tiny.stages import StageBatch

Batches = Callable[[int], Any]


class WithoutLape(LlavaST):
    """Visual positions are learned tables of their own, of LAPE's sizes and start.

    The coordinate tables are then coordinate tokens only: what a token says of a place and where a
    visual token lies share nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width, generator = config.language.hidden_size, torch.Generator().manual_seed(0)
        self.visual_positions = nn.ModuleDict()
        for axis in Axis:
            rows = self.table(axis, "input").weight.shape[0]
            table = CoordinateTable(rows, width)
            table.weight.data.copy_(smooth_table(rows, width, generator))
            self.visual_positions[axis.table] = table

    def positional_embedding(self, time_indices: Tensor | Sequence[int]) -> Tensor:
        """For frames at these rows of the temporal table [F] -> [F, N, D]."""
        temporal, height, width = (
            self.visual_positions.get_parameter(f"{axis.table}.weight") for axis in Axis
        )
        rows = torch.as_tensor(time_indices, dtype=torch.long, device=temporal.device)
        return positional_embedding(temporal[rows], height, width, self.config.grid)


class WithoutFast(LlavaST):
    """The fast block keeps its placeholders' embeddings, as in the released code."""

    def pack(self, features: Tensor, time_indices: Tensor | Sequence[int]) -> VideoTokens:
        fast, slow = super().pack(features, time_indices)
        special = self.config.special_tokens
        return VideoTokens(_placeholders(self, fast, special.vid_start, special.vid_end), slow)


class WithoutSlow(LlavaST):
    """The slow block keeps its placeholders' embeddings: the same for every clip."""

    def pack(self, features: Tensor, time_indices: Tensor | Sequence[int]) -> VideoTokens:
        fast, slow = super().pack(features, time_indices)
        special = self.config.special_tokens
        return VideoTokens(
            fast, _placeholders(self, slow, special.slow_vid_start, special.slow_vid_end)
        )


def _placeholders(model: LlavaST, tokens: Tensor, start: int, end: int) -> Tensor:
    """What a prompt's block holds before ``tokens`` [..., n, D] are written into it."""
    ids = torch.full((tokens.shape[-2],), model.config.special_tokens.vid_patch)
    ids[0], ids[-1] = start, end
    return model.embed_tokens(ids.to(tokens.device)).to(tokens).expand_as(tokens)


@dataclass(frozen=True)
class Variant:
    """``unseen`` is the stream ("fast" or "slow") that does not reach the language model: no
    training signal may point at its tokens. ``shares`` is False where the start differs already.
    """

    model: type[LlavaST] = LlavaST
    compat: Compat = "paper"
    unseen: str | None = None
    shares: bool = True

    def prepared(self, step: nn.Module, batches: Batches) -> tuple[nn.Module, Batches]:
        """A stage's step and batches -> those of this variant."""
        if isinstance(step, DenseStep) and isinstance(step.model, WithoutLape):
            step.model.visual_positions.requires_grad_(True)  # as the tables that place otherwise
        if self.unseen is not None:
            return step, partial(_without_evidence, batches, self.unseen)
        return step, batches


def _without_evidence(batches: Batches, stream: str, step: int) -> Any:
    """A step's batch in which nothing is to be seen in ``stream``: no evidence and, in the fast
    one, no events."""
    batch = batches(step)
    if not isinstance(batch, StageBatch) or batch.modality is Modality.IMAGE:
        return batch
    said = batch.conversations
    evidence = said.evidence.clone()
    if batch.labels is None:
        raise ValueError("a batch of clips without labels")
    fast = batch.labels.shape[1]
    if stream == "fast":
        evidence[:, :fast] = False
        return replace(batch, conversations=replace(said, evidence=evidence), labels=None)
    evidence[:, fast:] = False
    return replace(batch, conversations=replace(said, evidence=evidence))


PAPER = Variant()
VARIANTS: Mapping[str, Variant] = {
    "paper": PAPER,
    "released": Variant(compat="released", unseen="fast"),
    "without_lape": Variant(WithoutLape, shares=False),
    "without_fast": Variant(WithoutFast, unseen="fast"),
    "without_slow": Variant(WithoutSlow, unseen="slow"),
}
