"""The packers learn to lose nothing that a question may be about.

Dense alignment taught each patch to name and box the object over it; a packer folds regions of
such tokens into one. Here its tokens are read off as densely, without the language model: asked for
an object of its cell by the embeddings of its name's words, a fast token gives the object's box in
its frame and a slow token the one in the middle of its frames, in the coordinate tables; both say
which objects are there and what happens (event_alignment). LLaVA-ST likewise trains its packers and
embeddings first (section 4.1, content alignment). The heads are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llava_st_ros.config import ModelConfig
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard, item_rng
from llava_st_ros.training.loop.losses import LossTerms, logged_mean, mean_term
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.tiny.dense_alignment import edge_loss
from llava_st_ros.training.tiny.event_alignment import (
    NAMES,
    NOT_JUDGED,
    EventHeads,
    cells,
    event_labels,
    event_loss,
    name_labels,
)
from llava_st_ros.training.tiny.word_embeddings import WordEmbeddings


@dataclass(frozen=True)
class StreamTargets:
    """What n tokens of B clips hold.

    ``labels`` int8 [B, n, NUM_LABELS] (see event_labels); of m objects within them ``tokens`` int64
    [m] (flat, of B * n), ``names`` int64 [m, 2] (color and shape, of NAMES) and ``boxes`` f32
    [m, 4].
    """

    labels: Tensor
    tokens: Tensor
    names: Tensor
    boxes: Tensor


class StreamHeads(nn.Module):
    """Reads one stream's tokens [n, D]."""

    def __init__(self, config: ModelConfig, encode: Callable[[str], list[int]]) -> None:
        """``encode`` gives the token ids of a word as it stands within a question."""
        super().__init__()
        width = config.language.hidden_size
        self.words = WordEmbeddings(NAMES, encode)
        self.events = EventHeads(config)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.edges = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4 * width)
        )

    def edge_states(self, tokens: Tensor, names: Tensor, embeddings: Tensor) -> Tensor:
        """Tokens [m, D], asked for names [m, 2] in the text embeddings [V, D] -> [m, 4, D]."""
        asked = self.words(embeddings)[names].sum(1)
        states = self.edges(torch.cat([self.norm(tokens), self.norm(asked)], dim=-1))
        return self.norm(states.unflatten(-1, (4, -1)))


class PackerHeads(nn.Module):
    """The heads of both streams."""

    def __init__(self, config: ModelConfig, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.fast, self.slow = StreamHeads(config, encode), StreamHeads(config, encode)


@dataclass(frozen=True)
class PackerBatch:
    """Vision features f32 [B, F, N, Dv] and the targets of the fast and of the slow tokens."""

    features: Tensor
    fast: StreamTargets
    slow: StreamTargets
    sources: tuple[str, ...]


class PackerSampler:
    """Random clips of the store, as vision features and targets."""

    def __init__(
        self,
        store: ClipStore,
        features: np.ndarray,
        config: ModelConfig,
        size: int,
        seed: int,
        shard: Shard = FULL_SHARD,
    ) -> None:
        """Batches of ``size`` over all processes, of which those here hold ``shard``."""
        self.store, self.features, self.config = store, features, config
        self.size, self.seed, self.shard = size, seed, shard

    def batch(self, step: int) -> PackerBatch:
        """This process's part of the step's batch."""
        items = self.shard.items(self.size)
        chosen = [int(item_rng(self.seed, step, i).integers(len(self.store))) for i in items]
        clips = [self.store[i] for i in chosen]
        features = np.stack([np.asarray(self.features[i], dtype=np.float32) for i in chosen])
        config = self.config
        return PackerBatch(
            torch.from_numpy(features),
            stream_targets(clips, config.fast_side, 1),
            stream_targets(clips, config.slow_side, config.packer.temporal_region),
            tuple(self.store.source(i) for i in chosen),
        )


def stream_targets(clips: list[SimulatedClip], side: int, length: int) -> StreamTargets:
    """Targets of tokens that each stand for one of side x side cells over ``length`` frames."""
    labels, tokens, names, boxes = [], [], [], []
    for row, clip in enumerate(clips):
        where = cells(clip, side)
        per_frame = event_labels(clip, where, side)
        frames = len(per_frame) // length
        together = per_frame.reshape(frames, length, *per_frame.shape[1:])
        unsure = (together == NOT_JUDGED).any(1)
        labels.append(np.where((together == 1).any(1), 1, unsure * NOT_JUDGED).astype(np.int8))
        for step in range(frames):
            frame = step * length + length // 2
            for index in np.flatnonzero(where[frame] >= 0):
                tokens.append((row * frames + step) * side * side + where[frame, index])
                names.append(name_labels(clip.objects[index]))
                boxes.append(clip.boxes[frame, index])
    return StreamTargets(
        torch.from_numpy(np.stack(labels)).flatten(1, 2),
        torch.tensor(tokens, dtype=torch.int64),
        torch.tensor(names, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
    )


class PackerStep(nn.Module):
    """The stage: the packers learn, with heads; projector and tables stay as pictures know them."""

    def __init__(self, model: LlavaST, heads: PackerHeads) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        train_only(model, model.model.vision_resampler)

    def forward(self, batch: PackerBatch) -> LossTerms:
        """Of each stream where the objects are and, twice as heavy, what is there and happens."""
        model, features = self.model, batch.features
        packed = model.pack(model.project(features), range(features.shape[1]))
        embeddings = model.model.embed_tokens.weight
        terms: LossTerms = {}
        for name, tokens, reader, targets in (
            ("fast", packed.fast, self.heads.fast, batch.fast),
            ("slow", packed.slow, self.heads.slow, batch.slow),
        ):
            found = event_loss(reader.events, tokens, targets.labels, weight=2.0)
            asked = tokens.flatten(0, 1)[targets.tokens]
            states = reader.edge_states(asked, targets.names, embeddings)
            pointing, iou = edge_loss(model, states, targets.boxes)
            found |= {"pointing": mean_term(pointing), "iou": logged_mean(iou)}
            terms |= {f"{name}_{key}": term for key, term in found.items()}
        return terms
