"""The attention targets of an answer, and decoder heads trained to attend to them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from llava_st_ros.config import ModelConfig
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.training.loop.losses import weighted_sum
from llava_st_ros.training.tiny.attention_alignment import attention, attention_loss, middle_layer
from llava_st_ros.training.tiny.attention_targets import box_tokens
from llava_st_ros.training.tiny.conversations import (
    CollatedConversations,
    ConversationEncoder,
    Lanes,
    Turn,
    collate,
)
from llava_st_ros.training.tiny.event_alignment import EventHeads
from llava_st_ros.training.tiny.stages import (
    ConversationBatch,
    ConversationStage,
    ConversationStep,
    decode,
    embed,
)
from support.stream_config import stream_config
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer

# Upper left. In a grid of 8 it covers columns 1 and 2 of row 1.
BOX = Box(0.15, 0.15, 0.35, 0.24)
TUBE = ((6, BOX), (7, Box(0.6, 0.1, 0.7, 0.3)))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def stream_tokenizer() -> Tokenizer:
    return tiny_tokenizer(20, 100)


def fast(frame: int, row: int, column: int) -> int:
    return frame * 4 + row * 2 + column


def slow(step: int, row: int, column: int) -> int:
    return 20 * 4 + step * 16 + row * 4 + column


def encode(samples: list[Sample], tokenizer: Tokenizer, config: ModelConfig) -> tuple[Turn, ...]:
    encoder = ConversationEncoder(PromptBuilder(tokenizer, config), config, Lanes(1, 200))
    return encoder.encode(samples, np.random.default_rng(0)).turns


def found_targets(sample: Sample, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """The text of each token with attention targets, and the targets."""
    (turn,) = encode([sample], tokenizer, stream_config(tokenizer))
    return [
        (tokenizer.decode([int(turn.ids[position])]), np.flatnonzero(targets).tolist())
        for position, targets in zip(turn.attention_positions, turn.attention_targets)
    ]


def video(task: Task, answer: Answer, **more: object) -> Sample:
    return Sample(task, "the ball", None, None, None, answer, **more)  # type: ignore[arg-type]


def test_boxes_of_a_slow_object_are_shown_by_slow_tokens_too(stream_tokenizer: Tokenizer) -> None:
    near = Box(0.2, 0.15, 0.4, 0.24)
    tube = ((6, BOX), (7, near), (8, Box(0.8, 0.1, 0.9, 0.2)))
    found = found_targets(
        video(Task.STVG, Answer(Task.STVG, span=(6, 8), boxes=tube)), stream_tokenizer
    )
    by_token = [targets for text, targets in found if text.startswith("<WIDTH")]
    # The last step is far: both of its boxes count as moving.
    assert by_token == [
        [fast(6, 0, 0), slow(1, 0, 1)],
        [fast(7, 0, 0)],
        [fast(8, 0, 1)],
    ]


def test_box_in_an_image_is_shown_by_the_patches_it_covers(stream_tokenizer: Tokenizer) -> None:
    config = stream_config(stream_tokenizer)
    assert np.flatnonzero(box_tokens(None, BOX, Modality.IMAGE, config)).tolist() == [9, 10]
    # Too small to cover the center of a patch: the patch at its own center.
    small = Box(0.64, 0.9, 0.66, 0.92)
    assert np.flatnonzero(box_tokens(None, small, Modality.IMAGE, config)).tolist() == [7 * 8 + 5]


def test_targets_of_a_left_edge_are_those_of_its_box(stream_tokenizer: Tokenizer) -> None:
    phrases = (("a ball", BOX), ("a box", Box(0.64, 0.9, 0.66, 0.92)))
    answer = Answer(Task.DGC, caption="a ball and a box", phrases=phrases)
    found = found_targets(Sample(Task.DGC, "", None, None, 0, answer), stream_tokenizer)
    assert found == [("<WIDTH-015>", [9, 10]), ("<WIDTH-063>", [61])]


def test_targets_of_times_are_the_tube_and_of_boxes_their_frame(
    stream_tokenizer: Tokenizer,
) -> None:
    first, second = [fast(6, 0, 0), slow(1, 0, 1)], [fast(7, 0, 1), slow(1, 0, 2)]
    tube = sorted(first + second)
    found = found_targets(
        video(Task.STVG, Answer(Task.STVG, span=(6, 7), boxes=TUBE)), stream_tokenizer
    )
    assert sorted(found) == [
        # Both ends of the span; the times of the boxes follow from it.
        ("<TEMP-006>", tube),
        ("<TEMP-007>", tube),
        # The ball is fast: a slow token shows both frames.
        ("<WIDTH-015>", first[:1]),
        ("<WIDTH-059>", second[:1]),
    ]


def test_targets_of_a_span_without_boxes_are_the_subjects_tube(stream_tokenizer: Tokenizer) -> None:
    tube = [fast(6, 0, 0), fast(7, 0, 1), slow(1, 0, 1), slow(1, 0, 2)]
    answer = Answer(Task.TVG, span=(6, 7))
    found = found_targets(video(Task.TVG, answer, tube=TUBE), stream_tokenizer)
    assert found == [("<TEMP-006>", tube), ("<TEMP-007>", tube)]
    assert found_targets(video(Task.TVG, answer), stream_tokenizer) == []  # no tube is known


def tiny(
    tokenizer: Tokenizer, heads: int = 4, key_heads: int = 2
) -> tuple[LlavaST, ConversationBatch]:
    """A model with heads of size 8, and two clips with a tube and a span each."""
    config = dataclasses.replace(tiny_config(tokenizer), compat="paper")
    language = dataclasses.replace(
        config.language,
        hidden_size=8 * heads,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )
    config = dataclasses.replace(config, language=language)
    encoder = ConversationEncoder(PromptBuilder(tokenizer, config), config, Lanes(2, 300))
    boxes = tuple((t, Box(0.1, 0.2, 0.3, 0.4 + t / 100)) for t in (2, 3))
    samples = [
        video(Task.STVG, Answer(Task.STVG, span=(2, 3), boxes=boxes)),
        video(Task.TVG, Answer(Task.TVG, span=(2, 3)), tube=boxes),
    ]
    rng = np.random.default_rng(0)
    conversations = collate([encoder.encode(order, rng) for order in (samples, samples[:0:-1])])
    frames, tokens = config.num_frames, config.tokens_per_frame
    features = torch.randn(2, frames, tokens, config.vision.hidden_size)
    return tiny_model(config), ConversationBatch(conversations, features, None, ("a", "b"))


def test_trained_attention_equals_the_decoders_attention(tokenizer: Tokenizer) -> None:
    model, batch = tiny(tokenizer)
    model.model.set_attn_implementation("eager")
    conversations = batch.conversations
    with torch.inference_mode():
        states = decode(model, conversations, batch.features, Modality.VIDEO).hidden_states
        maps: list[torch.Tensor] = []
        inner = model.model.layers[middle_layer(model)].self_attn
        inner.register_forward_hook(lambda _module, _inputs, output: maps.append(output[1]))
        model.model(
            inputs_embeds=embed(model, conversations, batch.features, Modality.VIDEO),
            attention_mask=torch.where(full_mask(conversations), 0.0, -1e9),
            position_ids=conversations.positions,
        )
        ours = attention(model, conversations, states[middle_layer(model)])
    rows, places = conversations.attention_positions.T
    expected = maps[0][rows, : ours.shape[1], places].gather(
        2, key_positions(conversations, ours.shape[1])
    )
    assert len(ours) == 6 + 2  # two ends and two left edges; two ends
    assert torch.allclose(ours, expected, atol=1e-5)
    # The state before a token predicts it.
    assert conversations.answer_mask[rows, places + 1].all()


def full_attention(
    model: LlavaST, batch: CollatedConversations, hidden: torch.Tensor
) -> torch.Tensor:
    """The result of ``attention``, computed from the scores of all heads and positions."""
    layer = model.model.layers[middle_layer(model)]
    inner, states = layer.self_attn, layer.input_layernorm(hidden)
    query, key = (
        part(states).unflatten(-1, (-1, inner.head_dim)).transpose(1, 2)
        for part in (inner.q_proj, inner.k_proj)
    )
    rotary = model.model.rotary_emb(states, position_ids=batch.positions)
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    scores = query @ repeat_kv(key, inner.num_key_value_groups).mT * inner.scaling  # [B, h, L, L]
    shares = scores.masked_fill(~full_mask(batch), -torch.inf).softmax(-1)
    rows, places = batch.attention_positions.T
    trained_heads = max(1, query.shape[1] // 2)
    return shares[rows, :trained_heads, places].gather(2, key_positions(batch, trained_heads))


def full_mask(batch: CollatedConversations) -> torch.Tensor:
    """Which positions each position attends to, bool [B, 1, L, L]."""
    (rows, length), (tokens, width) = batch.ids.shape, batch.attention_mask.shape[-2:]
    prefix = width - tokens
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bool)
    mask[:, :, :prefix, :prefix] = torch.ones(prefix, prefix).tril().bool()
    for lane, visible in enumerate(batch.attention_mask):
        row, number = divmod(lane, len(batch.attention_mask) // rows)
        place = slice(prefix + number * tokens, prefix + (number + 1) * tokens)
        mask[row, 0, place, :prefix] = visible[0, :, :prefix]
        mask[row, 0, place, place] = visible[0, :, prefix:]
    return mask


def key_positions(batch: CollatedConversations, heads: int) -> torch.Tensor:
    """The positions of ``attention``'s last axis, int64 [n, heads, P + T]: prefix and lane."""
    tokens, width = batch.attention_mask.shape[-2:]
    prefix = width - tokens
    starts = [
        prefix + (int(p) - prefix) // tokens * tokens for p in batch.attention_positions[:, 1]
    ]
    rows = [[*range(prefix), *range(start, start + tokens)] for start in starts]
    return torch.tensor(rows)[:, None].expand(-1, heads, -1)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (4, 4), (6, 2), (6, 3), (2, 1), (1, 1)])
