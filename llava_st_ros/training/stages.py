"""The stages that train a tiny LLaVA-ST from nothing, and their settings.

1. dense alignment: vision tower, projector and coordinate tables (see dense_alignment);
2. picture alignment: the language model learns from words to point, on pictures;
3. packer alignment: the packers alone (see packer_alignment);
4. coordinate alignment: as 2 in clips, by short questions;
5. multi-task tuning on every task.

Stages of questions (2, 4, 5) are made here. From stage 2 on the vision tower is frozen, as in
LLaVA-ST (section 4.1), and its features are computed once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from llava_st_ros.model.llava_st import AXES, LlavaST
from llava_st_ros.model.preprocessing import preprocess
from llava_st_ros.training.attention_alignment import attention_loss, middle_layer
from llava_st_ros.training.clip_store import ClipStore
from llava_st_ros.training.conversations import Batch, ConversationEncoder, collate
from llava_st_ros.training.event_alignment import EventHeads, cells, event_labels, event_loss
from llava_st_ros.training.object_tubes import object_tube_samples
from llava_st_ros.training.objective import soft_cross_entropy, two_hot_targets
from llava_st_ros.training.questions import Sample, clip_samples, image_samples


@dataclass(frozen=True)
class ConversationStage:
    """A stage of questions: ``mix`` weighs the tasks, ``video`` is the share of clip batches.

    ``follow`` is the (least, greatest) number of frames of questions that follow an object.
    ``decisive`` weighs the tokens that choose the object or the time against the others' 1, and
    ``events`` and ``attention`` the losses of event_alignment and attention_alignment against the
    answers'. ``lone`` is how often a clip with a lone event is kept when drawn: it can be answered
    about without a look at the words.
    """

    batch: int
    video: float
    max_tokens: int
    mix: Mapping[str, float]
    follow: tuple[int, int] = (5, 20)
    decisive: float = 1.0
    events: float = 0.0
    attention: float = 0.0
    lone: float = 1.0


@dataclass(frozen=True)
class StageBatch:
    """B conversations and what they are about.

    ``features`` f32 [B, F, N, Dv] of clips or [B, N, Dv] of pictures; ``labels`` bool
    [B, F * n_fast, NUM_LABELS] of event_alignment, None for pictures.
    """

    conversations: Batch
    features: Tensor
    labels: Tensor | None

    @property
    def on_image(self) -> bool:
        return self.features.ndim == 3


def cache_vision_features(model: LlavaST, store: ClipStore, path: Path, batch: int = 5) -> None:
    """Write float16 [clips, F, N, Dv]: the frozen tower's output for every frame of the store."""
    config = model.config
    shape = (len(store), config.num_frames, config.tokens_per_frame, config.vision.hidden_size)
    part = path.with_suffix(".part")
    cache = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    for first in tqdm(range(0, len(store), batch), desc="vision features"):
        clips = range(first, min(first + batch, len(store)))
        images = [image for clip in clips for image in store.frames(clip)]
        pixels = torch.from_numpy(np.stack([preprocess(i, config.image_size) for i in images]))
        with torch.inference_mode():
            features = model.vision_features(pixels)
        cache[first : first + len(clips)] = features.numpy().reshape(len(clips), *shape[1:])
    cache.flush()
    part.rename(path)


class ConversationSampler:
    """Batches of conversations about clips of the store or about single frames of them."""

    def __init__(
        self,
        store: ClipStore,
        features: np.ndarray,
        encoder: ConversationEncoder,
        stage: ConversationStage,
        seed: int,
    ) -> None:
        self.store, self.features, self.encoder, self.stage = store, features, encoder, stage
        self.rng = np.random.default_rng(seed)

    def batch(self) -> StageBatch:
        """A batch all about clips or all about pictures."""
        on_image = bool(self.rng.random() >= self.stage.video)
        config = self.encoder.config
        conversations, features, labels = [], [], []
        while len(conversations) < self.stage.batch:
            index = int(self.rng.integers(len(self.store)))
            clip = self.store[index]
            if on_image:
                frame = int(self.rng.integers(len(clip.frames)))
                # Several wordings of a question fill a conversation.
                samples = [s for _ in range(3) for s in image_samples(clip, frame, self.rng)]
                feature = self.features[index, frame]
            elif len(clip.events) < 2 and self.rng.random() >= self.stage.lone:
                continue
            else:
                samples = [s for s in clip_samples(clip, self.rng) if not s.task.on_image]
                samples += object_tube_samples(clip, self.rng, *self.stage.follow)
                feature = self.features[index]
            chosen = weighted_order(samples, self.stage.mix, self.rng)
            if chosen:
                conversations.append(self.encoder.encode(chosen, self.rng))
                features.append(np.asarray(feature, dtype=np.float32))
                if not on_image:
                    labels.append(
                        event_labels(clip, cells(clip, config.fast_side), config.fast_side)
                    )
        # Always the same length, so that a compiled model meets one shape.
        padded = collate(conversations, self.stage.max_tokens)
        return StageBatch(
            padded,
            torch.from_numpy(np.stack(features)),
            torch.from_numpy(np.stack(labels)).flatten(1, 2) if labels else None,
        )


