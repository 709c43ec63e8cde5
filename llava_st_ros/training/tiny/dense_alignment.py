"""Stage 1 of the tiny model: every patch learns which object covers it, and where that object is.

A 7B model starts from SigLIP's pretraining; a tiny one has none. Here the vision tower, the
projector and the coordinate tables are trained together and densely: every visual token predicts
the color, shape and size of the object that covers its patch, and the object's box in the *same*
tables that the language model will use for its answers (LLaVA-ST, section 3.2: visual positions and
words share their embeddings). The heads are discarded after training.
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
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.loop.draws import Draws
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_mean, mean_term
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.objective import coordinate_tables, two_hot
from llava_st_ros.training.tiny.word_embeddings import WordEmbeddings

BACKGROUND_WEIGHT = 0.1


@dataclass(frozen=True)
class ObjectVocabulary:
    """The words for an object's attributes, in a fixed order."""

    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class DenseBatch:
    """B frames and the targets of their N patches.

    Attributes:
        pixels: Float32 [B, 3, S, S].
        classes: Color, shape and size, int64 [B, N, 3]; 0 where there is no object.
        boxes: Float32 [B, N, 4].
        sources: Where each frame comes from.
    """

    pixels: Tensor
    classes: Tensor
    boxes: Tensor
    sources: tuple[str, ...]


class DenseHeads(nn.Module):
    """Predicts color, shape, size and box from a visual token [..., D].

    Args:
        config: The model's geometry.
        vocabulary: The attributes.
        encode: Returns the token ids of a text.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: ObjectVocabulary, encode: Callable[[str], list[int]]
    ) -> None:
        super().__init__()
        width = config.language.hidden_size
        self.words = nn.ModuleList(
            WordEmbeddings(names, encode)
            for names in (vocabulary.colors, vocabulary.shapes, vocabulary.sizes)
        )
        # The embedding of "no object", one row each for color, shape and size.
        self.nothing = nn.Parameter(torch.zeros(len(self.words), width))
        self.edges = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 4 * width),
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def names(self, tokens: Tensor, embeddings: Tensor) -> list[Tensor]:
        """Return the logits [n, 1 + words] of each attribute; column 0 is "no object".

        Args:
            tokens: Visual tokens [n, D].
            embeddings: The text embeddings [V, D].
        """
        tokens = self.norm(tokens)
        logits = []
        for attribute, words in enumerate(self.words):
            rows = torch.cat([self.nothing[attribute : attribute + 1], words(embeddings)])
            logits.append(tokens @ rows.T)
        return logits

    def edge_states(self, tokens: Tensor) -> Tensor:
        """Tokens [n, D] -> a state for each edge x1, y1, x2, y2, [n, 4, D]."""
        return self.norm(self.edges(tokens).unflatten(-1, (4, -1)))


def patch_targets(boxes: np.ndarray, names: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the object at the center of each patch of a frame.

    The smallest covering box counts. A visible object that covers no center gets the patch at its
    own center.

    Args:
        boxes: Float32 [objects, 4], NaN for hidden objects.
        names: Indices of the attributes, int64 [objects, 3].
        grid: The number of patches per side.

    Returns:
        Classes, int64 [grid * grid, 3], and boxes, float32 [grid * grid, 4].
    """
    classes = np.zeros((grid * grid, 3), dtype=np.int64)
    targets = np.zeros((grid * grid, 4), dtype=np.float32)
    centers = (np.arange(grid) + 0.5) / grid
    visible = np.flatnonzero(~np.isnan(boxes[:, 0])) if len(boxes) else np.array([], dtype=int)
    areas = [(boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]) for i in visible]
    for index in visible[np.argsort(areas)[::-1].astype(int)]:  # large first; small ones overwrite
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


