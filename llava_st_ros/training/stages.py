"""The stages that train a tiny LLaVA-ST from nothing, and their settings.

1. dense alignment: vision tower, projector and coordinate tables (see dense_alignment);
2. coordinate alignment: the language model and the packers learn to point, on pictures and short
   conversations about clips;
3. multi-task tuning on every task, in a stage or more.

From stage 2 on the vision tower is frozen, as in LLaVA-ST (section 4.1), and its features are
computed once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from llava_st_ros.model.llava_st import AXES, LlavaST
from llava_st_ros.model.preprocessing import preprocess
from llava_st_ros.training.clip_store import ClipStore
from llava_st_ros.training.conversations import Batch, ConversationEncoder, collate
from llava_st_ros.training.loop import LoopConfig
from llava_st_ros.training.object_tubes import object_tube_samples
from llava_st_ros.training.objective import soft_cross_entropy, two_hot_targets
from llava_st_ros.training.questions import Sample, clip_samples, image_samples


@dataclass(frozen=True)
class ConversationStage:
    """A stage of questions: ``mix`` weighs the tasks, ``video`` is the share of clip batches.

    ``follow`` is the (least, greatest) number of frames of questions that follow an object.
    """

    loop: LoopConfig
    batch: int
    video: float
    max_tokens: int
    mix: Mapping[str, float]
    follow: tuple[int, int] = (5, 20)


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

    def batch(self) -> tuple[Batch, Tensor, bool]:
        """A batch, the vision features of its clips [B, F, N, Dv] or pictures [B, N, Dv], and
        whether it is about pictures."""
        on_image = bool(self.rng.random() >= self.stage.video)
        conversations, features = [], []
        while len(conversations) < self.stage.batch:
            index = int(self.rng.integers(len(self.store)))
            clip = self.store[index]
            if on_image:
                frame = int(self.rng.integers(len(clip.frames)))
                samples = image_samples(clip, frame, self.rng)
                feature = self.features[index, frame]
            else:
                samples = [s for s in clip_samples(clip, self.rng) if not s.task.on_image]
                samples += object_tube_samples(clip, self.rng, *self.stage.follow)
                feature = self.features[index]
            chosen = weighted_order(samples, self.stage.mix, self.rng)
            if chosen:
                conversations.append(self.encoder.encode(chosen, self.rng))
                features.append(np.asarray(feature, dtype=np.float32))
        # Always the same length, so that a compiled model meets one shape.
        padded = collate(conversations, self.stage.max_tokens)
        return padded, torch.from_numpy(np.stack(features)), on_image


def weighted_order(
    samples: Sequence[Sample], mix: Mapping[str, float], rng: np.random.Generator
) -> list[Sample]:
    """The samples in a random order in which heavier tasks tend to come first; weight 0 drops."""
    kept = [s for s in samples if mix.get(s.task.value, 0) > 0]
    # Exponential clocks: the first to ring is sample i with probability weight_i / sum.
    rings = [rng.exponential() / mix[s.task.value] for s in kept]
    return [kept[i] for i in np.argsort(rings)]


def conversation_loss(
    model: LlavaST, batch: Batch, features: Tensor, on_image: bool
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over the answers' tokens, and the text's and the coordinates' means."""
    config = model.config
    embeddings = embed(model, batch, features, on_image)
    hidden = model.model(
        inputs_embeds=embeddings,
        attention_mask=batch.visible,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    # Position i predicts token i + 1; a turn's answer is never the first token of its turn.
    predicted = batch.answer[:, 1:]
    ids = batch.ids[:, 1:][predicted]
    targets = two_hot_targets(ids, batch.values[:, 1:][predicted], config)
    losses = soft_cross_entropy(model.logits(hidden[:, :-1][predicted]), targets)
    parts: dict[str, float] = {}
    kinds = {
        "text": ids < config.temporal_offset,
        "time": (ids >= config.temporal_offset) & (ids < config.height_offset),
        "space": ids >= config.height_offset,
    }
    medium = "image" if on_image else "video"
    for name, kind in kinds.items():
        if kind.any():
            parts[f"{medium}_{name}"] = losses[kind].mean().item()
    return losses.mean(), parts


def embed(model: LlavaST, batch: Batch, features: Tensor, on_image: bool) -> Tensor:
    """Embeddings [B, L, D] of a batch, as LlavaST.embed_prompt does for one prompt ("paper")."""
    special = model.config.special_tokens
    projected = model.project(features)
    if on_image:
        visual = model.image_tokens(projected)
        start_id = special.im_start
    else:
        visual = torch.cat(model.pack(projected, range(features.shape[1])), dim=-2)
        start_id = special.vid_start
    # The fast block ends where the slow one starts, and every row has the same prefix.
    start = int((batch.ids[0] == start_id).nonzero()[0])
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


def freeze_vision(model: LlavaST) -> None:
    """No gradient for the vision tower; the projector goes on learning."""
    model.model.vision_tower.requires_grad_(False)


def stage_from_mapping(values: Mapping[str, object]) -> tuple[LoopConfig, dict[str, object]]:
    """A stage's YAML -> its loop and the rest."""
    loop_names = LoopConfig.__dataclass_fields__
    loop = LoopConfig(**{k: v for k, v in values.items() if k in loop_names})  # type: ignore[arg-type]
    return loop, {k: v for k, v in values.items() if k not in loop_names}


def parameter_count(model: LlavaST) -> int:
    """Parameters of the whole model."""
    return sum(p.numel() for p in model.parameters())
