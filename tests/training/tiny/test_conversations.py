"""Training batches: packed turns must give the results of separate prompts."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from llava_st_ros.coordinates import Axis
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.tasks import make_question
from llava_st_ros.training.tiny.attention_targets import box_tokens
from llava_st_ros.training.tiny.conversations import (
    CollatedConversations,
    Lanes,
    collate,
)
from llava_st_ros.training.tiny.stages import decode, embed, weighted_order
from support.tiny_conversations import ROOM, Tiny, video_samples


def hidden(model: LlavaST, batch: CollatedConversations, features: torch.Tensor) -> torch.Tensor:
    return decode(model, batch, features, Modality.VIDEO).last_hidden_state


def test_packed_turns_equal_separate_turns() -> None:
    tiny = Tiny()
    model, features, packed = tiny.model(), tiny.features, tiny.encode(video_samples())
    assert [len(lane) for lane in packed.lanes] == [2, 1]
    prefix = len(packed.prefix)
    with torch.inference_mode():
        together = hidden(model, collate([packed]), features)[0]
        for number, lane in enumerate(packed.lanes):
            start = prefix + number * ROOM.tokens
            for turn in lane:
                only = dataclasses.replace(packed, lanes=((turn,),), lane_tokens=0)
                alone = hidden(model, collate([only]), features)[0]
                length = len(turn.ids)
                assert torch.allclose(together[start : start + length], alone[prefix:], atol=1e-4)
                start += length
        # As a separate prompt, as at inference.
        turn = packed.turns[0]
        ids = torch.from_numpy(np.concatenate([packed.prefix, turn.ids]))
        visual = model.pack(model.project(features[0]), range(tiny.config.num_frames))
        states = model.decode(model.embed_prompt(ids, visual, turn.inputs)[None])[0]
        assert torch.allclose(together[:prefix], states[:prefix], atol=1e-4)
        assert torch.allclose(together[prefix : prefix + len(turn.ids)], states[prefix:], atol=1e-4)


def test_batch_embeddings_equal_embed_prompt() -> None:
    tiny = Tiny()
    model, features = tiny.model(), tiny.features
    conversation = tiny.encode(video_samples()[1:2], lanes=Lanes(1, 10))
    batch = collate([conversation])
    with torch.inference_mode():
        ours = embed(model, batch, features, Modality.VIDEO)[0]
        visual = model.pack(model.project(features[0]), range(tiny.config.num_frames))
        turn = conversation.turns[0]
        expected = model.embed_prompt(
            batch.ids[0],
            visual,
            turn.inputs,
        )
    assert turn.inputs[Axis.WIDTH] and turn.inputs[Axis.TIME]
    assert torch.allclose(ours, expected, atol=1e-5)


def test_labels_are_the_answer_with_exact_values() -> None:
    tiny = Tiny()
    conversation = tiny.encode(video_samples()[2:])
    turn = conversation.turns[0]
    answered = turn.ids[turn.answer_mask]
    text = tiny.tokenizer.decode(answered.tolist())
    assert text == "During the period {<TEMP-001><TEMP-007>}<|im_end|>"
    values = turn.values[turn.answer_mask]
    assert np.allclose(values[~np.isnan(values)], [1 / 9, 7 / 9])
    asked = make_question(Task.TVG, "the box", template=0)
    prompt = tiny.builder.build(asked)
    assert np.array_equal(
        np.concatenate([conversation.prefix, turn.ids[~turn.answer_mask]]), prompt.token_ids
    )


def decision_text(task: Task, sample: Sample) -> list[str]:
    tiny = Tiny()
    turn = tiny.encode([sample]).turns[0]
    assert sample.task is task and not (turn.decision_mask & ~turn.answer_mask).any()
    return [tiny.tokenizer.decode([int(i)]) for i in turn.ids[turn.decision_mask]]


def test_decision_tokens_of_a_tube_are_its_span_and_first_left_edge() -> None:
    tiny = Tiny()
    config = tiny.config
    first = [tiny.tokenizer.decode(tiny.tokenizer.encode("During")[:1])]
    stvg, elc, tvg = video_samples()
    left = f"<WIDTH-{round(0.13 * (config.num_spatial_tokens - 1)):03d}>"
    span = ["<TEMP-002>", "<TEMP-004>"]
    assert decision_text(Task.STVG, stvg) == [*first, *span, left]
    assert decision_text(Task.ELC, elc) == ["<TEMP-004>", left]
    assert decision_text(Task.TVG, tvg) == [*first, "<TEMP-001>", "<TEMP-007>"]


def test_left_edge_of_a_box_that_has_moved_far_is_a_decision_token() -> None:
    """Boxes are 0.2 wide and 0.4 high; more than 0.1 across or 0.2 down is far."""
    config = Tiny().config
    left, top = [0.1, 0.19, 0.31, 0.31, 0.32], [0.1, 0.1, 0.1, 0.29, 0.5]
    boxes = tuple((f, Box(x, y, x + 0.2, y + 0.4)) for f, (x, y) in enumerate(zip(left, top)))
    answer = Answer(Task.STVG, span=(0, 4), boxes=boxes)
    sample = Sample(Task.STVG, "the ball rolls", None, None, None, answer)
    rows = [round(left[i] * (config.num_spatial_tokens - 1)) for i in (0, 2, 4)]
    decisions = decision_text(Task.STVG, sample)
    assert decisions[-3:] == [f"<WIDTH-{row:03d}>" for row in rows]
    assert len(decisions) == 6  # the first word and the span


def test_first_word_attends_to_the_described_object() -> None:
    """In all frames in which it is visible, for both answers."""
    tiny = Tiny()
    box = Box(0.1, 0.1, 0.3, 0.3)
    subject = ((0, box), (3, box))
    expected = np.any(
        [box_tokens(frame, box, Modality.VIDEO, tiny.config) for frame, _ in subject], axis=0
    )
    for answer in (Answer(Task.TVG, no_match=True), Answer(Task.TVG, span=(0, 3))):
        sample = Sample(Task.TVG, "the ball", None, None, None, answer, subject=subject)
        turn = tiny.encode([sample]).turns[0]
        assert turn.attention_positions[0] == np.flatnonzero(turn.answer_mask)[0]
        np.testing.assert_array_equal(turn.attention_targets[0], expected)
        assert len(turn.attention_positions) == 1  # TVG has no other evidence here


def test_first_word_is_the_decision_token_of_no_match() -> None:
    tiny = Tiny()
    nothing = Answer(Task.TVG, no_match=True)
    sample = Sample(Task.TVG, "the box", None, None, None, nothing)
    ids = tiny.tokenizer.encode("Nothing matches.")
    assert decision_text(Task.TVG, sample) == [tiny.tokenizer.decode(ids[:1])]
    turn = tiny.encode([sample]).turns[0]
    assert turn.ids[turn.answer_mask].tolist() == [*ids, tiny.tokenizer.chat_end]
    assert len(turn.attention_positions) == 0  # no attention targets


def test_every_left_edge_in_an_image_is_a_decision_token() -> None:
    config = Tiny().config
    boxes = (("a red ball", Box(0.1, 0.2, 0.3, 0.4)), ("a box", Box(0.5, 0.6, 0.7, 0.8)))
    answer = Answer(Task.DGC, caption="a red ball and a box", phrases=boxes)
    sample = Sample(Task.DGC, "", None, None, 0, answer)
    rows = [round(x * (config.num_spatial_tokens - 1)) for x in (0.1, 0.5)]
    assert decision_text(Task.DGC, sample) == [f"<WIDTH-{row:03d}>" for row in rows]


def test_decision_tokens_have_the_decision_weight() -> None:
    tiny = Tiny()
    model, batch = tiny.model(), collate([tiny.encode(video_samples())])
    with torch.inference_mode():
        total, means = tiny.loss(model, batch)
        heavy, _ = tiny.loss(model, batch, decision_weight=1e6)
    decisions = int(batch.decision_mask.sum())
    # Two tubes with a left edge each; the first word of STVG and TVG.
    times = decisions - 2 - 2
    expected = means["video_span"] * times + means["video_left"] * 2 + means["video_match"] * 2
    expected /= decisions
    assert abs(heavy.item() - expected) < 1e-3
    assert abs(total.item() - expected) > 1e-2
    with torch.inference_mode():
        first_words, means = tiny.loss(model, batch, match_weight=1e6)
    assert abs(first_words.item() - means["video_match"]) < 1e-3


def test_full_conversation_drops_turns_but_keeps_one() -> None:
    assert len(Tiny().encode(video_samples(), lanes=Lanes(1, 1)).turns) == 1


def test_loss_falls_when_the_answer_is_learned() -> None:
    tiny = Tiny()
    model, batch = tiny.model(), collate([tiny.encode(video_samples())])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss, means = tiny.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    kinds = {"match", "text", "span", "time", "left", "space"}
    assert {f"video_{kind}" for kind in kinds} | {"video_answer_loss"} == set(means)


def test_weighted_order_follows_the_mix_and_drops_weight_zero() -> None:
    rng = np.random.default_rng(0)
    samples = [(s.task.value, s) for s in video_samples()]
    # The number of samples of a task does not matter.
    samples += 20 * [sample for sample in samples if sample[0] == "STVG"]
    order = [weighted_order(samples, {"STVG": 1.0, "TVG": 9.0}, rng) for _ in range(200)]
    assert all({s.task for s in chosen} == {Task.STVG, Task.TVG} for chosen in order)
    first = sum(chosen[0].task is Task.TVG for chosen in order)
    assert 150 < first < 200  # nine in ten on average
