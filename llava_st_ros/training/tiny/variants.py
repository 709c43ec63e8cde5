"""Ablation variants of the network: each lacks one of LLaVA-ST's ideas.

What a variant lacks is replaced in place, so prompts keep their length and a step of every variant
is the same amount of work.
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
from llava_st_ros.text.prompt import visual_block
from llava_st_ros.training.tiny.dense_alignment import DenseStep
from llava_st_ros.training.tiny.initialize import smooth_table
from llava_st_ros.training.tiny.stages import ConversationBatch

MakeBatch = Callable[[int], Any]


class WithoutLape(LlavaST):
    """Visual positions are separate learned tables, with the sizes and initial values of LAPE's.

    The coordinate tables then embed coordinate tokens only, and share nothing with the positions of
    visual tokens.
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
        """Return the positions [F, N, D] of frames at these rows [F] of the temporal table."""
        temporal, height, width = (
            self.visual_positions.get_parameter(f"{axis.table}.weight") for axis in Axis
        )
        rows = torch.as_tensor(time_indices, dtype=torch.long, device=temporal.device)
        return positional_embedding(temporal[rows], height, width, self.config.grid)


class WithoutFast(LlavaST):
    """The fast block keeps the embeddings of its placeholders, as in the released code."""

    def pack(self, features: Tensor, time_indices: Tensor | Sequence[int]) -> VideoTokens:
        fast, slow = super().pack(features, time_indices)
        return VideoTokens(_placeholders(self, fast, slice(None, fast.shape[-2])), slow)


class WithoutSlow(LlavaST):
    """The slow block keeps the embeddings of its placeholders, the same for every clip."""

    def pack(self, features: Tensor, time_indices: Tensor | Sequence[int]) -> VideoTokens:
        fast, slow = super().pack(features, time_indices)
        return VideoTokens(fast, _placeholders(self, slow, slice(fast.shape[-2], None)))


def _placeholders(model: LlavaST, tokens: Tensor, block: slice) -> Tensor:
    """The embeddings of a part of the visual block before ``tokens`` [..., n, D] are written."""
    ids = torch.tensor(visual_block(model.config, Modality.VIDEO)[block])
    return model.embed_tokens(ids.to(tokens.device)).to(tokens).expand_as(tokens)


@dataclass(frozen=True)
class Variant:
    """One variant of the network.

    Attributes:
        model: Its class.
        compat: Its ``compat`` mode.
        unused_stream: The stream ("fast" or "slow") that does not reach the language model. No
            auxiliary loss may refer to its tokens.
        shares_early_stages: Whether it starts from stages trained as ``paper``. False where the
            network differs from the first stage on.
    """

    model: type[LlavaST] = LlavaST
    compat: Compat = "paper"
    unused_stream: str | None = None
    shares_early_stages: bool = True

    def adapt(self, step: nn.Module, make_batch: MakeBatch) -> tuple[nn.Module, MakeBatch]:
        """Return a stage's step and batches as this variant trains them."""
        if isinstance(step, DenseStep) and isinstance(step.model, WithoutLape):
            # Trained where LAPE's tables are.
            step.model.visual_positions.requires_grad_(True)
        if self.unused_stream is not None:
            return step, partial(_without_targets, make_batch, self.unused_stream)
        return step, make_batch


def _without_targets(make_batch: MakeBatch, stream: str, step: int) -> Any:
    """Return a step's batch without attention targets in ``stream``, and without events if fast."""
    batch = make_batch(step)
    if not isinstance(batch, ConversationBatch) or batch.modality is Modality.IMAGE:
        return batch
    if batch.labels is None:
        raise ValueError("a batch of clips without labels")
    targets = batch.conversations.attention_targets.clone()
    fast = batch.labels.shape[1]
    labels: Tensor | None = batch.labels
    if stream == "fast":
        targets[:, :fast] = False
        labels = None
    else:
        targets[:, fast:] = False
    conversations = replace(batch.conversations, attention_targets=targets)
    return replace(batch, conversations=conversations, labels=labels)


PAPER = Variant()
VARIANTS: Mapping[str, Variant] = {
    "paper": PAPER,
    "released": Variant(compat="released", unused_stream="fast"),
    "without_lape": Variant(WithoutLape, shares_early_stages=False),
    "without_fast": Variant(WithoutFast, unused_stream="fast"),
    "without_slow": Variant(WithoutSlow, unused_stream="slow"),
}
