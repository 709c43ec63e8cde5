"""The stage that trains the lower half of the decoder to see events, without questions.

In a conversation, a thousand tokens of questions go through the decoder for every clip whose fast
tokens are labeled (event_alignment). Here only the prompt up to the last fast token does, which
is less than a third of the operations (``train plan``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llava_st_ros.config import ModelConfig
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality, Task
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.windows import window_of
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.prompt_layout import visual_blocks
from llava_st_ros.text.tasks import make_question
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.loop.draws import Draws
from llava_st_ros.training.loop.losses import LossTerms
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.tiny.attention_alignment import middle_layer
from llava_st_ros.training.tiny.attention_targets import visual_token_counts
from llava_st_ros.training.tiny.event_alignment import (
    EventHeads,
    event_labels,
    event_loss,
    object_cells,
)
from llava_st_ros.training.tiny.stages import VisualData
from llava_st_ros.training.tiny.windows import sample_window


@dataclass(frozen=True)
class EventBatch:
    """B clips or windows and the labels of their fast tokens.

    Attributes:
        features: Vision features, float16 [B, F, N, Dv].
        labels: As in event_alignment, int8 [B, F * n_fast, NUM_LABELS].
        sources: Where each clip or window comes from.
    """

    features: Tensor
    labels: Tensor
    sources: tuple[str, ...]


class EventBatches:
    """``batches(step)``: random clips, and random windows of videos.

    Args:
        clips: The clips.
        videos: The videos; not used if ``window_share`` is 0.
        config: The model's geometry.
        window_share: The probability of a window.
        size: Batch size over all processes.
        seed: Seeds every draw.
        shard: This process's items.
        grow: Batches in a step, see Draws.
    """

    def __init__(
        self,
        clips: VisualData,
        videos: VisualData | None,
        config: ModelConfig,
        window_share: float,
        size: int,
        seed: int,
        shard: Shard = FULL_SHARD,
        grow: int = 1,
    ) -> None:
        self.clips, self.videos, self.config = clips, videos, config
        self.window_share = window_share
        self.draws = Draws(seed, size, shard, grow)

    def __call__(self, step: int) -> EventBatch:
        """Return this process's shard of the step's batch."""
        features, labels, sources = zip(*(self._item(rng) for rng in self.draws.items(step)))
        return EventBatch(
            torch.from_numpy(np.stack(features)),
            torch.from_numpy(np.stack(labels)).flatten(1, 2),
            sources,
        )

    def _item(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """Vision features [F, N, Dv], labels [F, n_fast, NUM_LABELS], and the source."""
        if self.videos is not None and rng.random() < self.window_share:
            store = self.videos.store
            index = int(rng.integers(len(store)))
            video = store[index]
            frames = sample_window(video.seed, video.stamps, self.config.num_frames, rng)
            features = np.asarray(self.videos.features[index, frames])
            source = f"{store.source(index)} frame {frames[-1]}"
            return features, self._labels(window_of(video, frames).clip), source
        store = self.clips.store
        index = int(rng.integers(len(store)))
        features = np.asarray(self.clips.features[index])
        return features, self._labels(store[index]), store.source(index)

    def _labels(self, clip: SimulatedClip) -> np.ndarray:
        side = self.config.fast_side
        return event_labels(clip, object_cells(clip, side), side)


class EventStep(nn.Module):
    """Trains the packers, the lower half of the decoder and the heads.

    Args:
        model: The model; its prompts must contain fast tokens (compat "paper").
        heads: The heads.
        builder: Builds its prompts.
    """

    prefix: Tensor  # the token ids before the fast tokens, int64 [P]

    def __init__(self, model: LlavaST, heads: EventHeads, builder: PromptBuilder) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        decoder = model.model
        self.layer = middle_layer(model)
        train_only(model, decoder.get_submodule("vision_resampler"), *decoder.layers[: self.layer])
        config = model.config
        ids = np.asarray(builder.build(make_question(Task.DVC, "")).token_ids)
        fast = visual_blocks(ids, config, visual_token_counts(config, Modality.VIDEO))[0]
        # What precedes the fast tokens is the same in every prompt about a video.
        self.register_buffer("prefix", torch.from_numpy(ids[: fast.position]), persistent=False)

    def forward(self, batch: EventBatch) -> LossTerms:
        """Return ``event_loss``, and, only logged, ``presence_f1`` and ``event_f1``."""
        model, features = self.model, batch.features
        packed = model.pack(model.project(features.float()), range(features.shape[1]))
        before = model.embed_tokens(self.prefix)[None].expand(len(features), -1, -1)
        embeddings = torch.cat([before, packed.fast.to(before)], dim=1)
        out = model.model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
        hidden = out.hidden_states[self.layer][:, before.shape[1] :]
        return event_loss(self.heads, hidden, batch.labels)
