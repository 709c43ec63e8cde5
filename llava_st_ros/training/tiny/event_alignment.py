"""A second reading of clips while the language model learns: what moves, where, in every frame.

An answer tells of an event by its two ends, some two tokens in a hundred; whether anything moves in
a frame is hard to learn from so little. Here each fast token, as the decoder sees it after half of
its layers, also says which objects its cell of the frame holds and what is happening to them. The
decoder is causal: a fast token has seen the frames before its own, which is what motion takes. The
heads are thrown away afterwards, like those of dense_alignment.
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
from llava_st_ros.training.tiny.evidence import cell

NAMES = (*COLORS, *SHAPES)
KINDS = tuple(EventKind)
NUM_LABELS = 2 * len(NAMES) + len(KINDS)  # names there, names in an event, kinds of event
NOT_JUDGED = -1
MOVES = 0.01  # of the picture, between two frames
POSITIVE_WEIGHT = 4.0  # most labels are false most of the time


def name_labels(item: SimulatedObject) -> list[int]:
    """Color and shape of an object, as indices of NAMES."""
    return [NAMES.index(item.color), NAMES.index(item.shape)]


def event_labels(clip: SimulatedClip, where: np.ndarray, side: int) -> np.ndarray:
    """What is true of each cell, int8 [F, side * side, NUM_LABELS]: 1, 0, or NOT_JUDGED.

    A frame has side x side cells; ``where`` says which of them each object belongs to (see cells).
    The labels: colors and shapes of the objects there, colors and shapes of those that are the
    subject of an event in this frame, and the kinds of these events. Where an object moves but is
    no subject (it was hit, or is about to stop), nobody is asked what happens: it is not nothing.
    """
    frames = len(clip.frames)
    labels = np.zeros((frames, side * side, NUM_LABELS), dtype=np.int8)
    names = [name_labels(item) for item in clip.objects]
    moves = moving(clip)
    for event in clip.events:
        moves[event.span[0] : event.span[1] + 1, event.subject] = False
    for frame, index in np.argwhere(moves & (where >= 0)):
        labels[frame, where[frame, index], len(NAMES) :] = NOT_JUDGED
    for frame, index in np.argwhere(where >= 0):
        labels[frame, where[frame, index], names[index]] = 1
    for event in clip.events:
        first, last = event.span
        moved = [len(NAMES) + name for name in names[event.subject]]
        moved.append(2 * len(NAMES) + KINDS.index(event.kind))
        for frame in range(first, last + 1):
            if where[frame, event.subject] >= 0:
                labels[frame, where[frame, event.subject], moved] = 1
    return labels


def moving(clip: SimulatedClip) -> np.ndarray:
    """Which objects move towards the next frame or from the last one, bool [F, objects].

    Against the object that moves least, for the camera may shake; what is alone in the picture is
    not said to move.
    """
    centers = (clip.boxes[..., :2] + clip.boxes[..., 2:]) / 2
    steps = np.diff(centers, axis=0)  # NaN to or from where an object is not seen
    lengths = np.linalg.norm(steps, axis=-1)
    least = np.argmin(np.where(np.isnan(lengths), np.inf, lengths), axis=1)
    steps -= steps[np.arange(len(steps)), least][:, None]
    far = np.linalg.norm(steps, axis=-1) > MOVES
    still = np.zeros_like(far[:1])
    return np.concatenate([far, still]) | np.concatenate([still, far])


def cells(clip: SimulatedClip, side: int) -> np.ndarray:
    """The cell that each object's center lies in, int64 [F, objects], -1 where it is not seen."""
    found = np.full(clip.visible.shape, -1, dtype=np.int64)
    for frame, index in np.argwhere(clip.visible):
        found[frame, index] = cell(clip.boxes[frame, index], side)
    return found


class EventHeads(nn.Module):
    """Hidden states of fast tokens [..., D] -> logits [..., NUM_LABELS]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.language.hidden_size
        self.norm = nn.LayerNorm(width)
        self.labels = nn.Linear(width, NUM_LABELS)
        # New heads must not disturb what they read: no gradient passes until they know something.
        nn.init.zeros_(self.labels.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.labels(self.norm(hidden))


def event_loss(heads: EventHeads, hidden: Tensor, labels: Tensor, weight: float = 1.0) -> LossTerms:
    """Binary cross-entropy of hidden states [B, n, D] against labels int8 [B, n, NUM_LABELS].

    ``events``, over what is judged, counts with ``weight``; to log, the F1 score of the names that
    are ``there`` and of what is ``happening``.
    """
    logits = heads(hidden)
    yes, judged = labels == 1, labels != NOT_JUDGED
    losses = F.binary_cross_entropy_with_logits(
        logits,
        yes.float(),
        pos_weight=torch.tensor(POSITIVE_WEIGHT, device=logits.device),
        reduction="none",
    )
    terms = {"events": LossTerm((losses * judged).sum(), judged.sum().float(), weight)}
    sure = logits.detach().sigmoid()
    split = len(NAMES)
    for name, part in (("there", slice(0, split)), ("happening", slice(split, None))):
        true, chosen = yes[..., part], judged[..., part] & (sure[..., part] > 0.5)
        terms[name] = logged_ratio(2 * (chosen & true).sum(), chosen.sum() + true.sum())  # F1
    return terms
