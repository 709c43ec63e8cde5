"""Answers: the canonical form, and parsing of variants and malformed answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import QueryError
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answers import format_answer, parse
from llava_st_ros.text.tokenizer import STRUCTURE
from support.text_cases import TABLES, answers, config, tokenizer


def corners(x1: int, y1: int, x2: int, y2: int) -> str:
    return f"<WIDTH-{x1:03d}><HEIGHT-{y1:03d}><WIDTH-{x2:03d}><HEIGHT-{y2:03d}>"


def box(x1: int, y1: int, x2: int, y2: int) -> Box:
    return Box(x1 / 99, y1 / 99, x2 / 99, y2 / 99)


A, B = corners(10, 20, 30, 40), corners(11, 21, 31, 41)
TUBE = ((12, box(10, 20, 30, 40)), (13, box(11, 21, 31, 41)))


def read(text: str, task: Task = Task.STVG) -> Answer:
    return parse(text, task, config(100))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            Answer(Task.STVG, span=(12, 13), boxes=TUBE),
            "During the span of {<TEMP-012><TEMP-013>}. Object bounding box: "
            f"<TEMP-012>: [{A}], <TEMP-013>: [{B}]",
        ),
        (
            Answer(Task.SVG, boxes=TUBE),
            f"Object bounding box: <TEMP-012>: [{A}], <TEMP-013>: [{B}]",
        ),
        (
            Answer(Task.ELC, span=(12, 13), boxes=TUBE, caption="the ball drops."),
            "Ends in <TEMP-013>, the ball drops. Object bounding box: "
            f"<TEMP-012>: [{A}], <TEMP-013>: [{B}]",
        ),
        (Answer(Task.TVG, span=(3, 99)), "During the period {<TEMP-003><TEMP-099>}"),
        (Answer(Task.REC, boxes=((None, TUBE[0][1]),)), f"It appears at [{A}]"),
        (Answer(Task.TR, caption="the ball drops"), "the ball drops"),
        (Answer(Task.REG, text="a red ball"), "a red ball"),
        (
            Answer(
                Task.DGC,
                phrases=(("a ball", TUBE[0][1]), ("a box", TUBE[1][1])),
                caption="There is a ball near a box, too.",
            ),
            f"There is a ball [{A}] near a box [{B}], too.",
        ),
        (
            Answer(Task.DVC, segments=(((1, 2), "it drops."), ((2, 9), "it rolls"))),
            "{<TEMP-001><TEMP-002>}, it drops. {<TEMP-002><TEMP-009>}, it rolls.",
        ),
    ],
)
def test_canonical_text_of_each_task(answer: Answer, text: str) -> None:
    assert format_answer(answer, config(100).coordinates).text == text
    assert parse(text, answer.task, config(100)).problems == ()


def test_values_are_exact_and_tokens_are_rounded() -> None:
    exact = Box(0.1049, 0.5, 0.99, 1.3)
    formatted = format_answer(
        Answer(Task.STVG, span=(5, 5), boxes=((5, exact),)), config(20).coordinates
    )
    assert formatted.values == pytest.approx((5 / 19, 5 / 19, 5 / 19, 0.1049, 0.5, 0.99, 1.0))
    assert "<WIDTH-010><HEIGHT-050><WIDTH-098><HEIGHT-099>" in formatted.text


@given(st.data(), st.sampled_from(list(Task)), st.sampled_from(TABLES))
def test_parsing_a_formatted_answer_returns_it(data, task: Task, rows: int) -> None:
    answer = data.draw(answers(task, rows))
    text = format_answer(answer, config(rows).coordinates).text
    assert parse(text, task, config(rows)) == replace(answer, text=text)
    ids = tokenizer(rows).encode(text)
    from_ids = parse(ids, task, config(rows), tokenizer(rows))
    normalized = tokenizer(rows).decode(ids)
    assert from_ids == parse(normalized, task, config(rows))
    assert from_ids.problems == ()


FRAGMENTS = st.sampled_from(
    [
        "<TEMP-012>",
        "<TEMP-013>",
        "<TEMP-999>",
        "<TEMP-0000000000000000012>",
        "<HEIGHT-020>",
        "<WIDTH-010>",
        A,
        B,
        f"<TEMP-012>: [{A}]",
        "<|im_end|>",
        *STRUCTURE.values(),
        "{",
        "}",
        "[",
        "]",
        ":",
        ", ",
        ".",
        "Ends in ",
        "Object bounding box: ",
        "a ball",
        "During the span of ",
        "\U000f0001",
        "\U000f8001",
        "\ue000",
        "\ud800",
        "\n",
    ]
)


@given(
    st.lists(FRAGMENTS | st.text(max_size=8), max_size=25).map("".join), st.sampled_from(list(Task))
)
def test_parse_never_raises_on_text(text: str, task: Task) -> None:
    answer = parse(text, task, config(20))
    assert answer.task is task
    times = [time for time, _ in answer.boxes if time is not None]
    assert times == sorted(set(times))
    assert all(time < 20 for time in times)
    for found in [b for _, b in answer.boxes] + [b for _, b in answer.phrases]:
        assert 0 <= found.x1 <= found.x2 <= 1
        assert 0 <= found.y1 <= found.y2 <= 1
    if answer.span is not None:
        assert 0 <= answer.span[0] <= answer.span[1] < 20


@given(st.data(), st.sampled_from(list(Task)))
def test_parse_never_raises_on_ids(data, task: Task) -> None:
    geometry = config(20)
    coordinates = st.integers(geometry.coordinates.offset(Axis.TIME), geometry.vocabulary - 1)
    anything = st.integers(-3, geometry.vocabulary + 3) | coordinates
    ids = data.draw(st.lists(anything, max_size=60))
    parse(ids, task, geometry, tokenizer(20))
    parse(ids, task, geometry)


@given(st.data(), st.sampled_from([Task.STVG, Task.SVG, Task.ELC]), st.floats(0, 1))
def test_complete_boxes_of_a_truncated_answer_are_kept(data, task: Task, share: float) -> None:
    answer = data.draw(answers(task, 20))
    ids = tokenizer().encode(format_answer(answer, config().coordinates).text)
    cut = ids[: round(share * len(ids))]
    found = parse(cut, task, config(), tokenizer())
    assert found.boxes == answer.boxes[: len(found.boxes)]
    first_width = config().coordinates.offset(Axis.WIDTH)
    assert len(found.boxes) >= sum(1 for i in cut if i >= first_width) // 2 - 1
    if len(found.boxes) < len(answer.boxes):
        assert found.problems or task is Task.SVG


@pytest.mark.parametrize(
    "opener",
    ["In the time range {", "Between{ ", "At {", "Within the time frame of {", "During { ", "{"],
)
@pytest.mark.parametrize("between", ["", ",", ", ", " "])
def test_other_openers_and_spaces_are_parsed(opener: str, between: str) -> None:
    text = (
        f"{opener}<TEMP-012>{between}<TEMP-013>}}. Object bounding box:"
        f"{{<TEMP-012>:[{A}],<TEMP-013> : [ {B} ]}}."
    )
    answer = read(text)
    assert (answer.span, answer.boxes, answer.problems) == ((12, 13), TUBE, ())


def test_corners_with_commas_and_without_brackets_are_parsed() -> None:
    loose = A.replace("><", ">, <")
    assert read(f"It is at {loose}.", Task.REC).boxes == ((None, TUBE[0][1]),)


@pytest.mark.parametrize(
    ("text", "span", "boxes", "problem"),
    [
        ("", None, (), "no complete box"),
        ("I see a ball", None, (), "no complete span"),
        ("{<TEMP-012><TEMP-013>}. Object", (12, 13), (), "no complete box"),
        (f"<TEMP-012>: [{A}], <TEMP-013>: [{B}]", (12, 13), TUBE, "the span of the boxes is used"),
        (
            f"{{<TEMP-013><TEMP-012>}} <TEMP-012>: [{A}], <TEMP-013>: [{B}]",
            (12, 13),
            TUBE,
            "swapped",
        ),
        (
            f"{{<TEMP-012><TEMP-013>}} <TEMP-013>: [{B}], <TEMP-012>: [{A}]",
            (12, 13),
            TUBE,
            "comes after the box",
        ),
        (
            f"{{<TEMP-012><TEMP-012>}} <TEMP-012>: [{A}], <TEMP-012>: [{B}]",
            (12, 12),
            TUBE[:1],
            "second box for time 12",
        ),
        (
            f"{{<TEMP-012><TEMP-013>}} <TEMP-012>: [{A}], <TEMP-013>: [<WIDTH-011><HEIGHT-021>",
            (12, 13),
            TUBE[:1],
            "3 coordinate tokens are not part of a complete box or span, first <TEMP-013>",
        ),
        (
            f"{{<TEMP-012><TEMP-014>}} <TEMP-012>: [{A}]",
            (12, 14),
            TUBE[:1],
            "2 times of the span have no box",
        ),
        (f"{{<TEMP-011><TEMP-011>}} <TEMP-012>: [{A}]", (11, 11), TUBE[:1], "are outside the span"),
        (
            f"{{<TEMP-012><TEMP-012>}} [{B}] <TEMP-012>: [{A}]",
            (12, 12),
            TUBE[:1],
            "a box has no time",
        ),
        (f"{{<TEMP-012><TEMP-250>}} <TEMP-012>: [{A}]", None, TUBE[:1], "window of 100 frames"),
        (
            f"{{<TEMP-012><TEMP-012>}} <TEMP-012>: [{corners(30, 20, 10, 40)}]",
            (12, 12),
            TUBE[:1],
            "corners swapped",
        ),
        (
            f"{{<TEMP-012><TEMP-012>}} <TEMP-012>: [{A}] <TEMP-013>: [{corners(1, 2, 250, 4)}]",
            (12, 12),
            TUBE[:1],
            "<WIDTH-250> is not one of 100 rows",
        ),
        (
            f"{{<TEMP-012><TEMP-012>}}<vid_patch> <TEMP-012>: [{A}]",
            (12, 12),
            TUBE[:1],
            "structural tokens",
        ),
    ],
)
def test_valid_parts_are_returned_and_problems_reported(
    text: str, span: tuple[int, int] | None, boxes: tuple, problem: str
) -> None:
    answer = read(text)
    if span is None and boxes:
        span = (boxes[0][0], boxes[-1][0])  # the span of the boxes
    assert (answer.span, answer.boxes) == (span, boxes)
    assert any(problem in line for line in answer.problems), answer.problems
    assert all("\n" not in line for line in answer.problems)


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("repeated", [" ", "[", "{ ", "<TEMP-001>:", "object bounding box "])
def test_a_repetitive_answer_is_parsed_in_linear_time(task: Task, repeated: str) -> None:
    """Quadratic time would be an hour."""
    assert read("<TEMP-001>" + repeated * (300_000 // len(repeated)), task).task is task


def test_tokens_after_the_end_token_are_ignored() -> None:
    assert read(f"It appears at [{A}]<|im_end|> or [{B}]", Task.REC).boxes == ((None, TUBE[0][1]),)
    ids = tokenizer(100).encode(f"It appears at [{A}]<|im_end|> or [{B}]")
    found = parse(ids, Task.REC, config(100), tokenizer(100))
    assert found.boxes == ((None, TUBE[0][1]),)
    assert found.problems == ()


def test_in_ids_words_that_spell_a_token_are_not_a_token() -> None:
    ids = tokenizer(100).encode_user(f"It appears at [{A}]")
    answer = parse(ids, Task.REC, config(100), tokenizer(100))
    assert answer.boxes == ()
    assert answer.problems


def test_captions_with_periods_and_marker_words_are_kept() -> None:
    caption = "Mr. B. sees 1.5 object bounding boxes"
    answer = Answer(Task.ELC, span=(12, 13), boxes=TUBE, caption=caption)
    assert read(format_answer(answer, config(100).coordinates).text, Task.ELC).caption == caption
    answer = Answer(Task.DVC, segments=(((1, 2), "Mr. B. drops it"), ((2, 3), "e.g. rolls")))
    assert (
        read(format_answer(answer, config(100).coordinates).text, Task.DVC).segments
        == answer.segments
    )


def test_a_caption_cannot_contain_coordinates() -> None:
    answer = Answer(Task.TR, caption=f"a [{A}] {{<TEMP-001><TEMP-002>}} <|im_end|> ball")
    formatted = format_answer(answer, config(100).coordinates)
    assert formatted.values == ()
    found = read(formatted.text, Task.TR)
    assert found.problems == ()
    assert found.caption == formatted.text


@pytest.mark.parametrize("task", Task)
def test_an_answer_with_a_missing_part_cannot_be_formatted(task: Task) -> None:
    with pytest.raises(QueryError, match=r"a part of the \w+ answer is missing"):
        format_answer(Answer(task), config().coordinates)


def test_a_time_past_the_table_cannot_be_formatted() -> None:
    with pytest.raises(QueryError, match="time token 20"):
        format_answer(Answer(Task.TVG, span=(3, 20)), config(20).coordinates)