class DenseBatches:
    """``batches(step)``: random frames of the store, half of them mirrored, brightness augmented.

    Args:
        store: The clips.
        config: The model's geometry.
        vocabulary: The attributes.
        size: Batch size over all processes.
        seed: Seeds every draw.
        shard: This process's items.
        grow: Batches in a step, see draws.
    """

    def __init__(
        self,
        store: ClipStore,
        config: ModelConfig,
        vocabulary: ObjectVocabulary,
        size: int,
        seed: int,
        shard: Shard = FULL_SHARD,
        grow: int = 1,
    ) -> None:
        self.store, self.config = store, config
        self.draws = Draws(seed, size, shard, grow)
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

    def __call__(self, step: int) -> DenseBatch:
        """Return this process's shard of the step's batch."""
        pixels, classes, boxes, sources = zip(*(self._item(rng) for rng in self.draws.items(step)))
        return DenseBatch(
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(np.stack(classes)),
            torch.from_numpy(np.stack(boxes)),
            sources,
        )

    def _item(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """Pixels float32 [S, S, 3], classes and boxes of the patches, and the frame's source."""
        index = int(rng.integers(len(self.store)))
        frames = self.store.frames(index)
        frame = int(rng.integers(len(frames)))
        image = frames[frame]
        ground_truth = self.boxes[index][frame].copy()
        if rng.random() < 0.5:
            image = image[:, ::-1]
            ground_truth[:, [0, 2]] = 1.0 - ground_truth[:, [2, 0]]
        classes, boxes = patch_targets(ground_truth, self.names[index], self.config.grid)
        gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-0.1, 0.1)
        pixels = (image.astype(np.float32) / 127.5 - 1.0) * np.float32(gain) + np.float32(shift)
        return pixels.clip(-1, 1), classes, boxes, f"{self.store.source(index)} frame {frame}"


class DenseStep(nn.Module):
    """Trains vision tower, projector and the heads, and with ``words`` the embeddings of words and
    coordinates."""

    def __init__(self, model: LlavaST, heads: DenseHeads, *, words: bool = True) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        trained = ("vision_tower", "mm_projector", *(("embed_tokens",) if words else ()))
        train_only(model, *(model.model.get_submodule(name) for name in trained))
        for table in coordinate_tables(model):
            table.requires_grad_(words)

    def forward(self, batch: DenseBatch) -> LossTerms:
        """Return ``attribute_loss`` (cross-entropy), ``box_loss`` (two-hot), and logged metrics."""
        model = self.model
        # With LAPE, as in the decoder's input: an edge is then an offset from the patch.
        tokens = model.image_tokens(model.encode_images(batch.pixels)).flatten(0, 1)  # [B * N, D]
        classes, boxes = batch.classes.flatten(0, 1), batch.boxes.flatten(0, 1)
        covered = classes[:, 0] > 0
        weight = torch.where(covered, 1.0, BACKGROUND_WEIGHT)
        attribute_loss = tokens.new_zeros(())
        accuracies = {}
        name_logits = self.heads.names(tokens, model.model.embed_tokens.weight)
        for attribute, (name, logits) in enumerate(zip(("color", "shape", "size"), name_logits)):
            losses = F.cross_entropy(logits, classes[:, attribute], reduction="none")
            attribute_loss = attribute_loss + (losses * weight).sum()
            hits = (logits.argmax(-1) == classes[:, attribute])[covered]
            accuracies[name] = logged_mean(hits)
        box_losses, iou = edge_loss(model, self.heads.edge_states(tokens[covered]), boxes[covered])
        terms = {
            "attribute_loss": LossTerm(attribute_loss, weight.sum()),
            "box_loss": mean_term(box_losses),
        }
        return {**terms, **accuracies, "iou": logged_mean(iou)}


def edge_loss(model: LlavaST, states: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the edges of boxes with logits over the model's output tables.

    Args:
        model: The model.
        states: A state for each edge, [n, 4, D].
        boxes: The true boxes, float32 [n, 4].

    Returns:
        The two-hot cross-entropy of each box, mean over its edges, [n], and the IoU [n] of the most
        probable boxes.
    """
    _, _, _, height, _, width = (table.weight for table in coordinate_tables(model))
    box_losses = boxes.new_zeros(len(boxes))
    estimate = []
    for edge, table in enumerate((width, height, width, height)):
        log_probability = (states[:, edge] @ table.T).float().log_softmax(-1)
        low, high, upper = two_hot(boxes[:, edge], len(table))
        log_likelihood = (1 - upper) * log_probability.gather(1, low[:, None])[:, 0]
        log_likelihood = log_likelihood + upper * log_probability.gather(1, high[:, None])[:, 0]
        box_losses = box_losses - log_likelihood / 4
        estimate.append(log_probability.argmax(-1).float() / (len(table) - 1))
    return box_losses, _iou(torch.stack(estimate, -1), boxes)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return intersection / (area[0] + area[1] - intersection).clamp(min=1e-9)
