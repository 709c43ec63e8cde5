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

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.backends.preprocessing import preprocess
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.simulation.object_tubes import object_tube_samples
from llava_st_ros.simulation.questions import Sample, clip_samples, image_samples
from llava_st_ros.text.prompt_layout import visual_blocks, written_inputs
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard, item_rng
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_ratio
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.objective import soft_cross_entropy, two_hot_targets
from llava_st_ros.training.tiny.attention_alignment import attention_loss, middle_layer
from llava_st_ros.training.tiny.conversations import (
    Batch,
    Conversation,
    ConversationEncoder,
    collate,
)
from llava_st_ros.training.tiny.event_alignment import EventHeads, cells, event_labels, event_loss
from llava_st_ros.training.tiny.lane_attention import attending_in_lanes

TUBE = "tube"  # in a mix: object_tube_samples
WORDINGS = 3  # of every question, to fill a conversation


@dataclass(frozen=True)
class ConversationStage:
    """A stage of questions, in ``lanes`` of ``lane_tokens`` each.

    ``mix`` weighs the tasks, and as ``tube`` those questions of SVG that follow an object, whatever
    happens to it; ``video`` is the share of clip batches. ``follow`` is the (least, greatest)
    number of frames of questions that follow an object. ``decisive`` weighs the tokens that choose
    the object or the time against the others' 1, and ``events`` and ``attention`` the losses of
    event_alignment and attention_alignment against the answers'. A drawn clip with a single event
    is kept with probability ``single_event_share``: it can be answered without reading the words. A
    clip question that nothing matches is kept with probability ``no_match_share``: four in ten are
    such, and a model that sees no events yet learns from them to say "no match". ``clips`` limits
    the stage to the first clips of the store.
    """

    batch: int
    video: float
    lanes: int
    lane_tokens: int
    mix: Mapping[str, float]
    follow: tuple[int, int] = (5, 20)
    decisive: float = 1.0
    events: float = 0.0
    attention: float = 0.0
    single_event_share: float = 1.0
    no_match_share: float = 1.0
    clips: int | None = None


@dataclass(frozen=True)
class StageBatch:
    """B conversations and what they are about.

    ``features`` f32 [B, F, N, Dv] of clips or [B, N, Dv] of pictures; ``labels`` int8
    [B, F * n_fast, NUM_LABELS] of event_alignment, None for pictures.
    """

    conversations: Batch
    features: Tensor
    labels: Tensor | None
    sources: tuple[str, ...]

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE if self.features.ndim == 3 else Modality.VIDEO


def cache_vision_features(model: LlavaST, store: ClipStore, path: Path, batch: int = 5) -> None:
    """Write float16 [clips, F, N, Dv]: the frozen tower's output for every frame of the store."""
    config, device = model.config, next(model.parameters()).device
    shape = (len(store), config.num_frames, config.tokens_per_frame, config.vision.hidden_size)
    with atomic_file(path) as part:
        cache = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
        for first in tqdm(range(0, len(store), batch), desc="vision features"):
            clips = range(first, min(first + batch, len(store)))
            images = [image for clip in clips for image in store.frames(clip)]
            pixels = torch.from_numpy(np.stack([preprocess(i, config.image_size) for i in images]))
            with torch.inference_mode():
                features = model.vision_features(pixels.to(device)).half().cpu()
            cache[first : first + len(clips)] = features.numpy().reshape(len(clips), *shape[1:])
        cache.flush()


