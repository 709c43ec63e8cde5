from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answer_format import NO_MATCH_TEXT
from llava_st_ros.text.answers import format_answer
from llava_st_ros.text.choices import Coordinates, IdRange
from llava_st_ros.text.grammar import Grammar, Unconstrained, Walk
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import make_question
from support.text_cases import HALF, TABLES, answers, config, tokenizer


def ids(text: str) -> list[int]:
    return tokenizer().encode(text)


def row(text: str) -> int:
    (found,) = ids(text)
    return found


def after(text: str, task: Task, **inputs) -> Walk:
    return Grammar(task, tokenizer(), config(), **inputs).after(ids(text))


def allowed(walk: Walk) -> tuple[int, int]:
    assert isinstance(walk.allowed, IdRange)
    return walk.allowed.start, walk.allowed.stop


@given(st.data(), st.sampled_from(list(Task)), st.sampled_from(TABLES))
def test_what_training_shows_is_what_the_grammar_allows(data, task: Task, rows: int) -> None:
    """The very ids of a training conversation walk through the grammar, end token included."""
    own, geometry = tokenizer(rows), config(rows)
    answer = data.draw(answers(task, rows))
    asked = make_question(task, "ball", span=(0.0, 1.0), box=HALF)
    shown = PromptBuilder(own, geometry).build_labeled(
        [(asked, format_answer(answer, geometry.coordinates))]
    )
    answered = shown.prompt.token_ids[shown.labels_mask].tolist()
    assume(len(answered) < 60 or answer.boxes)
    walk = Grammar(task, own, geometry).after(answered[:-1])
    if not walk.done:
        assert answered[-1] in walk.allowed
        walk.advance(answered[-1:])
    assert walk.done


@pytest.mark.parametrize(
    ("task", "opener"),
    [
        (Task.STVG, "During the span of {"),
        (Task.SVG, "Object bounding box: "),
        (Task.TVG, "During the period {"),
        (Task.REC, "It appears at ["),
    ],
)
def test_an_answer_opens_or_says_that_nothing_matches(task: Task, opener: str) -> None:
    walk = Grammar(task, tokenizer(), config()).begin()
    assert not walk.forced
    first = {ids(opener)[0], ids("Nothing matches.")[0]}
    assert set(np.flatnonzero(walk.allowed.mask(config().vocabulary))) == first
    refused = after("Nothing matches.", task)
    assert refused.done
    assert not after(opener, task).done


def test_literal_words_are_forced_in_one_run() -> None:
    walk = Grammar(Task.STVG, tokenizer(), config()).after(ids("During the span of {")[:1])
    assert tokenizer().decode(walk.forced) == tokenizer().decode(ids("During the span of {")[1:])
    assert walk.allowed is None
    walk = after("During the span of {<TEMP-003><TEMP-004>", Task.STVG)
    assert tokenizer().decode(walk.forced) == "}. Object bounding box: <TEMP-003>: ["
    corners = "<WIDTH-000><HEIGHT-000><WIDTH-009><HEIGHT-009>"
    begun = "During the span of {<TEMP-003><TEMP-004>}. Object bounding box: <TEMP-003>: ["
    walk = after(begun + corners, Task.STVG)
    assert tokenizer().decode(walk.forced) == "], <TEMP-004>: ["
    walk = after(begun + corners + "], <TEMP-004>: [" + corners, Task.STVG)
    assert tokenizer().decode(walk.forced) == "]"
    assert not walk.done
    walk.advance(walk.forced)
    assert walk.done
    assert walk.allowed is None


def test_a_span_ends_no_earlier_than_it_starts_and_inside_the_window() -> None:
    walk = after("During the period {<TEMP-007>", Task.TVG)
    assert allowed(walk) == (row("<TEMP-007>"), row("<TEMP-019>") + 1)
    short = Grammar(Task.TVG, tokenizer(100), config(100, num_frames=50))
    first = short.after(tokenizer(100).encode("During the period {"))
    offset = tokenizer(100).vocab_size
    assert allowed(first) == (offset, offset + 50)


