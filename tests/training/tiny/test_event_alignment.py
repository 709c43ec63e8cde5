"""Event labels of cells, and heads that learn them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from llava_st_ros.records import Answer, Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.loop.losses import LossTerm, weighted_sum
from llava_st_ros.training.tiny.attention_alignment import middle_layer
from llava_st_ros.training.tiny.conversations import ConversationEncoder, Lanes, collate
from llava_st_ros.training.tiny.event_alignment import (
    EVENT_KINDS,
    IGNORED,
    NAMES,
    NUM_LABELS,
    POSITIVE_WEIGHT,
    EventHeads,
    event_labels,
    event_loss,
    moving_objects,
    object_cells,
)
from llava_st_ros.training.tiny.stages import ConversationBatch, ConversationStage, ConversationStep
from support.rolling_clip import rolling_clip
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer


def true_labels(labels: np.ndarray) -> set[str]:
    words = [
        *(f"there: {n}" for n in NAMES),
        *(f"subject: {n}" for n in NAMES),
        *(kind.value for kind in EVENT_KINDS),
    ]
    return {words[i] for i in np.flatnonzero(labels == 1)}


def test_labels_are_the_objects_and_events_of_each_cell() -> None:
    labels = event_labels(rolling_clip(), object_cells(rolling_clip(), 2), 2)
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
    assert [[true_labels(cell) for cell in frame] for frame in labels] == expected
    # In frame 0 the ball is about to move: its event labels are ignored.
    ignored = np.argwhere(labels == IGNORED)
    assert {tuple(place) for place in ignored[:, :2]} == {(0, 0)}
    assert sorted(ignored[:, 2]) == list(range(len(NAMES), NUM_LABELS))


def test_camera_shake_is_not_motion() -> None:
    clip = rolling_clip()
    shaken = clip.boxes + np.array([0, 0.03, -0.02, 0], dtype=np.float32)[:, None, None]
    for boxes in (clip.boxes, shaken):
        found = moving_objects(dataclasses.replace(clip, boxes=boxes))
        assert found.tolist() == [[True, False], [True, False], [False, False], [False, False]]


def test_ignored_labels_have_no_loss() -> None:
    heads = EventHeads(tiny_config(tiny_tokenizer()))
    torch.nn.init.normal_(heads.labels.weight)
    hidden = torch.randn(1, 3, heads.labels.in_features)
    labels = torch.randint(0, 2, (1, 3, NUM_LABELS), dtype=torch.int8)
    some = labels.clone()
    some[:, 2, 4:] = IGNORED
    found, kept = event_loss(heads, hidden, some), heads(hidden)[some != IGNORED]
    assert found["event_loss"].denominator == 3 * NUM_LABELS - (NUM_LABELS - 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        kept, labels[some != IGNORED].float(), pos_weight=torch.tensor(POSITIVE_WEIGHT)
    )
    assert torch.allclose(ratio(found["event_loss"]), expected)


def test_heads_learn_labels_from_hidden_states() -> None:
    torch.manual_seed(0)
    config = tiny_config(tiny_tokenizer())
    heads = EventHeads(config)
    labels = torch.from_numpy(
        event_labels(rolling_clip(), object_cells(rolling_clip(), 2), 2)
    ).flatten(0, 1)[None]
    hidden = torch.randn(1, 16, config.language.hidden_size)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.03)
    before = ratio(event_loss(heads, hidden, labels)["event_loss"])
    for _ in range(150):
        terms = event_loss(heads, hidden, labels)
        loss = ratio(terms["event_loss"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * before
    assert ratio(terms["presence_f1"]) > 0.9 and ratio(terms["event_f1"]) > 0.9


def ratio(term: LossTerm) -> torch.Tensor:
    return term.numerator / term.denominator


def test_event_loss_trains_only_the_layers_below() -> None:
    tokenizer = tiny_tokenizer()
    config = dataclasses.replace(tiny_config(tokenizer), compat="paper")
    model, heads = tiny_model(config), EventHeads(config)
    torch.nn.init.normal_(heads.labels.weight)  # as after some training
    encoder = ConversationEncoder(PromptBuilder(tokenizer, config), config, Lanes(1, 50))
    sample = Sample(Task.TVG, "the box", None, None, None, Answer(Task.TVG, span=(1, 7)))
    batch = ConversationBatch(
        collate([encoder.encode([sample], np.random.default_rng(0))]),
        torch.randn(1, config.num_frames, config.tokens_per_frame, 24),
        (torch.rand(1, config.num_fast_tokens, NUM_LABELS) < 0.1).to(torch.int8),
        ("a clip",),
    )
    stage = ConversationStage(1, 1.0, 1, 50, {"TVG": 1.0})

    def loss(stage: ConversationStage) -> torch.Tensor:
        terms = ConversationStep(model, heads, stage)(batch)
        return weighted_sum(terms, [term.denominator for term in terms.values()])

    answers, both = loss(stage), loss(dataclasses.replace(stage, event_weight=2.0))
    model.zero_grad()
    (both - answers).backward()
    moved = [layer.mlp.up_proj.weight.grad for layer in model.model.layers]
    middle = middle_layer(model)
    assert middle == len(moved) // 2
    assert all(g is not None and g.abs().max() > 1e-4 for g in moved[:middle])
    assert all(g is None or g.abs().max() < 1e-6 for g in moved[middle:])
    assert model.model.vision_resampler.token_packer_fast.devide_attention.to_out.weight.grad.any()