class ConversationSampler:
    """Batches of conversations about clips of the store or about single frames of them."""

    def __init__(
        self,
        store: ClipStore,
        features: np.ndarray,
        encoder: ConversationEncoder,
        stage: ConversationStage,
        seed: int,
        shard: Shard = FULL_SHARD,
    ) -> None:
        """Batches of ``stage.batch`` over all processes, of which those here hold ``shard``."""
        self.store, self.features, self.encoder, self.stage = store, features, encoder, stage
        self.seed, self.shard = seed, shard

    def batch(self, step: int) -> StageBatch:
        """This process's part of the step's batch: all about clips or all about pictures."""
        size = self.stage.batch
        about_video = item_rng(self.seed, step, size).random() < self.stage.video
        item = self._about_a_clip if about_video else self._about_a_picture
        items = [item(item_rng(self.seed, step, i)) for i in self.shard.items(size)]
        conversations = collate([i.conversation for i in items])
        labels = [i.labels for i in items if i.labels is not None]
        return StageBatch(
            conversations,
            torch.from_numpy(np.stack([i.features for i in items])),
            torch.from_numpy(np.stack(labels)).flatten(1, 2) if labels else None,
            tuple(i.source for i in items),
        )

    def _about_a_picture(self, rng: np.random.Generator) -> _Item:
        while True:
            index = int(rng.integers(len(self.store)))
            clip = self.store[index]
            frame = int(rng.integers(len(clip.frames)))
            samples = [
                (sample.task.value, sample)
                for _ in range(WORDINGS)
                for sample in image_samples(clip, frame, rng)
            ]
            chosen = weighted_order(samples, self.stage.mix, rng)
            if chosen:
                source = f"{self.store.source(index)} frame {frame}"
                features = np.asarray(self.features[index, frame], dtype=np.float32)
                return _Item(self.encoder.encode(chosen, rng), features, None, source)

    def _about_a_clip(self, rng: np.random.Generator) -> _Item:
        while True:
            index = int(rng.integers(len(self.store)))
            clip = self.store[index]
            if len(clip.events) < 2 and rng.random() >= self.stage.single_event_share:
                continue
            samples = []
            for _ in range(WORDINGS):
                for sample in clip_samples(clip, rng):
                    dropped = sample.answer.no_match and rng.random() >= self.stage.no_match_share
                    if not dropped and sample.task.modality is Modality.VIDEO:
                        samples.append((sample.task.value, sample))
                tubes = object_tube_samples(clip, rng, *self.stage.follow)
                samples += [(TUBE, sample) for sample in tubes]
            chosen = weighted_order(samples, self.stage.mix, rng)
            if chosen:
                side = self.encoder.config.fast_side
                return _Item(
                    self.encoder.encode(chosen, rng),
                    np.asarray(self.features[index], dtype=np.float32),
                    event_labels(clip, cells(clip, side), side),
                    self.store.source(index),
                )


@dataclass(frozen=True)
class _Item:
    """A conversation and what it is about; see StageBatch."""

    conversation: Conversation
    features: np.ndarray
    labels: np.ndarray | None
    source: str


def weighted_order(
    samples: Sequence[tuple[str, Sample]], mix: Mapping[str, float], rng: np.random.Generator
) -> list[Sample]:
    """The samples, each with its name in ``mix``, in a random order in which heavier names tend to
    come first, however many samples bear them; weight 0 drops."""
    kept = [(name, sample) for name, sample in samples if mix.get(name, 0) > 0]
    alike = Counter(name for name, _ in kept)
    # Exponential clocks: the first to ring is sample i with probability weight_i / sum.
    rings = [rng.exponential() * alike[name] / mix[name] for name, _ in kept]
    return [kept[i][1] for i in np.argsort(rings)]


class ConversationStep(nn.Module):
    """A stage of questions: everything but the vision tower learns, with the heads."""

    def __init__(self, model: LlavaST, heads: EventHeads, stage: ConversationStage) -> None:
        super().__init__()
        self.model, self.heads, self.stage = model, heads, stage
        train_only(model, model)
        model.model.vision_tower.requires_grad_(False)

    def forward(self, batch: StageBatch) -> LossTerms:
        """The answers' terms with those of attention_alignment and, of clips, event_alignment."""
        model, stage = self.model, self.stage
        conversations, modality = batch.conversations, batch.modality
        start = _visual_start(model, conversations, modality)
        out = decode(model, conversations, batch.features, modality)
        terms = answer_terms(model, conversations, out.last_hidden_state, stage.decisive)
        half_way = out.hidden_states[middle_layer(model)]
        if stage.attention > 0:
            terms |= attention_loss(model, conversations, half_way, start, stage.attention)
        # Pictures and clips apart: their losses are of different sizes.
        terms = {f"{modality.value}_{name}": term for name, term in terms.items()}
        if stage.events > 0 and batch.labels is not None:
            seen = half_way[:, start : start + batch.labels.shape[1]]
            terms |= event_loss(self.heads, seen, batch.labels, stage.events)
        return terms


