"""Stage 1 of the tiny model: each patch learns what covers it and where that lies.

A 7B model starts from SigLIP's pretraining; a tiny one has none. Here the vision tower, the
projector and the coordinate tables learn together, densely: every visual token names the color,
shape and size of the object over its patch, and points at the object's box in the *same* tables
that the language model will later speak with (LLaVA-ST, section 3.2: positions of pictures and
words share their embeddings). The heads that read this out are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_st_ros.config import ModelConfig
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard, item_rng
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_mean, mean_term
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.objective import coordinate_tables, two_hot
from llava_st_ros.training.tiny.word_embeddings import WordEmbeddings

BACKGROUND_WEIGHT = 0.1


@dataclass(frozen=True)
class Vocabulary:
    """The names that objects can have, in a fixed order."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class DenseBatch:
    """Pixels f32 [B, 3, S, S]; classes int64 [B, N, 3] (0: nothing there); boxes f32 [B, N, 4]."""

    pixels: Tensor
    classes: Tensor
    boxes: Tensor
    sources: tuple[str, ...]


class DenseHeads(nn.Module):
    """Reads color, shape, size and box off a visual token [.., D]."""

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, encode: Callable[[str], list[int]]
    ) -> None:
        """``encode`` gives the token ids of a word as it stands within a question."""
        super().__init__()
        width = config.language.hidden_size
        self.words = nn.ModuleList(
            WordEmbeddings(names, encode)
            for names in (vocabulary.colors, vocabulary.shapes, vocabulary.sizes)
        )
        # What a patch without an object is like, one row an axis: color, shape, size.
        self.nothing = nn.Parameter(torch.zeros(len(self.words), width))
        self.edges = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 4 * width),
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def names(self, tokens: Tensor, embeddings: Tensor) -> list[Tensor]:
        """Tokens [n, D] and the text embeddings [V, D] -> per axis logits [n, 1 + words].

        Column 0 is "nothing there".
        """
        tokens = self.norm(tokens)
        logits = []
        for axis, words in enumerate(self.words):
            rows = torch.cat([self.nothing[axis : axis + 1], words(embeddings)])
            logits.append(tokens @ rows.T)
        return logits

    def edge_states(self, tokens: Tensor) -> Tensor:
        """Tokens [n, D] -> [n, 4, D]: one state an edge, x1, y1, x2, y2."""
        return self.norm(self.edges(tokens).unflatten(-1, (4, -1)))


def patch_targets(boxes: np.ndarray, names: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """What covers each patch's center.

    ``boxes`` f32 [objects, 4] with NaN for unseen ones, ``names`` int64 [objects, 3] -> classes
    int64 [grid * grid, 3] and boxes f32 [grid * grid, 4]. The smallest covering box wins; every
    seen object gets at least the patch its center lies in.
    """
    classes = np.zeros((grid * grid, 3), dtype=np.int64)
    targets = np.zeros((grid * grid, 4), dtype=np.float32)
    centers = (np.arange(grid) + 0.5) / grid
    seen = np.flatnonzero(~np.isnan(boxes[:, 0])) if len(boxes) else np.array([], dtype=int)
    areas = [(boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]) for i in seen]
    for index in seen[np.argsort(areas)[::-1].astype(int)]:  # large first, small overwrite
        x1, y1, x2, y2 = boxes[index]
        columns = np.flatnonzero((centers >= x1) & (centers <= x2))
        rows = np.flatnonzero((centers >= y1) & (centers <= y2))
        if not len(columns):
            columns = np.array([min(grid - 1, int((x1 + x2) / 2 * grid))])
        if not len(rows):
            rows = np.array([min(grid - 1, int((y1 + y2) / 2 * grid))])
        patches = (rows[:, None] * grid + columns[None, :]).ravel()
        classes[patches] = names[index] + 1
        targets[patches] = boxes[index]
    return classes, targets


