"""An auxiliary loss on clips: which objects are where, and what happens to them, in every frame.

An answer describes an event by its two ends, about two tokens in a hundred, which is little to
learn motion from. Here each fast token, half-way up the decoder, also predicts which objects its
cell of the frame holds and what is happening to them. The decoder is causal, so a fast token has
seen the earlier frames, which motion requires. The heads are discarded after training, as in
dense_alignment.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_st_ros.config import ModelConfig
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_ratio
from llava_st_ros.training.tiny.attention_targets import center_cell

NAMES = (*COLORS, *SHAPES)
EVENT_KINDS = tuple(EventKind)
# Names of the objects present, names of the subjects of events, kinds of events.
NUM_LABELS = 2 * len(NAMES) + len(EVENT_KINDS)
IGNORED = -1  # a label without a loss
MOTION_THRESHOLD = 0.01  # fraction of the frame, between two frames
POSITIVE_WEIGHT = 4.0  # most labels are mostly false


def name_labels(item: SimulatedObject) -> list[int]:
    """The indices of an object's color and shape in NAMES."""
    return [NAMES.index(item.color), NAMES.index(item.shape)]


def event_labels(clip: SimulatedClip, cells: np.ndarray, side: int) -> np.ndarray:
    """Return the labels of each cell: 1, 0 or IGNORED.

    The labels are colors and shapes of the objects in the cell, colors and shapes of those that
    are the subject of an event in this frame, and the kinds of these events. Where an object moves
    but is no subject (it was hit, or is about to stop), the labels of events are ignored.

    Args:
        clip: F frames.
        cells: The cell of each object, int64 [F, objects], as ``object_cells`` returns them.
        side: A frame has side x side cells.

    Returns:
        Int8 [F, side * side, NUM_LABELS].
    """
    frames = len(clip.frames)
    labels = np.zeros((frames, side * side, NUM_LABELS), dtype=np.int8)
    names = [name_labels(item) for item in clip.objects]
    moves = moving_objects(clip)
    for event in clip.events:
        moves[event.span[0] : event.span[1] + 1, event.subject] = False
    for frame, index in np.argwhere(moves & (cells >= 0)):
        labels[frame, cells[frame, index], len(NAMES) :] = IGNORED
    for frame, index in np.argwhere(cells >= 0):
        labels[frame, cells[frame, index], names[index]] = 1
    for event in clip.events:
        first, last = event.span
        event_indices = [len(NAMES) + name for name in names[event.subject]]
        event_indices.append(2 * len(NAMES) + EVENT_KINDS.index(event.kind))
        for frame in range(first, last + 1):
            if cells[frame, event.subject] >= 0:
                labels[frame, cells[frame, event.subject], event_indices] = 1
    return labels


def moving_objects(clip: SimulatedClip) -> np.ndarray:
    """Mask the objects that move to the next frame or from the previous one, bool [F, objects].

    Motion is relative to the object that moves least, because the camera may shake. An object that
    is alone in the frame therefore never moves.
    """
    centers = (clip.boxes[..., :2] + clip.boxes[..., 2:]) / 2
    steps = np.diff(centers, axis=0)  # NaN to or from a frame in which the object is hidden
    lengths = np.linalg.norm(steps, axis=-1)
    reference = np.argmin(np.where(np.isnan(lengths), np.inf, lengths), axis=1)
    steps -= steps[np.arange(len(steps)), reference][:, None]
    moved = np.linalg.norm(steps, axis=-1) > MOTION_THRESHOLD
    no_motion = np.zeros_like(moved[:1])
    return np.concatenate([moved, no_motion]) | np.concatenate([no_motion, moved])


def object_cells(clip: SimulatedClip, side: int) -> np.ndarray:
    """The cell of each object's center, int64 [F, objects]; -1 where it is hidden."""
    cells = np.full(clip.is_visible.shape, -1, dtype=np.int64)
    for frame, index in np.argwhere(clip.is_visible):
        cells[frame, index] = center_cell(clip.boxes[frame, index], side)
    return cells


class EventHeads(nn.Module):
    """Hidden states of fast tokens [..., D] -> logits [..., NUM_LABELS]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.language.hidden_size
        self.norm = nn.LayerNorm(width)
        self.labels = nn.Linear(width, NUM_LABELS)
        # Untrained heads must not disturb the decoder: with zero weights no gradient reaches it.
        nn.init.zeros_(self.labels.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.labels(self.norm(hidden))


def event_loss(heads: EventHeads, hidden: Tensor, labels: Tensor, weight: float = 1.0) -> LossTerms:
    """Return the binary cross-entropy of the labels that are not ignored.

    Args:
        heads: The heads.
        hidden: Hidden states [B, n, D].
        labels: Int8 [B, n, NUM_LABELS].
        weight: Weight of the term ``event_loss``.

    Returns:
        ``event_loss``, and, only logged, two F1 scores: ``presence_f1`` of the objects present and
        ``event_f1`` of the events.
    """
    logits = heads(hidden)
    positive, labeled = labels == 1, labels != IGNORED
    losses = F.binary_cross_entropy_with_logits(
        logits,
        positive.float(),
        pos_weight=torch.tensor(POSITIVE_WEIGHT, device=logits.device),
        reduction="none",
    )
    terms = {"event_loss": LossTerm((losses * labeled).sum(), labeled.sum().float(), weight)}
    probability = logits.detach().sigmoid()
    split = len(NAMES)
    for name, kind in (("presence_f1", slice(0, split)), ("event_f1", slice(split, None))):
        true = positive[..., kind]
        predicted = labeled[..., kind] & (probability[..., kind] > 0.5)
        f1 = logged_ratio(2 * (predicted & true).sum(), predicted.sum() + true.sum())
        terms[name] = f1
    return terms
