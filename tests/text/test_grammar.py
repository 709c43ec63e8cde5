"""Grammars: forced and allowed tokens, and what is selected from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answer_format import NO_MATCH_TEXT
from llava_st_ros.text.answers import format_answer
from llava_st_ros.text.grammar import Grammar, GrammarState, Unconstrained
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import make_question
from llava_st_ros.text.token_sets import CoordinateRange, TokenRange
from support.text_cases import HALF, TABLES, answers, config, tokenizer


def ids(text: str) -> list[int]:
    return tokenizer().encode(text)


def row(text: str) -> int:
    (found,) = ids(text)
    return found


def after(text: str, task: Task, **inputs) -> GrammarState:
    return Grammar(task, tokenizer(), config(), **inputs).state_after(ids(text))


def allowed(state: GrammarState) -> tuple[int, int]:
    assert isinstance(state.allowed, TokenRange)
    return state.allowed.start, state.allowed.stop


@given(st.data(), st.sampled_from(list(Task)), st.sampled_from(TABLES))
def test_the_grammar_allows_training_answers(data, task: Task, rows: int) -> None:
    """Advance the grammar with the ids of a labeled prompt, end token included."""
    own, geometry = tokenizer(rows), config(rows)
    answer = data.draw(answers(task, rows))
    asked = make_question(task, "ball", span=(0.0, 1.0), box=HALF)
    labeled = PromptBuilder(own, geometry).build_labeled(
        [(asked, format_answer(answer, geometry.coordinates))]
    )
    answered = labeled.prompt.token_ids[labeled.labels_mask].tolist()
    assume(len(answered) < 60 or answer.boxes)
    state = Grammar(task, own, geometry).state_after(answered[:-1])
    if not state.is_complete:
        assert answered[-1] in state.allowed
        state.advance(answered[-1:])
    assert state.is_complete


@pytest.mark.parametrize(
    ("task", "opener"),
    [
        (Task.STVG, "During the span of {"),
        (Task.SVG, "Object bounding box: "),
        (Task.TVG, "During the period {"),
        (Task.REC, "It appears at ["),
    ],
)
def test_an_answer_starts_with_its_opener_or_no_match(task: Task, opener: str) -> None:
    state = Grammar(task, tokenizer(), config()).start()
    assert not state.forced
    first = {ids(opener)[0], ids("Nothing matches.")[0]}
    assert set(np.flatnonzero(state.allowed.mask(config().vocabulary))) == first
    no_match = after("Nothing matches.", task)
    assert no_match.is_complete
    assert not after(opener, task).is_complete


def test_fixed_words_are_forced_in_one_run() -> None:
    state = Grammar(Task.STVG, tokenizer(), config()).state_after(ids("During the span of {")[:1])
    assert tokenizer().decode(state.forced) == tokenizer().decode(ids("During the span of {")[1:])
    assert state.allowed is None
    state = after("During the span of {<TEMP-003><TEMP-004>", Task.STVG)
    assert tokenizer().decode(state.forced) == "}. Object bounding box: <TEMP-003>: ["
    corners = "<WIDTH-000><HEIGHT-000><WIDTH-009><HEIGHT-009>"
    begun = "During the span of {<TEMP-003><TEMP-004>}. Object bounding box: <TEMP-003>: ["
    state = after(begun + corners, Task.STVG)
    assert tokenizer().decode(state.forced) == "], <TEMP-004>: ["
    state = after(begun + corners + "], <TEMP-004>: [" + corners, Task.STVG)
    assert tokenizer().decode(state.forced) == "]"
    assert not state.is_complete
    state.advance(state.forced)
    assert state.is_complete
    assert state.allowed is None


def test_a_span_is_ordered_and_inside_the_window() -> None:
    state = after("During the period {<TEMP-007>", Task.TVG)
    assert allowed(state) == (row("<TEMP-007>"), row("<TEMP-019>") + 1)
    short = Grammar(Task.TVG, tokenizer(100), config(100, num_frames=50))
    first = short.state_after(tokenizer(100).encode("During the period {"))
    offset = tokenizer(100).vocab_size
    assert allowed(first) == (offset, offset + 50)


def test_the_corners_of_a_box_are_ordered() -> None:
    assert allowed(after("It appears at [", Task.REC)) == (
        row("<WIDTH-000>"),
        row("<WIDTH-099>") + 1,
    )
    state = after("It appears at [<WIDTH-040>", Task.REC)
    assert allowed(state) == (row("<HEIGHT-000>"), row("<HEIGHT-099>") + 1)
    state = after("It appears at [<WIDTH-040><HEIGHT-070>", Task.REC)
    assert allowed(state) == (row("<WIDTH-040>"), row("<WIDTH-099>") + 1)
    state = after("It appears at [<WIDTH-040><HEIGHT-070><WIDTH-099>", Task.REC)
    assert allowed(state) == (row("<HEIGHT-070>"), row("<HEIGHT-099>") + 1)


def test_the_tube_covers_the_times_in_the_question() -> None:
    asked = make_question(Task.SVG, "ball", span=(0.5, 0.55))  # of 20 frames: 10
    state = Grammar.for_question(asked, tokenizer(), config()).state_after(
        ids("Object bounding box: ")
    )
    assert tokenizer().decode(state.forced) == "<TEMP-010>: ["
    asked = make_question(Task.ELC, span=(0.5, 1.0), box=HALF)
    state = Grammar.for_question(asked, tokenizer(), config()).state_after(ids("Ends in "))
    assert allowed(state) == (row("<TEMP-010>"), row("<TEMP-019>") + 1)


def test_without_times_in_the_question_a_tube_can_end_after_each_box() -> None:
    begun = "Object bounding box: <TEMP-018>: [<WIDTH-000><HEIGHT-000><WIDTH-009><HEIGHT-009>"
    more = after(begun + "], ", Task.SVG)
    assert tokenizer().decode(more.forced) == "<TEMP-019>: ["
    assert after(begun + "]", Task.SVG).is_complete
    last = begun.replace("018", "019")
    assert tokenizer().decode(after(last, Task.SVG).forced) == "]"


@pytest.mark.parametrize(
    ("task", "begun"),
    [(Task.ELC, "Ends in <TEMP-003>,"), (Task.DVC, "{<TEMP-003><TEMP-004>},")],
)
def test_a_caption_starts_with_a_space_as_in_training(task: Task, begun: str) -> None:
    state = after(begun, task)
    assert ids(" the")[0] in state.allowed
    assert ids("the")[0] not in state.allowed


def test_a_caption_continues_until_the_list_of_boxes() -> None:
    state = after("Ends in <TEMP-003>, Mr", Task.ELC)
    mask = state.allowed.mask(config().vocabulary)
    assert mask[row(".")]
    assert not mask[row("[")]
    assert not mask[tokenizer().chat_end]
    assert not mask[tokenizer().chat_start :].any()
    state = after("Ends in <TEMP-003>, Mr. B drops it.", Task.ELC)
    assert not state.forced
    assert ids(" Object")[0] in state.allowed
    state = after("Ends in <TEMP-003>, it drops. Object", Task.ELC)
    assert tokenizer().decode(state.forced) == " bounding box: "
    state.advance(state.forced)
    assert allowed(state) == (row("<TEMP-000>"), row("<TEMP-003>") + 1)


@pytest.mark.parametrize("task", Task)
def test_every_answer_ends_for_any_preference_of_the_model(task: Task) -> None:
    """Also for a model that always prefers one word and never an end token."""
    for preferred in (" ", "!", "a", " a", "\n", "[", "]", ".", "{", "<TEMP-019>", "<WIDTH-000>"):
        logits = np.zeros(config().vocabulary, np.float32)
        logits[ids(preferred)[0]] = 1.0
        logits[tokenizer().chat_end] = -1.0
        state, taken = Grammar(task, tokenizer(), config()).start(), 0
        while not state.is_complete:
            step = state.forced or (state.allowed.select(logits),)
            state.advance(step)
            taken += len(step)
            assert taken < 2000
        assert taken > 0


def test_token_sets_agree_with_their_masks() -> None:
    generator = np.random.default_rng(0)
    for task in (Task.TR, Task.DGC, Task.REC):
        state = Grammar(task, tokenizer(), config()).start()
        state.advance(state.forced)
        for _ in range(10):
            if state.is_complete:
                break
            logits = generator.normal(size=config().vocabulary)
            mask = state.allowed.mask(config().vocabulary)
            best = state.allowed.select(logits)
            if not isinstance(state.allowed, CoordinateRange):
                assert best == int(np.where(mask, logits, -np.inf).argmax())
            assert mask[best]
            assert mask.tolist() == [i in state.allowed for i in range(len(mask))]
            state.advance((best,))
            state.advance(state.forced)


@pytest.mark.parametrize(
    ("shares", "median"),
    [
        ((1.0,), 0),
        ((0.1, 0.8, 0.1), 1),
        ((0.4, 0.0, 0.3, 0.3), 2),  # the argmax is row 0
        ((0.25, 0.75), 1),
        ((0.0, 0.6, 0.4), 1),
        ((0.06,) * 10 + (0.4,), 8),
    ],
)
def test_the_median_of_a_coordinate_is_selected(shares: tuple[float, ...], median: int) -> None:
    # Logits outside the allowed rows are ignored, however high.
    logits = np.full(60, 50.0, np.float32)
    logits[20 : 20 + len(shares)] = np.log(np.maximum(shares, 1e-12)) - 40.0
    assert CoordinateRange(20, 20 + len(shares)).select(logits) == 20 + median


def test_ids_that_are_not_allowed_are_rejected() -> None:
    with pytest.raises(ValueError, match="is not allowed here"):
        after("Somewhere", Task.STVG)
    with pytest.raises(ValueError, match="is forced"):
        after("Duringg", Task.STVG)
    with pytest.raises(ValueError, match="is not allowed here"):
        after("During the period {<TEMP-007><TEMP-006>", Task.TVG)
    corners = "<WIDTH-000><HEIGHT-000><WIDTH-009><HEIGHT-009>"
    with pytest.raises(ValueError, match="is not allowed here"):
        after(f"It appears at [{corners}]<|im_end|>", Task.REC)


def test_unconstrained_allows_any_token_until_an_end_token() -> None:
    state = Unconstrained(tokenizer(), config()).start()
    state.advance([0, config().vocabulary - 1, tokenizer().special.vid_patch])
    assert not state.is_complete
    assert state.allowed.mask(config().vocabulary).all()
    state.advance([tokenizer().chat_end])
    assert state.is_complete


def test_number_of_selections_of_a_short_answer() -> None:
    """One for no match, two for the span and four per box; words are forced."""
    tube = tuple((time, Box(0.0, 0.0, 0.5, 0.5)) for time in range(3, 8))
    text = format_answer(Answer(Task.STVG, span=(3, 7), boxes=tube), config().coordinates).text
    state, rest, selections = Grammar(Task.STVG, tokenizer(), config()).start(), ids(text), 0
    while rest:
        step = len(state.forced) or 1
        selections += not state.forced
        state.advance(rest[:step])
        rest = rest[step:]
    assert state.is_complete
    assert selections == 1 + 2 + 4 * 5


@pytest.mark.parametrize(
    ("probability", "threshold", "no_match"),
    [(0.6, 0.5, True), (0.4, 0.5, False), (0.4, 0.35, True), (1.0, 1.0, False), (0.01, 0.0, True)],
)
def test_no_match_is_selected_at_or_above_its_threshold(
    probability: float, threshold: float, no_match: bool
) -> None:
    grammar = Grammar(Task.STVG, tokenizer(), config(), no_match_threshold=threshold)
    allowed = grammar.start().allowed
    no_match_id = tokenizer().encode_user(NO_MATCH_TEXT)[0]
    (opening,) = (i for i in range(config().vocabulary) if i in allowed and i != no_match_id)
    logits = np.full(config().vocabulary, 9.0, np.float32)  # other ids are ignored
    logits[no_match_id], logits[opening] = np.log(probability), np.log(max(1 - probability, 1e-300))
    assert allowed.select(logits) == (no_match_id if no_match else opening)
    assert allowed.match_probability(logits) == pytest.approx(1 - probability, abs=1e-6)