class DenseSampler:
    """Random frames of the store, half of them mirrored, with brightness and gain varied."""

    def __init__(
        self,
        store: ClipStore,
        config: ModelConfig,
        vocabulary: Vocabulary,
        size: int,
        seed: int,
        shard: Shard = FULL_SHARD,
    ) -> None:
        """Batches of ``size`` over all processes, of which those here hold ``shard``."""
        self.store, self.config = store, config
        self.size, self.seed, self.shard = size, seed, shard
        self.names = [
            np.array(
                [
                    [
                        vocabulary.colors.index(o.color),
                        vocabulary.shapes.index(o.shape),
                        vocabulary.sizes.index(o.size),
                    ]
                    for o in store.objects(index)
                ],
                dtype=np.int64,
            ).reshape(-1, 3)
            for index in range(len(store))
        ]
        self.boxes = [store.boxes(index) for index in range(len(store))]

    def batch(self, step: int) -> DenseBatch:
        """This process's part of the step's batch."""
        pixels, classes, boxes, sources = zip(
            *(self._item(item_rng(self.seed, step, i)) for i in self.shard.items(self.size))
        )
        return DenseBatch(
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(np.stack(classes)),
            torch.from_numpy(np.stack(boxes)),
            sources,
        )

    def _item(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """Pixels f32 [S, S, 3], classes and boxes of its patches, and the frame's name."""
        index = int(rng.integers(len(self.store)))
        frames = self.store.frames(index)
        frame = int(rng.integers(len(frames)))
        image = frames[frame]
        truth = self.boxes[index][frame].copy()
        if rng.random() < 0.5:
            image = image[:, ::-1]
            truth[:, [0, 2]] = 1.0 - truth[:, [2, 0]]
        classes, boxes = patch_targets(truth, self.names[index], self.config.grid)
        gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-0.1, 0.1)
        pixels = (image.astype(np.float32) / 127.5 - 1.0) * np.float32(gain) + np.float32(shift)
        return pixels.clip(-1, 1), classes, boxes, f"{self.store.source(index)} frame {frame}"


class DenseStep(nn.Module):
    """The stage: vision tower, projector, word embeddings and tables learn, with heads."""

    def __init__(self, model: LlavaST, heads: DenseHeads) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        inner = model.model
        train_only(model, inner.vision_tower, inner.mm_projector, inner.embed_tokens)
        for table in coordinate_tables(model):
            table.requires_grad_(True)

    def forward(self, batch: DenseBatch) -> LossTerms:
        """Names by cross-entropy, edges by two-hot soft labels."""
        model = self.model
        # With LAPE, as the language model will see them: an edge is an offset from the patch.
        tokens = model.image_tokens(model.encode_images(batch.pixels)).flatten(0, 1)  # [B * N, D]
        classes, boxes = batch.classes.flatten(0, 1), batch.boxes.flatten(0, 1)
        covered = classes[:, 0] > 0
        weight = torch.where(covered, 1.0, BACKGROUND_WEIGHT)
        naming = tokens.new_zeros(())
        right = {}
        named = self.heads.names(tokens, model.model.embed_tokens.weight)
        for axis, (name, logits) in enumerate(zip(("color", "shape", "size"), named)):
            losses = F.cross_entropy(logits, classes[:, axis], reduction="none")
            naming = naming + (losses * weight).sum()
            hits = (logits.argmax(-1) == classes[:, axis])[covered]
            right[name] = logged_mean(hits)
        pointing, iou = edge_loss(model, self.heads.edge_states(tokens[covered]), boxes[covered])
        terms = {"naming": LossTerm(naming, weight.sum()), "pointing": mean_term(pointing)}
        return {**terms, **right, "iou": logged_mean(iou)}


def edge_loss(model: LlavaST, states: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """States [n, 4, D] of the edges of boxes f32 [n, 4], read in the model's output tables.

    Returns the two-hot cross-entropy of each box, mean over its edges [n], and the IoU [n] of the
    likeliest boxes.
    """
    _, _, _, height, _, width = (table.weight for table in coordinate_tables(model))
    pointing = boxes.new_zeros(len(boxes))
    estimate = []
    for edge, table in enumerate((width, height, width, height)):
        log_probability = (states[:, edge] @ table.T).float().log_softmax(-1)
        low, high, upper = two_hot(boxes[:, edge], len(table))
        chosen = (1 - upper) * log_probability.gather(1, low[:, None])[:, 0]
        chosen = chosen + upper * log_probability.gather(1, high[:, None])[:, 0]
        pointing = pointing - chosen / 4
        estimate.append(log_probability.argmax(-1).float() / (len(table) - 1))
    return pointing, _iou(torch.stack(estimate, -1), boxes)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return both / (area[0] + area[1] - both).clamp(min=1e-9)
