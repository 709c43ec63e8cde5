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
from llava_st_ros.training.clip_store import ClipStore
from llava_st_ros.training.objective import coordinate_tables, two_hot
from llava_st_ros.training.word_embeddings import WordEmbeddings

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


class DenseHeads(nn.Module):
    """Reads color, shape, size and box off a visual token [.., D]."""

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, encode: Callable[[str], list[int]]
    ) -> None:
        """``encode`` gives the token ids of a word as it stands within a question."""
        super().__init__()
        width = config.language.hidden_size
        self.words = [
            WordEmbeddings(names, encode)
            for names in (vocabulary.colors, vocabulary.shapes, vocabulary.sizes)
        ]
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
    """What covers each patch's centre.

    ``boxes`` f32 [objects, 4] with NaN for unseen ones, ``names`` int64 [objects, 3] -> classes
    int64 [grid * grid, 3] and boxes f32 [grid * grid, 4]. The smallest covering box wins; every
    seen object gets at least the patch its centre lies in.
    """
    classes = np.zeros((grid * grid, 3), dtype=np.int64)
    targets = np.zeros((grid * grid, 4), dtype=np.float32)
    centres = (np.arange(grid) + 0.5) / grid
    seen = np.flatnonzero(~np.isnan(boxes[:, 0])) if len(boxes) else np.array([], dtype=int)
    areas = [(boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]) for i in seen]
    for index in seen[np.argsort(areas)[::-1].astype(int)]:  # large first, small overwrite
        x1, y1, x2, y2 = boxes[index]
        columns = np.flatnonzero((centres >= x1) & (centres <= x2))
        rows = np.flatnonzero((centres >= y1) & (centres <= y2))
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
        self, store: ClipStore, config: ModelConfig, vocabulary: Vocabulary, seed: int
    ) -> None:
        self.store, self.config = store, config
        self.rng = np.random.default_rng(seed)
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

    def batch(self, size: int) -> DenseBatch:
        images, classes, boxes = [], [], []
        for index in self.rng.integers(len(self.store), size=size):
            frames = self.store.frames(index)
            frame = int(self.rng.integers(len(frames)))
            image = frames[frame]
            truth = self.boxes[index][frame].copy()
            if self.rng.random() < 0.5:
                image = image[:, ::-1]
                truth[:, [0, 2]] = 1.0 - truth[:, [2, 0]]
            target_classes, target_boxes = patch_targets(truth, self.names[index], self.config.grid)
            images.append(image)
            classes.append(target_classes)
            boxes.append(target_boxes)
        gain = torch.from_numpy(self.rng.uniform(0.85, 1.15, (size, 1, 1, 1))).float()
        shift = torch.from_numpy(self.rng.uniform(-0.1, 0.1, (size, 1, 1, 1))).float()
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return DenseBatch(
            (pixels * gain + shift).clamp(-1, 1),
            torch.from_numpy(np.stack(classes)),
            torch.from_numpy(np.stack(boxes)),
        )


def dense_loss(
    model: LlavaST, heads: DenseHeads, batch: DenseBatch
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss and its parts: names by cross-entropy, edges by two-hot soft labels."""
    # With LAPE, as the language model will see them: an edge is an offset from the patch's place.
    tokens = model.image_tokens(model.encode_images(batch.pixels)).flatten(0, 1)  # [B * N, D]
    classes, boxes = batch.classes.flatten(0, 1), batch.boxes.flatten(0, 1)
    covered = classes[:, 0] > 0
    weight = torch.where(covered, 1.0, BACKGROUND_WEIGHT)
    naming = torch.zeros(())
    right = {}
    named = heads.names(tokens, model.model.embed_tokens.weight)
    for axis, (name, logits) in enumerate(zip(("color", "shape", "size"), named)):
        losses = F.cross_entropy(logits, classes[:, axis], reduction="none")
        naming = naming + (losses * weight).sum() / weight.sum()
        right[name] = float((logits.argmax(-1) == classes[:, axis])[covered].float().mean())
    pointing, iou = edge_loss(model, heads.edge_states(tokens[covered]), boxes[covered])
    parts = {"naming": naming.item(), "pointing": pointing.item(), **right, "iou": iou}
    return naming + pointing, parts


def edge_loss(model: LlavaST, states: Tensor, boxes: Tensor) -> tuple[Tensor, float]:
    """States [n, 4, D] of the edges of boxes f32 [n, 4], read in the model's output tables.

    Returns the mean two-hot cross-entropy, and the mean IoU of the likeliest boxes.
    """
    _, _, _, height, _, width = (table.weight for table in coordinate_tables(model))
    pointing = torch.zeros(())
    estimate = []
    for edge, table in enumerate((width, height, width, height)):
        log_probability = (states[:, edge] @ table.T).log_softmax(-1)
        low, high, upper = two_hot(boxes[:, edge], len(table))
        chosen = (1 - upper) * log_probability.gather(1, low[:, None])[:, 0]
        chosen = chosen + upper * log_probability.gather(1, high[:, None])[:, 0]
        pointing = pointing - chosen.mean() / 4
        estimate.append(log_probability.argmax(-1).float() / (len(table) - 1))
    return pointing, float(_iou(torch.stack(estimate, -1), boxes).mean())


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return both / (area[0] + area[1] - both).clamp(min=1e-9)
