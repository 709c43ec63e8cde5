"""What the second reading of clips asks of each cell, and that heads can learn it."""

from __future__ import annotations

import numpy as np
import torch
from tiny_model import tiny_config, tiny_tokenizer

from llava_st_ros.training.event_alignment import (
    KINDS,
    NAMES,
    NUM_LABELS,
    EventHeads,
    event_labels,
    event_loss,
)
from llava_st_ros.training.events import EventKind
from llava_st_ros.training.scenes import SimulatedObject
from llava_st_ros.training.simulator import SimulatedClip, SimulatedEvent

BALL = SimulatedObject("red", "ball", "small", 0.05)
BOX = SimulatedObject("blue", "box", "large", 0.07)


def clip() -> SimulatedClip:
    """The ball rolls from the upper left to the upper right in frames 1 and 2; the box hides."""
    hidden = [np.nan] * 4
    boxes = [
        [[0.1, 0.1, 0.2, 0.2], [0.6, 0.7, 0.8, 0.9]],
        [[0.3, 0.1, 0.4, 0.2], [0.6, 0.7, 0.8, 0.9]],
        [[0.7, 0.1, 0.8, 0.2], hidden],
        [[0.9, 0.1, 1.0, 0.2], hidden],
    ]
    return SimulatedClip(
        seed=0,
        frames=np.zeros((4, 8, 8, 3), dtype=np.uint8),
        boxes=np.array(boxes, dtype=np.float32),
        objects=(BALL, BOX),
        events=(SimulatedEvent(EventKind.ROLLS, 0, None, (1, 2)),),
        stamps=np.arange(4.0),
    )


def said(labels: np.ndarray) -> set[str]:
    words = [
        *(f"there: {n}" for n in NAMES),
        *(f"subject: {n}" for n in NAMES),
        *(kind.value for kind in KINDS),
    ]
    return {words[i] for i in np.flatnonzero(labels)}


def test_labels_say_what_each_cell_holds_and_what_happens_there() -> None:
    labels = event_labels(clip(), 2)
    assert labels.shape == (4, 4, NUM_LABELS)
    ball = {"there: red", "there: ball"}
    rolling = ball | {"subject: red", "subject: ball", "rolls"}
    box = {"there: blue", "there: box"}
    expected = [
        [ball, set(), set(), box],
        [rolling, set(), set(), box],
        [set(), rolling, set(), set()],
        [set(), ball, set(), set()],
    ]
    assert [[said(cell) for cell in frame] for frame in labels] == expected


def test_heads_learn_labels_that_the_hidden_states_hold() -> None:
    torch.manual_seed(0)
    config = tiny_config(tiny_tokenizer())
    heads = EventHeads(config)
    labels = torch.from_numpy(event_labels(clip(), 2)).flatten(0, 1)[None]
    hidden = torch.randn(1, 16, config.language.hidden_size)
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.03)
    before, _ = event_loss(heads, hidden, labels)
    for _ in range(150):
        loss, parts = event_loss(heads, hidden, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.2 * before
    assert parts["there"] > 0.9 and parts["happening"] > 0.9
