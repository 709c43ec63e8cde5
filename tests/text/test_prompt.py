"""Prompts: the published layout, labels and values, and rejected input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.errors import CheckpointError, QueryError
from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.text.answers import FormattedAnswer, format_answer
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import Question, make_question
from support.text_cases import HALF, TABLES, answers, config, tokenizer

HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


def builder(num_temporal: int = 20) -> PromptBuilder:
    return PromptBuilder(tokenizer(num_temporal), config(num_temporal))


@pytest.mark.parametrize("num_temporal", TABLES)
def test_layout_of_a_video_prompt_is_the_published_one(num_temporal: int) -> None:
    fast, slow = num_temporal * 1, num_temporal // 5 * 9  # a grid of 9
    video = (
        "<vid_start>" + "<vid_patch>" * (fast - 2) + "<vid_end>"
        "<slow_vid_start>" + "<vid_patch>" * (slow - 2) + "<slow_vid_end>"
    )
    asked = make_question(Task.TVG, "the ball drops")
    prompt = builder(num_temporal).build(asked)
    expected = f"{HEAD}{video}\n{asked.text}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(num_temporal).decode(prompt.token_ids.tolist()) == expected
    assert prompt.token_ids.tolist() == tokenizer(num_temporal).encode(expected)
    assert prompt.token_ids.dtype == np.int64
    assert prompt.modality is Modality.VIDEO


def test_layout_of_an_image_prompt_is_the_published_one() -> None:
    asked = make_question(Task.REG, box=HALF)
    prompt = builder().build(asked)
    image = "<im_start>" + "<im_patch>" * 79 + "<im_end>"
    expected = f"{HEAD}{image}\n{asked.text}<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.token_ids.tolist() == tokenizer().encode(expected)
    assert prompt.modality is Modality.IMAGE
    assert prompt.height_inputs == (0.25, 0.75)
    assert prompt.width_inputs == (0.25, 0.75)


def test_sizes_of_the_published_visual_blocks() -> None:
    """100 frames of 27 x 27 patches: 900 fast and 1620 slow tokens, 729 for an image."""
    large = replace(config(100), image_size=384, patch_size=14)
    ids = PromptBuilder(tokenizer(100), large).build(make_question(Task.TVG, "ball")).token_ids
    special = large.special_tokens
    assert int((ids == special.vid_patch).sum()) == 898 + 1618
    image = PromptBuilder(tokenizer(100), large).build(make_question(Task.REC, "ball")).token_ids
    assert int((image == special.im_patch).sum()) == 727


def test_times_are_rows_of_the_table_for_a_shorter_window_too() -> None:
    """The last slot of a window of 50 frames is row 49 of 100."""
    short = PromptBuilder(tokenizer(100), config(100, num_frames=50))
    prompt = short.build(make_question(Task.TR, span=(0.0, 1.0)))
    assert prompt.temporal_inputs == pytest.approx((0.0, 49 / 99))


def test_a_labeled_prompt_marks_the_answers_and_has_their_exact_values() -> None:
    box = Box(0.101, 0.202, 0.303, 0.404)
    first = format_answer(Answer(Task.REC, boxes=((None, box),)), config().coordinates)
    second = format_answer(Answer(Task.REG, caption="a red ball"), config().coordinates)
    turns = [(make_question(Task.REC, "ball"), first), (make_question(Task.REG, box=HALF), second)]
    labeled = builder().build_labeled(turns)
    ids = labeled.prompt.token_ids
    assert tokenizer().decode(ids[labeled.labels_mask].tolist()) == (
        "It appears at [<WIDTH-010><HEIGHT-020><WIDTH-030><HEIGHT-040>]<|im_end|>"
        "a red ball<|im_end|>"
    )
    values = labeled.coordinate_values
    assert values[~np.isnan(values)] == pytest.approx([0.101, 0.202, 0.303, 0.404])
    assert np.array_equal(~np.isnan(values), ids >= tokenizer().vocab_size)
    special = config().special_tokens
    assert int((ids == special.im_start).sum()) == 1  # there is one visual block
    assert labeled.prompt.height_inputs == (0.25, 0.75)
    text = tokenizer().decode(ids.tolist())
    assert text.endswith("\n<|im_start|>assistant\na red ball<|im_end|>")
    assert ids.tolist() == tokenizer().encode(text)


@pytest.mark.parametrize("task", Task)
def test_a_labeled_prompt_starts_with_the_prompt_at_inference(task: Task) -> None:
    asked = make_question(task, "the ball", span=(0.0, 0.5), box=HALF)
    answer = FormattedAnswer("a ball", ())
    labeled = builder().build_labeled([(asked, answer)])
    prompt = builder().build(asked).token_ids
    assert np.array_equal(labeled.prompt.token_ids[: len(prompt)], prompt)
    assert not labeled.labels_mask[: len(prompt)].any()
    assert labeled.labels_mask[len(prompt) :].all()


@given(st.data(), st.sampled_from(list(Task)), st.sampled_from(TABLES))
def test_values_are_at_coordinate_tokens_and_round_to_them(data, task: Task, rows: int) -> None:
    answer = data.draw(answers(task, rows))
    asked = make_question(task, "the ball", span=(0.0, 0.5), box=HALF)
    labeled = builder(rows).build_labeled(
        [(asked, format_answer(answer, config(rows).coordinates))]
    )
    ids, geometry = labeled.prompt.token_ids, config(rows)
    start = geometry.language.vocab_size
    for count in (rows, 100, 100):  # times, heights, widths
        selected = (ids >= start) & (ids < start + count)
        assert np.allclose(labeled.coordinate_values[selected] * (count - 1), ids[selected] - start)
        start += count


def test_special_tokens_in_a_caption_are_tokenized_as_words() -> None:
    answer = format_answer(
        Answer(Task.REG, caption="a <|im_end|> <TEMP-003> ball"), config().coordinates
    )
    labeled = builder().build_labeled([(make_question(Task.REG, box=HALF), answer)])
    answered = labeled.prompt.token_ids[labeled.labels_mask]
    assert (answered[:-1] < tokenizer().chat_start).all()


def test_placeholders_without_values_and_mixed_turns_are_rejected() -> None:
    with pytest.raises(QueryError, match="the question has 2 <TEMP-INPUT> but 1 values"):
        builder().build(Question(Task.TR, "<TEMP-INPUT><TEMP-INPUT>", (0.5,)))
    answer = FormattedAnswer("a ball", ())
    mixed = [(make_question(Task.REC, "ball"), answer), (make_question(Task.TVG, "ball"), answer)]
    with pytest.raises(QueryError, match="same visual input"):
        builder().build_labeled(mixed)
    with pytest.raises(QueryError, match="the answer has 1 coordinate tokens but 0 values"):
        builder().build_labeled(
            [(make_question(Task.REC, "ball"), FormattedAnswer("<WIDTH-003>", ()))]
        )


def test_a_tokenizer_of_another_checkpoint_is_rejected() -> None:
    with pytest.raises(CheckpointError, match="time tokens: 20"):
        PromptBuilder(tokenizer(20), config(100))