def weighted_order(
    samples: Sequence[Sample], mix: Mapping[str, float], rng: np.random.Generator
) -> list[Sample]:
    """The samples in a random order in which heavier tasks tend to come first; weight 0 drops."""
    kept = [s for s in samples if mix.get(s.task.value, 0) > 0]
    # Exponential clocks: the first to ring is sample i with probability weight_i / sum.
    rings = [rng.exponential() / mix[s.task.value] for s in kept]
    return [kept[i] for i in np.argsort(rings)]


def stage_loss(
    model: LlavaST, heads: EventHeads, stage: ConversationStage, batch: StageBatch
) -> tuple[Tensor, dict[str, float]]:
    """The answers' loss with those of attention_alignment and, about clips, event_alignment."""
    conversations, on_image = batch.conversations, batch.on_image
    out = decode(model, conversations, batch.features, on_image)
    loss, parts = answer_loss(model, conversations, out.last_hidden_state, on_image, stage.decisive)
    start = _visual_start(model, conversations, on_image)
    half_way = out.hidden_states[middle_layer(model)]
    medium = "image" if on_image else "video"
    if stage.attention > 0:
        looking, said = attention_loss(model, conversations, half_way, start)
        loss = loss + stage.attention * looking
        parts |= {f"{medium}_{name}": value for name, value in said.items()}
    if stage.events > 0 and batch.labels is not None:
        seen = half_way[:, start : start + batch.labels.shape[1]]
        aligned, said = event_loss(heads, seen, batch.labels)
        loss = loss + stage.events * aligned
        parts |= said
    return loss, parts


def decode(model: LlavaST, batch: Batch, features: Tensor, on_image: bool) -> Any:
    """The decoder's output for a batch, with the hidden states of every layer."""
    return model.model(
        inputs_embeds=embed(model, batch, features, on_image),
        attention_mask=batch.visible,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )


def answer_loss(
    model: LlavaST, batch: Batch, hidden: Tensor, on_image: bool, decisive: float
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss of the answers' tokens given the last hidden states [B, L, D], and, to log, the
    means of their kinds. A token that decides (see decisive_tokens) counts ``decisive`` times.
    """
    config = model.config
    # Position i predicts token i + 1; a turn's answer is never the first token of its turn.
    predicted = batch.answer[:, 1:]
    ids = batch.ids[:, 1:][predicted]
    deciding = batch.decisive[:, 1:][predicted]
    targets = two_hot_targets(ids, batch.values[:, 1:][predicted], config)
    losses = soft_cross_entropy(model.logits(hidden[:, :-1][predicted]), targets)
    is_time = (ids >= config.temporal_offset) & (ids < config.height_offset)
    kinds = {
        "text": ids < config.temporal_offset,
        "span": deciding & is_time,
        "time": ~deciding & is_time,
        "left": deciding & ~is_time,
        "space": ~deciding & (ids >= config.height_offset),
    }
    medium = "image" if on_image else "video"
    parts = {
        f"{medium}_{name}": losses[kind].mean().item() for name, kind in kinds.items() if kind.any()
    }
    weights = torch.where(deciding, decisive, 1.0)
    return (losses * weights).sum() / weights.sum(), parts


def embed(model: LlavaST, batch: Batch, features: Tensor, on_image: bool) -> Tensor:
    """Embeddings [B, L, D] of a batch, as LlavaST.embed_prompt does for one prompt ("paper")."""
    special = model.config.special_tokens
    projected = model.project(features)
    if on_image:
        visual = model.image_tokens(projected)
    else:
        # The fast block ends where the slow one starts.
        visual = torch.cat(model.pack(projected, range(features.shape[1])), dim=-2)
    start = _visual_start(model, batch, on_image)
    embeddings = model.embed_tokens(batch.ids)
    embeddings = torch.cat(
        [embeddings[:, :start], visual, embeddings[:, start + visual.shape[1] :]], dim=1
    )
    inputs = (batch.temporal_inputs, batch.height_inputs, batch.width_inputs)
    for axis, values in zip(AXES, inputs):
        if len(values):
            places = batch.ids == getattr(special, f"{axis}_input")
            mixed = model.table(axis, "input").mix(values)
            embeddings = embeddings.masked_scatter(places[..., None], mixed)
    return embeddings


def _visual_start(model: LlavaST, batch: Batch, on_image: bool) -> int:
    """Where the visual block begins; every row of a batch has the same prefix."""
    special = model.config.special_tokens
    start_id = special.im_start if on_image else special.vid_start
    return int((batch.ids[0] == start_id).nonzero()[0])


def freeze_vision(model: LlavaST) -> None:
    """No gradient for the vision tower; the projector goes on learning."""
    model.model.vision_tower.requires_grad_(False)


def parameter_count(model: LlavaST) -> int:
    """Parameters of the whole model."""
    return sum(p.numel() for p in model.parameters())
