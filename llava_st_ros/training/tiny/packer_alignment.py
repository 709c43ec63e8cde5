"""The stage that trains the packers: their tokens keep what questions may be about.

Dense alignment trains each patch to name and box the object that covers it; a packer folds regions
of such tokens into one. Here the packed tokens are read as densely, without the language model.
Given the embeddings of an object's name, a fast token predicts the box of that object in its cell
and frame, and a slow token the box in the middle one of its frames, in the coordinate tables.
Both also predict which objects are there and what happens to them (event_alignment). LLaVA-ST too
trains its packers and embeddings first (section 4.1, content alignment). The heads are discarded
after training.
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
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.loop.draws import Draws
from llava_st_ros.training.loop.losses import LossTerms, logged_mean, mean_term
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.tiny.dense_alignment import edge_loss
from llava_st_ros.training.tiny.event_alignment import (
    IGNORED,
    NAMES,
    EventHeads,
    event_labels,
    event_loss,
    name_labels,
    object_cells,
)
from llava_st_ros.training.tiny.word_embeddings import WordEmbeddings


@dataclass(frozen=True)
class StreamTargets:
    """The targets of the n fast, or slow, tokens of B clips, which show m objects.

    Attributes:
        labels: As in event_labels, int8 [B, n, NUM_LABELS].
        tokens: The token of each object, an index into the flat B * n, int64 [m].
        names: Color and shape of each object, indices of NAMES, int64 [m, 2].
        boxes: The box of each object, float32 [m, 4].
    """

    labels: Tensor
    tokens: Tensor
    names: Tensor
    boxes: Tensor


class StreamHeads(nn.Module):
    """The heads of one stream, fast or slow.

    Args:
        config: The model's geometry.
        encode: Returns the token ids of a text.
    """

    def __init__(self, config: ModelConfig, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        width = config.language.hidden_size
        self.words = WordEmbeddings(NAMES, encode)
        self.events = EventHeads(config)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.edges = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4 * width)
        )

    def edge_states(self, tokens: Tensor, names: Tensor, embeddings: Tensor) -> Tensor:
        """Return a state for each edge of the named objects, [m, 4, D].

        Args:
            tokens: The packed token of each object [m, D].
            names: Color and shape of each object, int64 [m, 2].
            embeddings: The text embeddings [V, D].
        """
        name_embeddings = self.words(embeddings)[names].sum(1)
        states = self.edges(torch.cat([self.norm(tokens), self.norm(name_embeddings)], dim=-1))
        return self.norm(states.unflatten(-1, (4, -1)))


class PackerHeads(nn.Module):
    """The heads of both streams."""

    def __init__(self, config: ModelConfig, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.fast, self.slow = StreamHeads(config, encode), StreamHeads(config, encode)


@dataclass(frozen=True)
class PackerBatch:
    """B clips and the targets of their packed tokens.

    Attributes:
        features: Vision features, float16 [B, F, N, Dv].
        fast: Targets of the fast tokens.
        slow: Targets of the slow tokens.
        sources: Where each clip comes from.
    """

    features: Tensor
    fast: StreamTargets
    slow: StreamTargets
    sources: tuple[str, ...]


class PackerBatches:
    """``batches(step)``: random clips of the store.

    Args:
        store: The clips.
        features: Their vision features [clips, F, N, Dv].
        config: The model's geometry.
        size: Batch size over all processes.
        seed: Seeds every draw.
        shard: This process's items.
        grow: Batches in a step, see draws.
    """

    def __init__(
        self,
        store: ClipStore,
        features: np.ndarray,
        config: ModelConfig,
        size: int,
        seed: int,
        shard: Shard = FULL_SHARD,
        grow: int = 1,
    ) -> None:
        self.store, self.features, self.config = store, features, config
        self.draws = Draws(seed, size, shard, grow)

    def __call__(self, step: int) -> PackerBatch:
        """Return this process's shard of the step's batch."""
        clip_indices = [int(rng.integers(len(self.store))) for rng in self.draws.items(step)]
        clips = [self.store[i] for i in clip_indices]
        features = np.stack([np.asarray(self.features[i]) for i in clip_indices])
        config = self.config
        return PackerBatch(
            torch.from_numpy(features),
            stream_targets(clips, config.fast_side, 1),
            stream_targets(clips, config.slow_side, config.packer.temporal_region),
            tuple(self.store.source(i) for i in clip_indices),
        )


def stream_targets(clips: list[SimulatedClip], side: int, length: int) -> StreamTargets:
    """Return the targets of tokens that cover one of side x side cells over ``length`` frames."""
    labels, tokens, names, boxes = [], [], [], []
    for row, clip in enumerate(clips):
        cells = object_cells(clip, side)
        per_frame = event_labels(clip, cells, side)
        steps = len(per_frame) // length
        grouped = per_frame.reshape(steps, length, *per_frame.shape[1:])
        ignored = (grouped == IGNORED).any(1)
        labels.append(np.where((grouped == 1).any(1), 1, ignored * IGNORED).astype(np.int8))
        for step in range(steps):
            frame = step * length + length // 2
            for index in np.flatnonzero(cells[frame] >= 0):
                tokens.append((row * steps + step) * side * side + cells[frame, index])
                names.append(name_labels(clip.objects[index]))
                boxes.append(clip.boxes[frame, index])
    return StreamTargets(
        torch.from_numpy(np.stack(labels)).flatten(1, 2),
        torch.tensor(tokens, dtype=torch.int64),
        torch.tensor(names, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
    )


class PackerStep(nn.Module):
    """Trains the packers and the heads. Projector and tables stay as image alignment left them."""

    def __init__(self, model: LlavaST, heads: PackerHeads) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        train_only(model, model.model.get_submodule("vision_resampler"))

    def forward(self, batch: PackerBatch) -> LossTerms:
        """Return ``box_loss`` and, with twice the weight, ``event_loss``, each of both streams."""
        model, features = self.model, batch.features.float()
        packed = model.pack(model.project(features), range(features.shape[1]))
        embeddings = model.model.embed_tokens.weight
        terms: LossTerms = {}
        for name, tokens, heads, targets in (
            ("fast", packed.fast, self.heads.fast, batch.fast),
            ("slow", packed.slow, self.heads.slow, batch.slow),
        ):
            stream_terms = event_loss(heads.events, tokens, targets.labels, weight=2.0)
            object_tokens = tokens.flatten(0, 1)[targets.tokens]
            states = heads.edge_states(object_tokens, targets.names, embeddings)
            box_losses, iou = edge_loss(model, states, targets.boxes)
            stream_terms |= {"box_loss": mean_term(box_losses), "iou": logged_mean(iou)}
            terms |= {f"{name}_{key}": term for key, term in stream_terms.items()}
        return terms