def decode(model: LlavaST, batch: Batch, features: Tensor, modality: Modality) -> Any:
    """The decoder's output for a batch, with the hidden states of every layer."""
    embeddings = embed(model, batch, features, modality)
    with attending_in_lanes(model.model):
        return model.model(
            inputs_embeds=embeddings,
            attention_mask=batch.visible,
            position_ids=batch.positions,
            use_cache=False,
            output_hidden_states=True,
        )


def answer_terms(model: LlavaST, batch: Batch, hidden: Tensor, decisive: float) -> LossTerms:
    """``answer``, the mean loss of the answers' tokens given the last hidden states [B, L, D], and,
    to log, the means of their kinds. A token that decides (see decisive_tokens) counts ``decisive``
    times.
    """
    config = model.config
    # Position i predicts token i + 1; a turn's answer is never the first token of its turn.
    predicted = batch.answer[:, 1:]
    ids = batch.ids[:, 1:][predicted]
    deciding = batch.decisive[:, 1:][predicted]
    targets = two_hot_targets(ids, batch.values[:, 1:][predicted], config)
    losses = soft_cross_entropy(model.logits(hidden[:, :-1][predicted]), targets)
    coordinates = config.coordinates
    is_text, is_time, in_space = (
        coordinates.is_text(ids),
        coordinates.is_time(ids),
        coordinates.is_space(ids),
    )
    kinds = {
        "match": deciding & is_text,
        "text": ~deciding & is_text,
        "span": deciding & is_time,
        "time": ~deciding & is_time,
        "left": deciding & in_space,
        "space": ~deciding & in_space,
    }
    weights = torch.where(deciding, decisive, 1.0)
    said = losses.detach()
    parts = {name: logged_ratio((said * kind).sum(), kind.sum()) for name, kind in kinds.items()}
    return {"answer": LossTerm((losses * weights).sum(), weights.sum()), **parts}


def embed(model: LlavaST, batch: Batch, features: Tensor, modality: Modality) -> Tensor:
    """Embeddings [B, L, D] of a batch, as LlavaST.embed_prompt does for one prompt."""
    config, projected = model.config, model.project(features)
    if modality is Modality.IMAGE:
        parts: tuple[Tensor, ...] = (model.image_tokens(projected),)
    else:
        parts = tuple(model.pack(projected, range(features.shape[1])))
    embeddings = model.embed_tokens(batch.ids)
    visual = torch.cat(parts, dim=-2).to(embeddings)
    # Every row of a batch has the same prefix.
    prefix = batch.ids[0].cpu().numpy()
    for position, row, length in visual_blocks(prefix, config, [p.shape[-2] for p in parts]):
        written = visual[:, row : row + length]
        embeddings = torch.cat(
            [embeddings[:, :position], written, embeddings[:, position + length :]], dim=1
        )
    for axis, placeholder in written_inputs(config).items():
        values = batch.inputs[axis]
        if len(values):
            mixed = model.table(axis, "input").mix(values).to(embeddings)
            embeddings = embeddings.masked_scatter((batch.ids == placeholder)[..., None], mixed)
    return embeddings


def _visual_start(model: LlavaST, batch: Batch, modality: Modality) -> int:
    """Where the visual block begins; every row of a batch has the same prefix."""
    special = model.config.special_tokens
    start_id = special.im_start if modality is Modality.IMAGE else special.vid_start
    return int((batch.ids[0] == start_id).nonzero()[0])


def parameter_count(model: LlavaST) -> int:
    """Parameters of the whole model."""
    return sum(p.numel() for p in model.parameters())