def test_attention_at_single_positions_equals_full_attention(
    tokenizer: Tokenizer, heads: int, key_heads: int
) -> None:
    model, batch = tiny(tokenizer, heads, key_heads)
    model, conversations = model.double(), batch.conversations
    hidden = torch.randn(*conversations.ids.shape, 8 * heads, dtype=torch.float64)
    hidden.requires_grad_()
    ours, theirs = (of(model, conversations, hidden) for of in (attention, full_attention))
    expected = (
        len(conversations.attention_positions),
        max(1, heads // 2),
        conversations.attention_mask.shape[-1],
    )
    assert ours.shape == theirs.shape == expected
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    weights = torch.randn_like(ours)
    inner = model.model.layers[middle_layer(model)].self_attn
    learned = (hidden, inner.q_proj.weight, inner.k_proj.weight)
    gradients = [
        torch.autograd.grad((shares * weights).sum(), learned) for shares in (ours, theirs)
    ]
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(*gradients))
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients[0])


def test_heads_learn_to_attend_to_their_targets(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model, batch = tiny(tokenizer)
    stage = ConversationStage(2, 1.0, 2, 300, {"REC": 1.0}, attention_weight=1.0)
    step = ConversationStep(model, EventHeads(model.config), stage)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    shares = []
    for _ in range(25):
        terms = step(batch)
        loss = weighted_sum(terms, [term.denominator for term in terms.values()])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(
            terms["video_attention_share"].numerator / terms["video_attention_share"].denominator
        )
    assert shares[0] < 0.2 and shares[-1] > 2 * shares[0]


def test_batch_without_attention_targets_has_no_attention_loss(tokenizer: Tokenizer) -> None:
    model, batch = tiny(tokenizer)
    hidden = torch.randn(2, batch.conversations.ids.shape[1], model.config.language.hidden_size)
    none = dataclasses.replace(
        batch.conversations,
        attention_positions=torch.zeros(0, 2, dtype=torch.int64),
        attention_targets=torch.zeros(0, 5, dtype=torch.bool),
    )
    terms = attention_loss(model, none, hidden, 0)
    assert terms.keys() == {"attention_loss", "attention_share"}
    assert all(term.numerator == 0 and term.denominator == 0 for term in terms.values())
    assert weighted_sum(terms, [term.denominator for term in terms.values()]) == 0
