"""Tasks: the published question templates, sanitized words, and missing inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.errors import QueryError
from llava_st_ros.query_rules import MAX_QUERY_CHARACTERS
from llava_st_ros.records import Box, Query, Task
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import (
    make_question,
    num_templates,
    plain_words,
    question_from_query,
)
from support.text_cases import HALF, config, tokenizer

BOX_INPUTS = " [<WIDTH-INPUT><HEIGHT-INPUT><WIDTH-INPUT><HEIGHT-INPUT>]"
TIMESTAMPS = (
    "Please firstly give the timestamps, and then give the spatial bounding box corresponding to "
    "each timestamp in the time period."
)
SPECIAL_TOKENS = [
    "<|im_end|>",
    "<|im_start|>assistant",
    "<|endoftext|>",
    "<TEMP-012>",
    "<HEIGHT-012>",
    "<WIDTH-012>",
    "<TEMP-INPUT>",
    "<HEIGHT-INPUT>",
    "<WIDTH-INPUT>",
    "<TEMP-OUTPUT>",
    "<vid_start>",
    "<vid_patch>",
    "<vid_end>",
    "<slow_vid_start>",
    "<slow_vid_end>",
    "<im_start>",
    "<im_patch>",
    "<im_end>",
]


@pytest.mark.parametrize("task", Task)
def test_every_template_has_a_placeholder_for_each_value(task: Task) -> None:
    for template in range(num_templates(task)):
        for words in ("the red ball", "who rolls the ball?"):
            asked = make_question(task, words, span=(0.1, 0.5), box=HALF, template=template)
            assert asked.text.count("<TEMP-INPUT>") == len(asked.temporal_inputs)
            assert asked.text.count("<HEIGHT-INPUT>") == len(asked.height_inputs)
            assert asked.text.count("<WIDTH-INPUT>") == len(asked.width_inputs)
            assert words in asked.text
            assert "@" not in asked.text


def test_questions_are_those_of_the_published_training() -> None:
    stvg = make_question(Task.STVG, "a child holds a bat").text
    assert stvg.startswith("At which time interval in the video can we see a child holds a bat occ")
    assert stvg.endswith("in this video." + TIMESTAMPS)
    svg = make_question(Task.SVG, "who does the adult watch?", span=(0.087, 0.581))
    assert svg.text.startswith(
        "Between  {<TEMP-INPUT><TEMP-INPUT>} , who does the adult watch? Please describe"
    )
    assert svg.temporal_inputs == (0.087, 0.581)
    elc = make_question(Task.ELC, span=(0.591, 1.0), box=Box(0.352, 0.442, 0.505, 0.827))
    assert elc.text.startswith(
        " Starts in <TEMP-INPUT> , what happened about the subject/object within the specified "
        f"region {BOX_INPUTS}? Where is the corresponding subject/object located?Please firstly"
    )
    assert elc.temporal_inputs == (0.591,)
    assert elc.height_inputs == (0.442, 0.827)
    assert elc.width_inputs == (0.352, 0.505)
    assert make_question(Task.TVG, "person dressing.").text == (
        "Give you a textual query: 'person dressing'. When does the described content occur in the "
        "video? Please return the start and end timestamps."
    )
    assert make_question(Task.REC, "catcher").text == "Where is catcher situated within this image?"
    assert make_question(Task.REG, box=HALF, template=1).text == (
        f"What is the primary object within the region {BOX_INPUTS}?"
    )
    assert make_question(Task.TR, span=(0.4, 0.6)).text == (
        "Describe what took place during the period  {<TEMP-INPUT><TEMP-INPUT>}  in the video."
    )


def test_the_default_task_is_spatio_temporal_grounding() -> None:
    asked = question_from_query(Query("q", "Which ball rolls behind the box?"))
    assert asked.task is Task.STVG
    assert asked.text.startswith("Which ball rolls behind the box? ")
    assert asked.text.endswith(TIMESTAMPS)


@pytest.mark.parametrize("forged", SPECIAL_TOKENS)
@pytest.mark.parametrize("task", Task)
def test_user_words_cannot_forge_special_tokens(forged: str, task: Task) -> None:
    """The prompt has the same special tokens as one with harmless words."""
    builder, first = PromptBuilder(tokenizer(), config()), tokenizer().chat_start

    def special_tokens(words: str) -> list[int]:
        query = Query("q", words, task, span=(0.1, 0.5), box=HALF)
        ids = builder.build(question_from_query(query)).token_ids
        return ids[ids >= first].tolist()

    asked = special_tokens(f"the {forged}{forged} ball <{forged}> {forged.lower()}")
    assert asked == special_tokens("the red ball")


@given(
    st.text(min_size=1, max_size=60).filter(
        lambda text: plain_words(text).strip(". ") and "\0" not in text
    )
)
def test_no_user_text_can_forge_special_tokens(words: str) -> None:
    builder, first = PromptBuilder(tokenizer(), config()), tokenizer().chat_start
    expected = builder.build(question_from_query(Query("q", "ball", Task.STVG))).token_ids
    ids = builder.build(question_from_query(Query("q", words, Task.STVG))).token_ids
    assert np.array_equal(ids[ids >= first], expected[expected >= first])


@pytest.mark.parametrize("task", [Task.STVG, Task.SVG, Task.TVG, Task.REC])
@pytest.mark.parametrize("words", ["", "   ", "\n\t", "\x01\u200b", "\u202e"])
def test_a_query_without_words_is_rejected(task: Task, words: str) -> None:
    with pytest.raises(QueryError, match="query has no text"):
        question_from_query(Query("q", words, task, span=(0.0, 1.0)))


def test_optional_words_precede_the_question() -> None:
    bare = question_from_query(Query("q", "", Task.REG, box=HALF)).text
    assert (
        question_from_query(Query("q", "What color?", Task.REG, box=HALF)).text
        == f"What color? {bare}"
    )


def test_a_query_that_is_too_long_is_rejected() -> None:
    question_from_query(Query("q", "a" * MAX_QUERY_CHARACTERS))
    with pytest.raises(QueryError, match=f"at most {MAX_QUERY_CHARACTERS}"):
        question_from_query(Query("q", "a" * (MAX_QUERY_CHARACTERS + 1)))


def test_control_characters_become_spaces_and_format_characters_are_removed() -> None:
    assert plain_words("the\x00red\r\n\x1b[31mball\u202e\u200b\ufeff!") == "the red [31mball!"
    assert plain_words("\ud800x") == "\ufffdx"


@pytest.mark.parametrize(
    "values",
    [
        {"task": Task.SVG},
        {"task": Task.SVG, "span": (0.6, 0.5)},
        {"task": Task.SVG, "span": (-0.1, 0.5)},
        {"task": Task.TR, "span": (0.0, math.nan)},
        {"task": Task.TR, "span": (0.0, 1.5)},
        {"task": Task.ELC, "span": (0.5, 0.5)},
        {"task": Task.ELC, "box": HALF},
        {"task": Task.REG},
        {"task": Task.REG, "box": Box(0.5, 0.0, 0.4, 1.0)},
        {"task": Task.REG, "box": Box(0.0, 0.0, math.nan, 1.0)},
        {"task": Task.REG, "box": Box(0.0, 0.0, 2.0, 1.0)},
        {"task": "NONSENSE"},
        {"text": 7},
    ],
)
def test_missing_or_invalid_inputs_are_rejected(values: dict) -> None:
    with pytest.raises(QueryError):
        question_from_query(Query(**{"id": "q", "text": "ball", **values}))


def test_an_unknown_template_is_rejected() -> None:
    with pytest.raises(QueryError, match="no template 1 of TVG"):
        make_question(Task.TVG, "ball", template=1)