def test_a_box_keeps_its_corners_in_order() -> None:
    assert allowed(after("It appears at [", Task.REC)) == (
        row("<WIDTH-000>"),
        row("<WIDTH-099>") + 1,
    )
    walk = after("It appears at [<WIDTH-040>", Task.REC)
    assert allowed(walk) == (row("<HEIGHT-000>"), row("<HEIGHT-099>") + 1)
    walk = after("It appears at [<WIDTH-040><HEIGHT-070>", Task.REC)
    assert allowed(walk) == (row("<WIDTH-040>"), row("<WIDTH-099>") + 1)
    walk = after("It appears at [<WIDTH-040><HEIGHT-070><WIDTH-099>", Task.REC)
    assert allowed(walk) == (row("<HEIGHT-070>"), row("<HEIGHT-099>") + 1)


def test_the_times_of_a_question_bound_the_tube() -> None:
    asked = make_question(Task.SVG, "ball", span=(0.5, 0.55))  # of 20 frames: 10
    walk = Grammar.for_question(asked, tokenizer(), config()).after(ids("Object bounding box: "))
    assert tokenizer().decode(walk.forced) == "<TEMP-010>: ["
    asked = make_question(Task.ELC, span=(0.5, 1.0), box=HALF)
    walk = Grammar.for_question(asked, tokenizer(), config()).after(ids("Ends in "))
    assert allowed(walk) == (row("<TEMP-010>"), row("<TEMP-019>") + 1)


def test_without_the_questions_times_a_tube_may_end_after_each_box() -> None:
    begun = "Object bounding box: <TEMP-018>: [<WIDTH-000><HEIGHT-000><WIDTH-009><HEIGHT-009>"
    more = after(begun + "], ", Task.SVG)
    assert tokenizer().decode(more.forced) == "<TEMP-019>: ["
    assert after(begun + "]", Task.SVG).done
    last = begun.replace("018", "019")
    assert tokenizer().decode(after(last, Task.SVG).forced) == "]"


@pytest.mark.parametrize(
    ("task", "begun"),
    [(Task.ELC, "Ends in <TEMP-003>,"), (Task.DVC, "{<TEMP-003><TEMP-004>},")],
)
def test_a_caption_begins_with_a_space_as_in_training(task: Task, begun: str) -> None:
    walk = after(begun, task)
    assert ids(" the")[0] in walk.allowed
    assert ids("the")[0] not in walk.allowed


def test_a_caption_goes_on_until_the_box_list_begins() -> None:
    walk = after("Ends in <TEMP-003>, Mr", Task.ELC)
    mask = walk.allowed.mask(config().vocabulary)
    assert mask[row(".")]
    assert not mask[row("[")]
    assert not mask[tokenizer().chat_end]
    assert not mask[tokenizer().chat_start :].any()
    walk = after("Ends in <TEMP-003>, Mr. B drops it.", Task.ELC)
    assert not walk.forced
    assert ids(" Object")[0] in walk.allowed
    walk = after("Ends in <TEMP-003>, it drops. Object", Task.ELC)
    assert tokenizer().decode(walk.forced) == " bounding box: "
    walk.advance(walk.forced)
    assert allowed(walk) == (row("<TEMP-000>"), row("<TEMP-003>") + 1)


@pytest.mark.parametrize("task", Task)
def test_every_answer_ends_whatever_the_model_likes(task: Task) -> None:
    """A model that likes one word only, and never an end, still comes to one."""
    for liked in (" ", "!", "a", " a", "\n", "[", "]", ".", "{", "<TEMP-019>", "<WIDTH-000>"):
        logits = np.zeros(config().vocabulary, np.float32)
        logits[ids(liked)[0]] = 1.0
        logits[tokenizer().chat_end] = -1.0
        walk, taken = Grammar(task, tokenizer(), config()).begin(), 0
        while not walk.done:
            step = walk.forced or (walk.allowed.best(logits),)
            walk.advance(step)
            taken += len(step)
            assert taken < 2000
        assert taken > 0


