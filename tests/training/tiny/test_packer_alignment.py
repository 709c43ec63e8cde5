"""The targets of packed tokens, and that the stage trains only the packers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from llava_st_ros.training.loop.loop import LoopConfig, run
from llava_st_ros.training.loop.losses import LossTerms, weighted_sum
from llava_st_ros.training.tiny.event_alignment import NAMES, NUM_LABELS, object_cells
from llava_st_ros.training.tiny.packer_alignment import (
    PackerBatch,
    PackerHeads,
    PackerStep,
    stream_targets,
)
from support.rolling_clip import BALL, BOX, rolling_clip
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer


def test_object_cells_follow_the_centers() -> None:
    assert object_cells(rolling_clip(), 2).tolist() == [[0, 3], [0, 3], [1, -1], [1, -1]]
    assert object_cells(rolling_clip(), 4)[0].tolist() == [0, 14]


def test_targets_of_a_fast_token_come_from_its_frame() -> None:
    clip = rolling_clip()
    targets = stream_targets([clip, clip], 2, 1)
    assert targets.labels.shape == (2, 4 * 4, NUM_LABELS)
    first = [0, 3, 4, 7, 9, 13]  # frame * 4 + cell of each visible object
    assert targets.tokens.tolist() == first + [16 + token for token in first]
    ball = [NAMES.index(BALL.color), NAMES.index(BALL.shape)]
    assert targets.names[0].tolist() == targets.names[4].tolist() == ball
    assert np.allclose(targets.boxes[5], clip.boxes[3, 0])


def test_boxes_of_a_slow_token_come_from_the_middle_of_its_frames() -> None:
    clip = rolling_clip()
    targets = stream_targets([clip], 2, 2)
    assert targets.tokens.tolist() == [0, 3, 4 + 1]
    assert np.allclose(targets.boxes.numpy(), clip.boxes[[1, 1, 3], [0, 1, 0]])
    # Objects and events of any of the frames.
    rolled = targets.labels[0].reshape(2, 4, NUM_LABELS)[:, :, len(NAMES) :]
    rolled = (rolled == 1).any(-1)
    assert rolled.tolist() == [[True, False, False, False], [False, True, False, False]]


def test_only_the_packers_are_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    model = tiny_model(config)
    heads = PackerHeads(config, tokenizer.encode)
    frames, side = config.num_frames, config.fast_side
    clip = rolling_clip()
    clip = dataclasses.replace(
        clip,
        frames=np.zeros((frames, 8, 8, 3), dtype=np.uint8),
        boxes=clip.boxes[np.arange(frames) % 4],
        objects=(BALL, BOX),
        stamps=np.arange(float(frames)),
    )
    features = torch.randn(1, frames, config.tokens_per_frame, config.vision.hidden_size)
    length = config.packer.temporal_region
    fast = stream_targets([clip], side, 1)
    slow = stream_targets([clip], config.slow_side, length)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = PackerBatch(features, fast, slow, ("a clip",))
    step = PackerStep(model, heads)

    def loss(terms: LossTerms) -> torch.Tensor:
        return weighted_sum(terms, [term.denominator for term in terms.values()])

    terms = step(batch)
    assert {"fast_iou", "slow_iou", "fast_presence_f1", "slow_event_f1"} <= set(terms)
    first = loss(terms).item()
    run("packers", step, lambda _: batch, LoopConfig(steps=40, rate=0.01, warmup=5), tmp_path)
    assert loss(step(batch)) < 0.5 * first
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("vision_resampler" in name for name in changed)
    assert {name.split(".")[2] for name in changed} == {
        "token_packer",
        "token_packer_fast",
        "token_packer_slow",
    }