def test_choices_agree_with_their_masks() -> None:
    generator = np.random.default_rng(0)
    for task in (Task.TR, Task.DGC, Task.REC):
        walk = Grammar(task, tokenizer(), config()).begin()
        walk.advance(walk.forced)
        for _ in range(10):
            if walk.done:
                break
            logits = generator.normal(size=config().vocabulary)
            mask = walk.allowed.mask(config().vocabulary)
            best = walk.allowed.best(logits)
            if not isinstance(walk.allowed, Coordinates):
                assert best == int(np.where(mask, logits, -np.inf).argmax())
            assert mask[best]
            assert mask.tolist() == [i in walk.allowed for i in range(len(mask))]
            walk.advance((best,))
            walk.advance(walk.forced)


@pytest.mark.parametrize(
    ("shares", "median"),
    [
        ((1.0,), 0),
        ((0.1, 0.8, 0.1), 1),
        ((0.4, 0.0, 0.3, 0.3), 2),  # the likeliest row is the first
        ((0.25, 0.75), 1),
        ((0.0, 0.6, 0.4), 1),
        ((0.06,) * 10 + (0.4,), 8),
    ],
)
def test_of_a_coordinate_the_median_is_taken(shares: tuple[float, ...], median: int) -> None:
    # What lies outside of the rows that are allowed counts for nothing, however likely.
    logits = np.full(60, 50.0, np.float32)
    logits[20 : 20 + len(shares)] = np.log(np.maximum(shares, 1e-12)) - 40.0
    assert Coordinates(20, 20 + len(shares)).best(logits) == 20 + median


def test_what_is_not_allowed_is_refused() -> None:
    with pytest.raises(ValueError, match="may not come here"):
        after("Somewhere", Task.STVG)
    with pytest.raises(ValueError, match="is forced"):
        after("Duringg", Task.STVG)
    with pytest.raises(ValueError, match="may not come here"):
        after("During the period {<TEMP-007><TEMP-006>", Task.TVG)
    corners = "<WIDTH-000><HEIGHT-000><WIDTH-009><HEIGHT-009>"
    with pytest.raises(ValueError, match="may not come here"):
        after(f"It appears at [{corners}]<|im_end|>", Task.REC)


def test_unconstrained_allows_everything_until_an_end_token() -> None:
    walk = Unconstrained(tokenizer(), config()).begin()
    walk.advance([0, config().vocabulary - 1, tokenizer().special.vid_patch])
    assert not walk.done
    assert walk.allowed.mask(config().vocabulary).all()
    walk.advance([tokenizer().chat_end])
    assert walk.done


def test_a_short_answer_costs_few_choices() -> None:
    """Whether anything matches, two for the span and four a box, whatever the words cost."""
    tube = tuple((time, Box(0.0, 0.0, 0.5, 0.5)) for time in range(3, 8))
    text = format_answer(Answer(Task.STVG, span=(3, 7), boxes=tube), config().coordinates).text
    walk, rest, choices = Grammar(Task.STVG, tokenizer(), config()).begin(), ids(text), 0
    while rest:
        step = len(walk.forced) or 1
        choices += not walk.forced
        walk.advance(rest[:step])
        rest = rest[step:]
    assert walk.done
    assert choices == 1 + 2 + 4 * 5


@pytest.mark.parametrize(
    ("probability", "at", "refused"),
    [(0.6, 0.5, True), (0.4, 0.5, False), (0.4, 0.35, True), (1.0, 1.0, False), (0.01, 0.0, True)],
)
def test_a_refusal_is_taken_from_its_probability_on(
    probability: float, at: float, refused: bool
) -> None:
    grammar = Grammar(Task.STVG, tokenizer(), config(), no_match_threshold=at)
    choice = grammar.begin().allowed
    nothing = tokenizer().encode_user(NO_MATCH_TEXT)[0]
    (opening,) = (i for i in range(config().vocabulary) if i in choice and i != nothing)
    logits = np.full(config().vocabulary, 9.0, np.float32)  # others count for nothing
    logits[nothing], logits[opening] = np.log(probability), np.log(max(1 - probability, 1e-300))
    assert choice.best(logits) == (nothing if refused else opening)
    assert choice.probability(nothing, logits) == pytest.approx(probability, abs=1e-6)
