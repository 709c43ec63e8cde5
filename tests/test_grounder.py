"""Grounder: due queries, shared work, tracks, events, removal and clock jumps, with an oracle.

The oracle is a model that decodes the time of each frame from its image and answers from the frames
and the question in its KV cache, with the real tokenizer. Its answers are right only if sampling,
packing, prompt, prefix and time tokens are.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llava_st_ros.backends.base import BackendDescription, Cache
from llava_st_ros.config import (
    GrounderConfig,
    ModelConfig,
    StreamConfig,
)
from llava_st_ros.errors import BackendError, ConfigError, FrameError, QueryError
from llava_st_ros.evaluation.replay import replay
from llava_st_ros.grounder import Grounder
from llava_st_ros.query_runner import QueryRunner
from llava_st_ros.records import (
    Answer,
    Box,
    EndReason,
    Event,
    EventState,
    Frame,
    Modality,
    Prompt,
    Query,
    Task,
    Tick,
    Track,
    TrackState,
)
from llava_st_ros.streaming.frame_buffer import FrameBuffer
from llava_st_ros.streaming.view import CameraView, VisualPrefix
from llava_st_ros.text.answer_format import NO_MATCH_TEXT
from llava_st_ros.text.answer_room import answer_room
from llava_st_ros.text.answers import format_answer
from llava_st_ros.text.grammar import Grammar
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import question_from_query
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer
from support.answer_cache import AnswerCache
from support.stream_config import stream_config

SECOND = 1_000_000_000
PROVISIONAL, CONFIRMED = EventState.PROVISIONAL, EventState.CONFIRMED
ENDED = EventState.ENDED
BALL = Query("ball", "the ball", Task.STVG, period=1.0)
CUP = Query("cup", "the cup", Task.STVG, period=1.0)


def ball(t: float) -> Box | None:
    """A ball that rolls through the image from 8 s to 14 s."""
    x = 0.1 + 0.1 * (t - 8)
    return Box(x, 0.2, x + 0.1, 0.3) if 8 <= t <= 14 else None


def cup(t: float) -> Box | None:
    """A cup that does not move."""
    return Box(0.5, 0.6, 0.7, 0.9)


WORLD = {"the ball": ball, "the cup": cup}


class UncachedPrefix(VisualPrefix):
    """Prefills every prompt from its start."""

    def resume(self, prompt: Prompt) -> tuple[Any, Cache]:
        return self.backend.embed(prompt, self.tokens), self.backend.new_cache()


class UncachedView(CameraView):
    """A view whose queries share no cache."""

    def prefix(self, modality: Modality) -> VisualPrefix:
        shared = super().prefix(modality)
        return UncachedPrefix(shared.backend, shared.tokens)


def stamp(seconds: float) -> int:
    return round(seconds * SECOND)


def frame(seconds: float, camera: str = "camera", size: tuple[int, int] = (4, 6)) -> Frame:
    """An image that encodes its time in hundredths of a second."""
    time = round(seconds * 100)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0], image[..., 1] = time // 256, time % 256
    return Frame(image, stamp(seconds), camera, f"{camera}_optical")


class Oracle:
    """A model whose embeddings are (id, content) pairs.

    The content is the frames' times at the end of the visual block, and the value at a coordinate
    placeholder.
    """

    def __init__(self, tokenizer: Tokenizer, model: ModelConfig) -> None:
        self.tokenizer, self.model = tokenizer, model
        self.encoded: list[float] = []
        self.certainty = 20.0
        self.packs = self.images = self.prefilled = 0
        self.before_extend = lambda: None

    def describe(self) -> BackendDescription:
        return BackendDescription("oracle", self.model, "cpu", "exact")

    def encode_frame(self, image: np.ndarray) -> float:
        self.encoded.append((int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])) / 100)
        return self.encoded[-1]

    def pack(self, features, time_indices):
        assert tuple(time_indices) == tuple(range(len(features)))
        self.packs += 1
        return tuple(features)

    def image_tokens(self, features):
        self.images += 1
        return (features,)

    def embed(self, prompt, visual):
        special, times = self.model.special_tokens, iter(prompt.temporal_inputs)
        on_image = prompt.modality is Modality.IMAGE
        content = {
            special.im_end if on_image else special.slow_vid_end: lambda: visual,
            special.temporal_input: lambda: next(times),
        }
        return [(int(i), content.get(int(i), lambda: None)()) for i in prompt.token_ids]

    def new_cache(self) -> AnswerCache:
        return AnswerCache()

    def prefill(self, embeddings, cache) -> np.ndarray:
        self.prefilled += len(embeddings)
        cache.items.extend(embeddings)
        assert all(isinstance(item, tuple) for item in cache.items), "a prompt after an answer"
        cache.answer = self._answer(cache.items)
        return self._next(cache)

    def extend(self, token_ids, cache) -> np.ndarray:
        self.before_extend()
        logits = []
        for i in token_ids:
            cache.items.append(int(i))
            logits.append(self._next(cache))
        return np.stack(logits)

    def _next(self, cache) -> np.ndarray:
        written = sum(1 for item in cache.items if not isinstance(item, tuple))
        logits = np.zeros(self.model.vocabulary, np.float32)
        more = written < len(cache.answer)
        logits[cache.answer[written] if more else self.tokenizer.chat_end] = self.certainty
        return logits

    def _answer(self, prompt) -> list[int]:
        (times,) = (seen for _, seen in prompt if isinstance(seen, tuple))
        inputs = [value for _, value in prompt if isinstance(value, float)]
        text = self.tokenizer.decode([i for i, _ in prompt])
        things = [thing for name, thing in WORLD.items() if name in text]
        if not text.endswith("assistant\n"):
            return []  # a prefix without a question
        (thing,) = things
        boxes = tuple((i, box) for i, t in enumerate(times) if (box := thing(t)) is not None)
        if inputs:
            first, last = (round(value * (len(times) - 1)) for value in inputs)
            answer = Answer(Task.SVG, boxes=tuple(b for b in boxes if first <= b[0] <= last))
        elif len(times) == 1:
            answer = Answer(Task.REC, boxes=((None, thing(times[0]) or Box(0, 0, 0, 0)),))
        elif not boxes:
            return self.tokenizer.encode("It does not occur.")
        else:
            answer = Answer(Task.STVG, span=(boxes[0][0], boxes[-1][0]), boxes=boxes)
        return self.tokenizer.encode(format_answer(answer, self.model.coordinates).text)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = ["the ball and the cup in this video: During the span of. Object bounding box: "]
    return train_tokenizer(words, 400, 20, 100)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ModelConfig:
    return stream_config(tokenizer)


@pytest.fixture
def oracle(tokenizer: Tokenizer, model: ModelConfig) -> Oracle:
    return Oracle(tokenizer, model)


def grounder(oracle: Oracle, **settings) -> Grounder:
    """Unconstrained, because the oracle says "It does not occur."."""
    return Grounder(oracle, oracle.tokenizer, GrounderConfig(**{"constrained": False, **settings}))


def play(
    g: Grounder,
    start: float,
    end: float,
    *,
    fps: float = 10.0,
    every: float = 0.5,
    cameras: tuple[str, ...] = ("camera",),
) -> list[Tick]:
    """Push a stream and tick in between; return the ticks in order."""
    ticks = []
    frames_a_tick = round(every * fps)
    for i in range(round((end - start) * fps)):
        now = start + i / fps
        for camera in cameras:
            g.push(frame(now, camera))
        if i % frames_a_tick == 0:
            ticks.append(g.tick(stamp(now)))
    return ticks


def events_of(ticks: list[Tick]) -> list[tuple[str, int, EventState]]:
    return [(e.query_id, e.event_id, e.state) for tick in ticks for e in tick.events]


def test_a_stream_gives_tracks_and_an_event(oracle):
    g = grounder(oracle)
    g.add_query(BALL)
    ticks = play(g, 0.0, 25.0)
    states = [state for _, _, state in events_of(ticks)]
    assert [state for state, _ in itertools.groupby(states)] == [PROVISIONAL, CONFIRMED, ENDED]
    (end,) = (e for tick in ticks for e in tick.events if e.state is ENDED)
    assert end.span.start == pytest.approx(8 * SECOND, abs=0.7 * SECOND)
    assert end.span.end == pytest.approx(14 * SECOND, abs=0.7 * SECOND)
    tracks = [track for tick in ticks for track in tick.tracks]
    assert {track.track_id for track in tracks} == {0}
    for track in tracks:
        for at, box in track.tube.as_dict().items():
            assert box.iou(ball(at / SECOND)) > 0.8  # the box of that frame
    assert {t.state for t in tracks if t.stamp < stamp(12)} == {TrackState.GROUNDED}
    assert ticks[-1].tracks == ()
    assert (tracks[0].query_id, tracks[0].label) == ("ball", "the ball")
    assert (tracks[0].frame_id, tracks[0].width, tracks[0].height) == ("camera_optical", 6, 4)


def test_a_grounding_has_the_stamps_of_the_window(oracle):
    g = grounder(oracle)
    for i in range(100):
        g.push(frame(3 + i / 10))
    answer = g.ask(BALL)
    assert len(answer.window) == 20
    assert answer.window[-1] == stamp(12.9)
    assert answer.span.end == stamp(12.9)
    assert answer.span.start == min(s for s in answer.window if s >= stamp(8))
    assert answer.tube.stamps == tuple(s for s in answer.window if s >= stamp(8))
    assert answer.confidence > 0.99
    assert answer.query is BALL


def test_each_frame_of_a_stream_is_encoded_once(oracle):
    g = grounder(oracle)
    g.add_query(BALL)
    g.add_query(CUP)
    ticks = play(g, 0.0, 20.0, fps=30.0, every=1.0)
    assert sum(len(tick.groundings) for tick in ticks) == 40
    assert len(set(oracle.encoded)) == len(oracle.encoded)
    assert len(oracle.encoded) <= 20 / (6 / 19) + 20 + 1


def test_queries_of_a_tick_share_the_window_and_the_prompt_prefix(oracle):
    g = grounder(oracle)
    for i in range(30):
        g.push(frame(8 + i / 10))
    queries = [replace(CUP, id=f"cup {i}") for i in range(4)] + [BALL]
    for query in queries:
        g.add_query(query)
    tick = g.tick(stamp(11))
    assert [a.query.id for a in tick.groundings] == [q.id for q in queries]
    assert all(len(a.tube) for a in tick.groundings)
    assert tick.groundings[0].tube.boxes[0].iou(cup(8)) > 0.8
    assert tick.groundings[-1].tube.boxes[0].iou(ball(tick.groundings[-1].span.start / 1e9)) > 0.8
    assert oracle.packs == 1
    prompts = PromptBuilder(oracle.tokenizer, oracle.model)
    ids = [list(prompts.build(question_from_query(query)).token_ids) for query in queries]
    shared = ids[0].index(oracle.model.special_tokens.slow_vid_end) + 1
    assert shared > oracle.model.num_fast_tokens + oracle.model.num_slow_tokens
    assert oracle.prefilled == shared + sum(len(i) - shared for i in ids)


def test_a_query_is_evaluated_when_its_period_has_passed_and_there_is_a_new_frame(oracle):
    g = grounder(oracle, confirmations=1)  # no event waits for an early evaluation
    g.add_query(replace(CUP, period=2.0))
    answered = [
        tick.groundings[0].window[-1] / SECOND
        for tick in play(g, 0.0, 10.0, every=0.5)
        if tick.groundings
    ]
    assert answered == pytest.approx([0, 2, 4, 6, 8])
    assert g.tick(stamp(12)).groundings  # a frame since the last answer
    assert not g.tick(stamp(15)).groundings  # none


def test_without_frames_nothing_is_evaluated(oracle):
    g = grounder(oracle)
    g.add_query(BALL)
    assert g.tick(stamp(1)) == Tick()
    assert oracle.packs == 0


def test_one_model_serves_many_cameras(oracle):
    g = grounder(oracle)
    g.add_query(CUP)
    g.add_query(replace(BALL, cameras=("left",)))
    ticks = play(g, 8.0, 12.0, cameras=("left", "right"))
    asked = {(a.query.id, a.camera) for tick in ticks for a in tick.groundings}
    assert asked == {("cup", "left"), ("cup", "right"), ("ball", "left")}
    assert max(len(tick.groundings) for tick in ticks) == 3
    ids = {(t.query_id, t.camera): t.track_id for tick in ticks for t in tick.tracks}
    assert len(set(ids.values())) == len(ids) == 3
    assert g.cameras == ("left", "right")


def test_an_image_task_sees_only_the_newest_frame(oracle):
    g = grounder(oracle, constrained=True, association_iou=0.2)
    g.add_query(replace(BALL, task=Task.REC, period=0.5))
    ticks = play(g, 9.0, 13.0)
    for tick in ticks:
        for answer in tick.groundings:
            assert len(answer.window) == 1
            assert answer.span is None
            assert answer.tube.stamps == answer.window
            assert answer.tube.boxes[0].iou(ball(answer.window[0] / SECOND)) > 0.8
    assert oracle.packs == 0
    assert oracle.images == sum(len(tick.groundings) for tick in ticks) == 8
    assert len(oracle.encoded) == 8
    assert {t.track_id for tick in ticks for t in tick.tracks} == {0}
    assert events_of(ticks) == []


def test_the_grammar_allows_the_same_answers(oracle):
    free, bound = grounder(oracle), grounder(oracle, constrained=True)
    for g in (free, bound):
        for i in range(100):
            g.push(frame(3 + i / 10))
    a, b = free.ask(BALL), bound.ask(BALL)
    assert a.tube == b.tube
    assert a.span == b.span


def test_a_network_with_random_weights_gives_valid_groundings(tokenizer, model):
    """Under the grammar, answers of random weights are well formed."""
    torch = pytest.importorskip("torch", reason="the torch backend needs torch")
    from llava_st_ros.backends.torch import TorchBackend
    from llava_st_ros.model.llava_st import LlavaST

    torch.manual_seed(0)
    torch.set_num_threads(1)
    backend = TorchBackend((LlavaST(model), model))
    g = Grounder(backend, tokenizer, GrounderConfig(no_match_threshold=1.0))
    rng = np.random.default_rng(0)
    queries = [
        BALL,
        replace(CUP, task=Task.REC),
        Query("span", "the cup", Task.SVG, span=(0.3, 0.6)),
    ]
    for query in queries:
        g.add_query(query)
    buffer = FrameBuffer(GrounderConfig().stream, model.num_frames)
    for i in range(80):
        image = Frame(rng.integers(0, 256, (48, 64, 3), np.uint8), stamp(i / 10))
        g.push(image)
        buffer.push(image)
    tick = g.tick(stamp(8))
    assert [a.query for a in tick.groundings] == queries
    stvg, rec, svg = tick.groundings
    inside = tuple(s for s in stvg.window if stvg.span.start <= s <= stvg.span.end)
    assert stvg.tube.stamps == inside
    assert rec.tube.stamps == rec.window == (stamp(7.9),)
    assert svg.tube.stamps == svg.window[6:12]
    for answer in tick.groundings:
        assert not answer.answer.problems
        assert 0.0 < answer.confidence < 1.0
        assert answer.confidence < answer.match_probability <= 1.0
        # Without a shared prefix the answers are the same.
        runner = QueryRunner(backend, tokenizer, GrounderConfig())
        uncached = runner.run(runner.prepare(answer.query, 1.0), UncachedView(backend, buffer))
        assert uncached.answer == answer.answer
        assert uncached.confidence == pytest.approx(answer.confidence, rel=1e-4)
        # As "no match", the same match is the candidate, from the evidence floor on.
        match = answer.match_probability
        for floor, is_decoded in ((0.9 * match, True), (min(1.0, 1.1 * match), False)):
            prepared = runner.prepare(answer.query, 0.9 * (1.0 - match), floor)
            nothing = runner.run(prepared, UncachedView(backend, buffer))
            assert nothing.answer.no_match
            assert nothing.answer.text == tokenizer.decode(nothing.token_ids) == NO_MATCH_TEXT
            assert (nothing.span, len(nothing.tube)) == (None, 0)
            assert nothing.match_probability == pytest.approx(match, rel=1e-4)
            assert nothing.confidence == pytest.approx(1.0 - match, rel=1e-4)
            assert (nothing.candidate is not None) == is_decoded
            if nothing.candidate is not None:
                assert nothing.candidate.span == answer.span
                assert nothing.candidate.tube == answer.tube
                assert nothing.candidate.confidence == pytest.approx(answer.confidence, rel=1e-4)


def test_no_match_threshold_and_calibration_are_those_of_the_kind_of_query(oracle, monkeypatch):
    asked = []
    for_question = Grammar.for_question
    monkeypatch.setattr(
        Grammar,
        "for_question",
        lambda *args: asked.append(args[-2:]) or for_question(*args),
    )
    g = grounder(oracle, constrained=True, no_match_threshold=0.3, evidence_floor=1.0)
    for i in range(100):
        g.push(frame(3 + i / 10))
    g.add_query(BALL)
    g.ask(BALL)
    model = oracle.describe().model
    assert asked == [(0.3, model.calibration.standing), (0.5, None)]
    with pytest.raises(
        ConfigError, match="Grounder's no_match_threshold, evidence_floor cannot change"
    ):
        g.configure(GrounderConfig())
    message = r"no_match_threshold is 1.5; expected a value in \[0, 1\]"
    with pytest.raises(ConfigError, match=message):
        GrounderConfig(no_match_threshold=1.5)


def test_ask_after_a_reset_while_a_frame_was_being_added(oracle, monkeypatch):
    g = grounder(oracle)
    push = FrameBuffer.push

    def push_and_reset(buffer: FrameBuffer, new: Frame) -> bool:
        is_newest = push(buffer, new)
        g.reset()
        return is_newest

    with monkeypatch.context() as patch:
        patch.setattr(FrameBuffer, "push", push_and_reset)
        g.push(frame(5.0))
    with pytest.raises(FrameError, match="no frame yet from any camera"):
        g.ask(BALL)
    g.push(frame(6.0))
    assert g.ask(BALL).window


def test_ask_without_frames_names_the_cameras(oracle):
    g = grounder(oracle)
    with pytest.raises(FrameError, match="no frame yet from any camera"):
        g.ask(BALL)
    g.push(frame(5.0, "left"))
    with pytest.raises(FrameError, match=r"no frame yet from camera 'right'.*came from: left"):
        g.ask(BALL, camera="right")
    with pytest.raises(FrameError, match="'up' or 'down'"):
        g.ask(replace(BALL, cameras=("up", "down")))
    with pytest.raises(FrameError, match="up to 1000 ns"):
        g.ask(BALL, now=1000)
    assert g.ask(CUP).camera == "left"


def test_ask_uses_the_camera_with_the_newest_frame_and_ends_at_now(oracle):
    g = grounder(oracle)
    for i in range(100):
        g.push(frame(3 + i / 10, "left"))
    g.push(frame(14.0, "right"))
    assert g.ask(CUP).camera == "right"
    assert g.ask(replace(CUP, cameras=("left",))).camera == "left"
    assert g.ask(CUP, camera="left", now=stamp(10)).window[-1] <= stamp(10)


def test_ask_does_not_add_a_standing_query(oracle):
    g = grounder(oracle)
    play(g, 8.0, 12.0)
    g.ask(BALL)
    assert g.tick(stamp(12)) == Tick()
    assert g.queries == ()


def test_ask_reports_tokens_and_can_be_cancelled(oracle):
    g = grounder(oracle)
    g.push(frame(9.0))
    tokens: list[int] = []
    full = g.ask(BALL, on_token=tokens.append)
    assert len(tokens) > 20
    part = g.ask(BALL, cancelled=lambda: len(oracle.encoded) > 0)
    assert len(part.tube) < len(full.tube) or part.span is None


def test_ask_can_be_cancelled_while_a_window_is_encoded(oracle):
    g = grounder(oracle)
    for i in range(30):
        g.push(frame(8 + i / 10))
    with pytest.raises(CancelledError):
        g.ask(BALL, cancelled=lambda: len(oracle.encoded) == 3)
    assert len(oracle.encoded) == 3
    assert oracle.prefilled == 0
    answer = g.ask(BALL)
    assert sorted(oracle.encoded) == sorted(set(oracle.encoded))  # none of them again
    assert len(answer.window) > 3


def test_a_removed_query_has_no_further_frames_encoded(oracle):
    g = grounder(oracle)
    for i in range(30):
        g.push(frame(8 + i / 10))
    g.add_query(BALL)
    encode = oracle.encode_frame

    def encode_frame(image: np.ndarray) -> float:
        if len(oracle.encoded) == 2:
            g.remove_query("ball")
        return encode(image)

    oracle.encode_frame = encode_frame
    assert g.tick(stamp(11)) == Tick()
    assert len(oracle.encoded) == 3


def test_an_invalid_query_is_rejected(oracle):
    g = grounder(oracle)
    for values in (
        {"id": ""},
        {"text": "  "},
        {"period": 0.0},
        {"period": math.nan},
        {"expiry": -1.0},
        {"task": Task.SVG},
    ):
        with pytest.raises(QueryError):
            g.add_query(replace(BALL, **values))
    assert g.queries == ()
    with pytest.raises(QueryError, match="no standing query 'x'"):
        g.remove_query("x")


def test_a_query_expires(oracle):
    g = grounder(oracle)
    g.add_query(replace(CUP, expiry=3.0))
    ticks = play(g, 100.0, 110.0)
    last = max(a.window[-1] for tick in ticks for a in tick.groundings)
    assert stamp(102) <= last <= stamp(103)
    assert g.queries == ()
    assert ticks[-1].tracks == ()
    assert [s for _, _, s in events_of(ticks)].count(ENDED) == 1


def test_removing_a_query_ends_its_events_and_drops_its_tracks(oracle):
    g = grounder(oracle)
    g.add_query(BALL)
    g.add_query(CUP)
    play(g, 6.0, 11.0)
    g.remove_query("ball")
    tick = g.tick(stamp(11))
    assert [(e.query_id, e.state) for e in tick.events if e.query_id == "ball"] == [("ball", ENDED)]
    assert {track.query_id for track in tick.tracks} == {"cup"}
    assert g.queries == (CUP,)
    assert not [e for t in play(g, 11.0, 16.0) for e in t.events if e.query_id == "ball"]


def test_adding_an_equal_query_changes_nothing_and_another_text_replaces_it(oracle):
    g = grounder(oracle, confirmations=1)
    g.add_query(BALL)
    (track,) = play(g, 8.0, 11.0)[-1].tracks
    g.add_query(BALL)
    assert g.tick(stamp(11)).tracks[0].track_id == track.track_id
    changed = replace(CUP, id="ball")
    g.add_query(changed)
    assert g.queries == (changed,)
    tick = g.tick(stamp(11.5))
    assert [e.state for e in tick.events] == [ENDED, CONFIRMED]
    assert [e.text for e in tick.events] == ["the ball", "the cup"]
    assert [t.label for t in tick.tracks] == ["the cup"]
    assert tick.tracks[0].track_id != track.track_id


@pytest.mark.parametrize("again", [True, False])
def test_an_answer_to_a_query_changed_meanwhile_is_dropped(oracle, again):
    g = grounder(oracle)
    for i in range(30):
        g.push(frame(8 + i / 10))
    g.add_query(BALL)

    def change() -> None:
        oracle.before_extend = lambda: None
        g.remove_query("ball")
        if again:
            g.add_query(replace(CUP, id="ball"))

    oracle.before_extend = change  # while the answer is being decoded
    assert g.tick(stamp(11)) == Tick()
    tick = g.tick(stamp(12))
    assert [a.query.text for a in tick.groundings] == (["the cup"] if again else [])


def test_a_cancelled_tick_changes_nothing(oracle):
    g = grounder(oracle)
    g.push(frame(9.0))
    g.add_query(BALL)
    stop = threading.Event()
    oracle.before_extend = stop.set
    assert g.tick(stamp(9), cancelled=lambda: len(g.queries) == 1 and stop.is_set()) == Tick()


def test_answers_below_min_confidence_are_returned_without_tracks_and_events(oracle):
    oracle.certainty = 3.0
    g = grounder(oracle, min_confidence=0.5)
    g.add_query(CUP)
    ticks = play(g, 0.0, 5.0)
    answers = [a for t in ticks for a in t.groundings]
    assert len(answers) == 5
    assert all(len(a.tube) and 0 < a.confidence < 0.5 for a in answers)
    assert not any(t.tracks or t.events for t in ticks)


def test_a_bag_that_restarts_resets_the_stream(oracle):
    g = grounder(oracle)
    g.add_query(CUP)
    first = play(g, 50.0, 60.0)
    second = play(g, 0.0, 10.0)[1:]  # the first tick sees one frame, which may be a wrong stamp
    assert g.counts("camera").resets == 1
    assert len([a for t in second for a in t.groundings]) == 10
    assert all(s <= stamp(10) for t in second for a in t.groundings for s in a.window)
    old, new = ({t.track_id for tick in ticks for t in tick.tracks} for ticks in (first, second))
    assert len(old) == len(new) == 1
    assert old != new
    states = [(i, s) for _, i, s in events_of(second) if s is not CONFIRMED]
    assert states == [(0, ENDED), (1, PROVISIONAL)]


def test_settings_of_tracks_and_events_can_change(oracle):
    oracle.certainty = 3.0
    g = grounder(oracle, min_confidence=0.5)
    g.add_query(CUP)
    assert not play(g, 0.0, 3.0)[-1].tracks
    g.configure(GrounderConfig(constrained=False, min_confidence=0.1, track_timeout_seconds=9.0))
    (track,) = play(g, 3.0, 6.0)[-1].tracks
    assert g.tick(stamp(14)).tracks[0].track_id == track.track_id
    g.configure(GrounderConfig(constrained=False, track_timeout_seconds=1.0))
    g.tick(stamp(17))
    assert g.tick(stamp(19)).tracks == ()
    with pytest.raises(ConfigError, match="Grounder's stream, constrained cannot change"):
        g.configure(GrounderConfig(stream=StreamConfig(window_seconds=1.0)))


def test_reset_drops_the_stream_and_keeps_the_queries(oracle):
    g = grounder(oracle)
    g.add_query(CUP)
    play(g, 50.0, 60.0)
    g.reset()
    assert g.queries == (CUP,)
    assert g.cameras == ()
    assert g.tick(stamp(60)) == Tick()
    ticks = play(g, 0.0, 2.0)
    assert ticks[0].groundings
    assert events_of(ticks)[0][2] is PROVISIONAL


def test_push_and_ask_during_a_tick(oracle):
    """Pushes do not wait for an answer; every answer is complete and has the right stamps."""
    g = grounder(oracle)
    g.push(frame(0.0))
    g.add_query(CUP)
    failures: list[BaseException] = []
    answers = []
    in_answer, resume = threading.Event(), threading.Event()

    def hold() -> None:
        in_answer.set()
        assert resume.wait(30)

    def tick() -> None:
        try:
            answers.extend(g.tick(stamp(0)).groundings)
        except BaseException as error:
            failures.append(error)

    def ask() -> None:
        try:
            answers.append(g.ask(BALL))
        except BaseException as error:
            failures.append(error)

    oracle.before_extend = hold
    ticker = threading.Thread(target=tick)
    ticker.start()
    assert in_answer.wait(30)
    for i in range(1, 100):  # all while the model is held in the middle of an answer
        g.push(frame(i / 10))
    assert g.queries == (CUP,)
    one_shot = threading.Thread(target=ask)
    one_shot.start()
    resume.set()
    ticker.join(30)
    one_shot.join(30)
    assert not failures
    assert {a.query.id: a.window[-1] for a in answers} == {"cup": 0, "ball": stamp(9.9)}


def test_queries_that_differ_only_in_the_span_get_their_own_answers(oracle):
    """Their prompts have the same ids; only the values after the prefix differ."""
    g = grounder(oracle)
    for i in range(100):
        g.push(frame(3 + i / 10))
    for span in ((0.0, 0.25), (0.5, 1.0)):
        g.add_query(Query(f"{span}", "the cup", Task.SVG, span=span))
    first, second = g.tick(stamp(13)).groundings
    assert first.tube.stamps == first.window[: round(0.25 * 19) + 1]
    assert second.tube.stamps == second.window[round(0.5 * 19) :]


def test_a_standing_video_query_waits_for_history_and_again_after_a_reset(oracle):
    g = grounder(oracle, stream=StreamConfig(window_seconds=6.0, history=0.9))
    g.add_query(BALL)
    g.add_query(replace(CUP, task=Task.REC))
    answered: dict[str, list[float]] = {"ball": [], "cup": []}
    for tick, now in zip(play(g, 20.0, 32.0), np.arange(20.0, 32.0, 0.5)):
        for grounding in tick.groundings:
            answered[grounding.query.id].append(now)
    assert answered["cup"][0] == 20.0  # an image needs no history
    assert 24.5 <= answered["ball"][0] <= 26.0
    g.push(frame(10.0))  # the bag restarts
    assert {gr.query.id for gr in g.tick(stamp(10.0)).groundings} <= {"cup"}


def failing(oracle: Oracle, words: str, error: BaseException) -> dict[str, bool]:
    """Make the model raise ``error`` when a prompt contains ``words``, while the result is on."""
    switch, prefill = {"on": True}, oracle.prefill

    def checked(embeddings, cache):
        if switch["on"] and words in oracle.tokenizer.decode([i for i, _ in embeddings]):
            cache.items.append("garbage of an incomplete call")
            raise error
        return prefill(embeddings, cache)

    oracle.prefill = checked
    return switch


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error:\n out of memory"),
        MemoryError(),
        BackendError("the cache is full"),
        RecursionError("too deep"),
        OverflowError("int too large"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_answer_costs_only_itself(oracle, error):
    failing(oracle, "the cup", error)
    g = grounder(oracle, confirmations=1)
    for query in (replace(BALL, id="before"), CUP, replace(BALL, id="after")):
        g.add_query(query)
    for i in range(30):
        g.push(frame(8 + i / 10))
    tick = g.tick(stamp(11))
    assert [(a.query.id, len(a.tube) > 0) for a in tick.groundings] == [
        ("before", True),
        ("after", True),
    ]
    assert {track.query_id for track in tick.tracks} == {"before", "after"}
    (failure,) = tick.failures
    assert (failure.query_id, failure.camera, failure.count) == ("cup", "camera", 1)
    assert failure.retry_at == stamp(11.9)  # a second after the newest frame
    assert "\n" not in failure.error
    assert str(error).split("\n")[0] in failure.error
    assert type(error).__name__ in failure.trace
    assert g.failures == (failure,)


def test_a_failing_query_is_retried_ever_more_rarely_and_recovers(oracle):
    switch = failing(oracle, "the cup", RuntimeError("device lost"))
    g = grounder(oracle)
    g.add_query(CUP)
    g.add_query(BALL)
    ticks = play(g, 0.0, 130.0, fps=1.0, every=1.0)
    failures = [failure for tick in ticks for failure in tick.failures]
    # Retried after 1, 2, 4, ... s, at most every minute.
    waits = [b.retry_at - a.retry_at for a, b in itertools.pairwise(failures)]
    assert waits == [w * SECOND for w in (2, 4, 8, 16, 32, 60, 60)]
    assert [failure.count for failure in failures] == list(range(1, 9))
    assert sum(a.query.id == "ball" for tick in ticks for a in tick.groundings) == 130
    assert g.failures == (failures[-1],)
    switch["on"] = False
    ticks = play(g, 130.0, 190.0, fps=1.0, every=1.0)
    answered = [a.window[-1] for tick in ticks for a in tick.groundings if a.query.id == "cup"]
    assert answered[0] == failures[-1].retry_at
    assert answered[1] - answered[0] == SECOND  # its own period again
    assert g.failures == ()
    assert not any(tick.failures for tick in ticks)


def test_a_failure_of_a_replaced_query_is_forgotten(oracle):
    failing(oracle, "the cup", RuntimeError("device lost"))
    g = grounder(oracle)
    g.add_query(replace(CUP, id="a"))
    g.push(frame(9.0))
    assert g.tick(stamp(9)).failures
    g.add_query(replace(BALL, id="a"))
    assert g.failures == ()
    assert g.tick(stamp(9)).groundings


def test_a_failing_query_is_evaluated_at_once_after_the_clock_jumped_back(oracle):
    switch = failing(oracle, "the cup", RuntimeError("device lost"))
    g = grounder(oracle)
    g.add_query(CUP)
    g.push(frame(90.0))
    assert g.tick(stamp(90)).failures
    switch["on"] = False
    g.push(frame(10.0))
    g.push(frame(10.1))
    assert g.tick(stamp(10.1)).groundings


def test_a_failing_one_shot_query_raises_and_leaves_the_standing_queries_alone(oracle):
    failing(oracle, "the cup", RuntimeError("device lost"))
    g = grounder(oracle)
    g.add_query(BALL)
    g.push(frame(9.0))
    with pytest.raises(RuntimeError, match="device lost"):
        g.ask(CUP)
    assert g.failures == ()
    assert len(g.tick(stamp(9)).groundings) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_ends_the_tick(oracle, error):
    failing(oracle, "the cup", error)
    g = grounder(oracle)
    g.add_query(CUP)
    g.push(frame(9.0))
    with pytest.raises(type(error)):
        g.tick(stamp(9))


def test_a_failing_camera_does_not_stop_the_other(oracle):
    encode = oracle.encode_frame

    def checked(image):
        if image.shape[0] == 8:
            raise ValueError("an image of another kind")
        return encode(image)

    oracle.encode_frame = checked
    g = grounder(oracle)
    g.add_query(CUP)
    g.push(frame(9.0, "bad", size=(8, 6)))
    g.push(frame(9.0, "good"))
    tick = g.tick(stamp(9))
    assert [a.camera for a in tick.groundings] == ["good"]
    assert [f.camera for f in tick.failures] == ["bad"]


def test_a_replay_reports_failures_and_fails_if_a_query_was_never_answered(oracle):
    switch = failing(oracle, "the cup", RuntimeError("device lost"))
    frames = [frame(i / 2) for i in range(30)]

    def run(after: float):
        switch["on"] = True

        def footage():
            for image in frames:
                switch["on"] = image.stamp < stamp(after)
                yield image

        g = grounder(oracle)
        return replay(g, footage(), [CUP, BALL])

    result = run(after=10)
    assert [f.count for f in result.failures_by_query()["cup"]] == [1, 2, 3, 4]
    assert set(result.failures_by_query()) == {"cup"}
    assert {a.query.id for a in result.groundings} == {"cup", "ball"}
    with pytest.raises(BackendError, match=r"4 evaluations failed.*'cup': RuntimeError: device"):
        result.check_complete()
    with pytest.raises(BackendError, match="query 'cup' was never answered: RuntimeError: device"):
        run(after=100)


def test_a_camera_stamped_ahead_starves_no_other_camera(oracle):
    """Without a time of arrival the stamp may be true; the other camera has its own clock."""
    g = grounder(oracle, confirmations=1)
    g.add_query(CUP)
    g.push(frame(0.0, "left"))
    g.push(frame(0.0, "right"))
    g.tick()
    g.push(Frame(frame(0.0).image, stamp(3600), "left"))
    answered, tracks = [], []
    for i in range(1, 101):
        g.push(frame(i / 10, "right"))
        tick = g.tick()
        answered += [a.window[-1] for a in tick.groundings if a.camera == "right"]
        tracks.append({t.track_id for t in tick.tracks if t.camera == "right"})
    assert answered == [stamp(second) for second in range(1, 11)]
    assert len({*map(frozenset, tracks)}) == 1  # one track, never dropped


def test_a_wrong_stamp_changes_no_answer_track_or_event_of_its_camera(oracle):
    ticks = []
    for wrong in ((), (3600.0,), (-50.0,), (3600.0, 7200.0, 3.0)):
        g = grounder(oracle)
        g.add_query(BALL)
        ticks.append([])
        for i in range(200):
            at = i / 10
            g.push(replace(frame(at), arrival=stamp(at)))
            if i in (95, 130):
                for seconds in wrong:
                    image = frame(99.0).image
                    g.push(Frame(image, stamp(seconds), arrival=stamp(at)))
            ticks[-1].append(g.tick())
        assert g.counts("camera").implausible == 2 * len(wrong)
        assert g.counts("camera").resets == 0
    assert ticks[0] == ticks[1] == ticks[2] == ticks[3]
    assert {e.state for tick in ticks[0] for e in tick.events} == {PROVISIONAL, CONFIRMED, ENDED}


def test_a_stream_that_restarts_on_one_camera_leaves_the_other_alone(oracle):
    g = grounder(oracle)
    g.add_query(CUP)
    tracks: dict[str, set[int]] = {"left": set(), "right": set()}
    ended = []
    for i in range(200):
        left = 50 + i / 10 if i < 100 else (i - 100) / 10  # a bag in a loop
        g.push(frame(left, "left"))
        g.push(frame(i / 10, "right"))
        tick = g.tick()
        for track in tick.tracks:
            tracks[track.camera].add(track.track_id)
        ended += [e.camera for e in tick.events if e.state is ENDED]
    assert (len(tracks["left"]), len(tracks["right"])) == (2, 1)
    assert ended == ["left"]
    (jump,) = g.stream_report("left").jumps
    assert (jump.before, jump.after) == (stamp(59.9), stamp(0.0))


def test_expiry_is_measured_in_the_time_that_passes_on_the_streams(oracle):
    """Whatever the cameras' clocks show, how they alternate, and whether one of them jumps."""
    g = grounder(oracle)
    g.add_query(replace(CUP, expiry=5.0))
    for i in range(200):
        left = 500 + i / 10 if i < 20 else (i - 20) / 10
        g.push(frame(left, "left"))
        g.tick()
        g.push(frame(100 + i / 10, "right"))
        g.tick()
        if not g.queries:
            break
    assert i / 10 == pytest.approx(5.1, abs=0.11)


def test_tracks_of_a_silent_camera_end(oracle):
    g = grounder(oracle, track_timeout_seconds=1.0)
    g.add_query(CUP)
    play(g, 0.0, 3.0, cameras=("left", "right"))
    ids = {t.camera for t in g.tick().tracks}
    assert ids == {"left", "right"}
    states = []
    for i in range(30, 80):
        g.push(frame(i / 10, "right"))
        states.append({t.camera: t.state for t in g.tick().tracks})
    assert {s.get("right") for s in states} == {TrackState.GROUNDED}
    assert states[-1].get("left") is None
    assert TrackState.LOST in {s.get("left") for s in states}


def test_a_silent_camera_loses_its_tracks_and_ends_its_events(oracle):
    g = grounder(oracle, track_timeout_seconds=1.0)
    g.add_query(CUP)
    play(g, 0.0, 3.0, cameras=("left", "right"))
    assert {(t.camera, t.state) for t in g.collect().tracks} == {
        ("left", TrackState.GROUNDED),
        ("right", TrackState.GROUNDED),
    }
    states, events = [], []
    for silence in (2.0, 2.5, 2.9, 3.1, 60.0):  # seconds; the last image was stamped 2.9
        g.set_silence("left", stamp(silence))
        tick = g.collect()
        states.append({t.camera: t.state.name for t in tick.tracks})
        events.append([(e.camera, e.state, e.reason) for e in tick.events])
    lost = {"left": "LOST", "right": "GROUNDED"}
    assert states == [lost, lost, lost, {"right": "GROUNDED"}, {"right": "GROUNDED"}]
    assert events == [[("left", ENDED, EndReason.CAMERA_SILENT)], [], [], [], []]
    g.set_silence("unknown", stamp(9))
    assert g.collect().events == ()


@pytest.mark.parametrize(("pause", "is_same_track"), [(3.0, True), (100.0, False)])
def test_the_stream_of_a_silent_camera_goes_on(oracle, pause, is_same_track):
    """Within ``memory_seconds`` by the stamps, its track does; an event that does is a new one."""
    g = grounder(oracle)
    g.add_query(CUP)
    (before,) = play(g, 0.0, 6.0)[-1].tracks
    g.set_silence("camera", stamp(2))
    (ended,) = g.collect().events
    g.set_silence("camera", stamp(pause))
    assert g.collect().events == ()
    assert (ended.state, ended.reason) == (ENDED, EndReason.CAMERA_SILENT)
    ticks = play(g, 6.0 + pause, 14.0 + pause)
    assert g.counts("camera").resets == 0
    (after,) = ticks[-1].tracks
    assert after.state is TrackState.GROUNDED
    assert (after.track_id == before.track_id) is is_same_track
    again = [e for tick in ticks for e in tick.events]
    assert ended.event_id not in {e.event_id for e in again}
    assert {e.event_id for e in again if e.state is CONFIRMED}
    assert all(e.span.start > ended.span.end for e in again)


def test_an_answer_about_the_last_frames_of_a_silent_camera_is_no_news(oracle):
    """The model was busy when the camera fell silent: the answer must not revive its tracks."""
    g = grounder(oracle, confirmations=1)
    g.add_query(CUP)
    play(g, 0.0, 3.0)
    g.push(frame(4.0))
    changed: list[Tick] = []

    def fall_silent() -> None:
        oracle.before_extend = lambda: None
        g.set_silence("camera", stamp(2))
        changed.append(g.collect())

    oracle.before_extend = fall_silent
    tick = g.tick()
    assert len(tick.groundings) == 1
    assert [(e.state, e.reason) for e in changed[0].events] == [(ENDED, EndReason.CAMERA_SILENT)]
    for found in (*changed, tick):
        assert {t.state for t in found.tracks} == {TrackState.LOST}
    assert {e.state for e in tick.events} <= {CONFIRMED, ENDED}
    assert [e.state for e in tick.events].count(CONFIRMED) <= [e.state for e in tick.events].count(
        ENDED
    )


def test_what_is_true_is_collected_while_the_model_hangs(oracle):
    """Time passes with the frames: tracks are LOST and end, removed queries' events end."""
    g = grounder(oracle, confirmations=1, track_timeout_seconds=1.0)
    g.add_query(CUP)
    play(g, 0.0, 3.0)
    states, events = [], []

    def hang() -> None:
        oracle.before_extend = lambda: None
        for i in range(30, 80):
            g.push(frame(i / 10))
            tick = g.collect()
            states.append([t.state for t in tick.tracks])
            events.extend(tick.events)
        g.remove_query("cup")
        events.extend(g.collect().events)

    oracle.before_extend = hang
    g.push(frame(3.95))
    assert g.tick().groundings == ()
    kinds = [state for state, _ in itertools.groupby(states)]
    assert kinds == [[TrackState.GROUNDED], [TrackState.LOST], []]
    assert [(e.state, e.reason) for e in events] == [(ENDED, EndReason.QUERY_REMOVED)]


@pytest.mark.parametrize(("confirmations", "state"), [(1, ENDED), (6, EventState.RETRACTED)])
def test_a_hung_model_ends_events_and_loses_tracks_on_all_cameras_once(
    oracle, confirmations, state
):
    g = grounder(oracle, confirmations=confirmations, track_timeout_seconds=2.0)
    g.add_query(CUP)
    play(g, 1.0, 3.0, cameras=("left", "right"))
    before = g.collect().tracks
    assert len(before) == (2 if state is ENDED else 0)
    events, tracks = [], []

    def hang() -> None:
        oracle.before_extend = lambda: None
        for i in range(40, 80):
            g.push(frame(i / 10, "left"))
            g.push(frame(i / 10, "right"))
            if i >= 45:  # the watchdog's checks
                g.set_hung()
            tick = g.collect()
            events.append([(e.camera, e.state, e.reason) for e in tick.events])
            tracks.append({t.state for t in tick.tracks})

    oracle.before_extend = hang
    g.push(frame(3.95, "left"))
    g.tick()
    assert events[:5] == [[]] * 5
    ends = [(camera, state, EndReason.MODEL_HANGS) for camera in ("left", "right")]
    assert events[5:] == [ends] + [[]] * 34
    kinds = [state for state, _ in itertools.groupby(tracks)]
    assert kinds == ([{TrackState.GROUNDED}, {TrackState.LOST}, set()] if before else [set()])
    assert tracks[4:6] == ([{TrackState.GROUNDED}, {TrackState.LOST}] if before else [set()] * 2)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 60.0])
def test_after_a_hang_of_the_model_events_are_new(oracle, seconds):
    """Short hangs leave evidence of before, which must not revive what has ended."""
    g = grounder(oracle, confirmations=1)
    g.add_query(CUP)
    (track,) = play(g, 0.0, 6.0)[-1].tracks
    ended: list[Event] = []

    def hang() -> None:
        oracle.before_extend = lambda: None
        g.set_hung()
        ended.extend(g.collect().events)
        for i in range(1, round(10 * seconds)):
            g.push(frame(7.0 + i / 10))
        g.set_hung()
        assert g.collect().events == ()

    oracle.before_extend = hang
    g.push(frame(7.0))
    late = g.tick()
    assert [(e.state, e.reason) for e in ended] == [(ENDED, EndReason.MODEL_HANGS)]
    assert [answer.window[-1] for answer in late.groundings] == [stamp(7.0)]
    assert {t.state for t in late.tracks} == {TrackState.LOST}
    last = {e.event_id: e for e in late.events}
    assert {e.state for e in last.values()} <= {ENDED}  # of what its answer shows, none goes on
    ticks = play(g, 7.0 + seconds, 15.0 + seconds)
    assert {t.state for t in ticks[-1].tracks} == {TrackState.GROUNDED}
    assert (ticks[-1].tracks[0].track_id == track.track_id) is (seconds < 30.0)
    again = [e for tick in ticks for e in tick.events]
    assert not {e.event_id for e in again} & {e.event_id for e in (*ended, *last.values())}
    ends = [e.span.end for e in (*ended, *last.values())]
    assert all(e.span.start > max(ends) for e in again)
    assert {e.state for e in again} == {CONFIRMED}


def test_the_evaluation_that_follows_a_hang_sees_new_frames(oracle):
    """The queries of a tick share its windows, but not that of before the hang."""
    g = grounder(oracle, confirmations=1)
    g.add_query(CUP)
    g.add_query(replace(CUP, id="second"))
    play(g, 0.0, 3.0)
    g.push(frame(4.0))

    def hang() -> None:
        oracle.before_extend = lambda: None
        g.set_hung()
        g.push(frame(5.0))

    oracle.before_extend = hang
    tick = g.tick()
    assert [(a.query.id, a.window[-1]) for a in tick.groundings] == [
        ("cup", stamp(4.0)),
        ("second", stamp(5.0)),
    ]
    last = {e.event_id: (e.query_id, e.state) for e in tick.events}
    assert [found for found in last.values() if found[1] is CONFIRMED] == [("second", CONFIRMED)]


def test_a_slow_model_does_not_lose_its_tracks_between_two_answers(oracle):
    """An answer takes 8 s, longer than the timeout and the period of a track together."""
    g = grounder(oracle)
    g.add_query(CUP)
    now = [0.0]

    def pass_time() -> None:
        oracle.before_extend = lambda: None
        for _ in range(80):
            now[0] += 0.1
            g.push(frame(now[0]))
            found.append(g.collect().tracks)

    g.push(frame(0.0))
    found: list[tuple[Track, ...]] = []
    for answer in range(6):
        oracle.before_extend = pass_time
        assert len(g.tick().groundings) == 1
        if answer == 1:
            found.clear()  # confirmed from here on
    assert {t.state for tracks in found for t in tracks} == {TrackState.GROUNDED}
    assert all(found)


def test_events_have_the_reason_of_their_end(oracle):
    def reasons(end: Callable[[Grounder], Tick], **fields) -> set[EndReason]:
        g = grounder(oracle, confirmations=1)
        g.add_query(replace(CUP, **fields))
        play(g, 100.0, 103.0)
        tick = end(g)
        assert tick.tracks == ()
        return {e.reason for e in tick.events if e.state is ENDED}

    def replaced(g: Grounder) -> Tick:
        g.add_query(replace(BALL, id="cup"))
        return g.collect()

    def removed(g: Grounder) -> Tick:
        g.remove_query("cup")
        return g.collect()

    def expired(g: Grounder) -> Tick:
        g.push(frame(104.0))
        return g.collect()

    def restarted(g: Grounder) -> Tick:
        for i in range(5):
            g.push(frame(i / 10))
        return g.collect()

    def stopped(g: Grounder) -> Tick:
        g.stop(EndReason.DEACTIVATED)
        assert [query.id for query in g.queries] == ["cup"]
        return g.collect()

    assert reasons(replaced) == {EndReason.QUERY_REPLACED}
    assert reasons(removed) == {EndReason.QUERY_REMOVED}
    assert reasons(expired, expiry=3.5) == {EndReason.QUERY_EXPIRED}
    assert reasons(restarted) == {EndReason.STREAM_ENDED}
    assert reasons(stopped) == {EndReason.DEACTIVATED}


def test_finish_evaluates_what_is_left_and_ends_events(oracle):
    g = grounder(oracle, stream=StreamConfig(history=0.9))
    g.add_query(replace(BALL, period=60.0))
    play(g, 8.0, 10.0)  # too short for the history
    tick = g.finish()
    assert [a.window[-1] for a in tick.groundings] == [stamp(9.9)]
    assert [e.state for e in tick.events] == [CONFIRMED, ENDED]  # no second answer can confirm it
    assert [len(track.tube) for track in tick.tracks] == [len(set(tick.groundings[0].window))]
    assert g.finish() == replace(tick, groundings=(), events=())


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize(
    "query",
    [
        BALL,
        replace(BALL, task=Task.REC),
        replace(BALL, task=Task.SVG, span=(0.2, 0.4)),
        replace(BALL, task=Task.TVG),
        Query("q", "", Task.DVC),
        Query("q", "", Task.ELC, span=(0.5, 1.0), box=Box(0.1, 0.1, 0.2, 0.2)),
    ],
    ids=lambda query: query.task.value,
)
def test_a_query_needs_positions_for_its_prompt_and_an_answer(oracle, query, constrained):
    """The limit is exact: one position fewer than it names is refused."""

    def runner(positions: int, **settings) -> QueryRunner:
        language = replace(oracle.model.language, max_position_embeddings=positions)
        model = Oracle(oracle.tokenizer, replace(oracle.model, language=language))
        settings = {"constrained": constrained, **settings}
        return QueryRunner(model, oracle.tokenizer, GrounderConfig(**settings))

    prompt = len(runner(10_000).prepare(query).prompt.token_ids)
    with pytest.raises(QueryError) as caught:
        runner(prompt).prepare(query)
    message = str(caught.value)
    needed, visual, words, room, limit = map(int, re.findall(r"\d+", message)[:5])
    assert needed == visual + words + room
    assert (visual + words, limit) == (prompt, prompt)
    assert message.endswith(f"shorten its text by {room} tokens")
    runner(needed).prepare(query)
    with pytest.raises(QueryError, match="shorten its text by 1 tokens"):
        runner(needed - 1).prepare(query)
    runner(prompt + 5, max_new_tokens=5).prepare(query)  # no answer is longer than that


def test_the_room_for_an_answer_is_that_of_the_longest_tube(oracle):
    g = grounder(oracle)
    for i in range(100):
        g.push(frame(8 + i * 0.06))
    answer = g.ask(BALL)
    assert len(answer.tube) == 20  # the ball is in every frame of the window
    tokens = len(oracle.tokenizer.encode(answer.answer.text))
    prompts = PromptBuilder(oracle.tokenizer, oracle.model)
    assert answer_room(Task.STVG, (), prompts, oracle.model) == tokens + 1


def test_a_query_too_long_for_the_model_is_refused_and_the_others_are_answered(oracle):
    language = replace(oracle.model.language, max_position_embeddings=2048)
    model = Oracle(oracle.tokenizer, replace(oracle.model, language=language))
    g = grounder(model)
    g.add_query(BALL)
    long = replace(CUP, text="\U0001f600" * 1990)
    with pytest.raises(QueryError, match=r"the query needs \d+ positions .* the model has 2048"):
        g.add_query(long)
    g.push(frame(9.0))
    with pytest.raises(QueryError, match="positions"):
        g.ask(long)
    assert g.queries == (BALL,)
    assert len(g.tick().groundings) == 1


def test_the_profile_of_an_engine_limits_the_positions(oracle):
    full = BackendDescription("x", oracle.model, "cpu", "float32")
    assert full.max_positions == oracle.model.language.max_position_embeddings
    assert replace(full, positions=100).max_positions == 100
    assert replace(full, positions=10**6).max_positions == full.max_positions
    small = Oracle(oracle.tokenizer, oracle.model)
    small.describe = lambda: replace(full, positions=400)
    with pytest.raises(QueryError, match="but the model has 400"):
        grounder(small).add_query(BALL)


def test_standing_queries_are_bounded(oracle):
    g = grounder(oracle, max_queries=2)
    g.add_query(BALL)
    g.add_query(CUP)
    message = "there are 2 standing queries; max_queries is 2; remove one, or raise max_queries"
    with pytest.raises(QueryError, match=message):
        g.add_query(replace(CUP, id="more"))
    g.add_query(replace(CUP, period=3.0))  # replaces one
    g.configure(GrounderConfig(constrained=False, max_queries=3))
    g.add_query(replace(CUP, id="more"))
    g.configure(GrounderConfig(constrained=False, max_queries=1))
    assert len(g.queries) == 3  # those that exist are kept
    with pytest.raises(QueryError, match="max_queries is 1"):
        g.add_query(replace(CUP, id="another"))
    with pytest.raises(ConfigError, match="max_queries is 0"):
        GrounderConfig(max_queries=0)


def test_the_pace_of_a_query_is_the_time_between_its_evaluations(oracle):
    g = grounder(oracle, confirmations=1)  # no event waits for an early evaluation
    g.add_query(replace(CUP, period=0.5))
    g.add_query(replace(BALL, period=2.0))
    assert g.paces == ()
    play(g, 0.0, 20.0, fps=5.0, every=1.0)  # ticks are too rare for the cup
    paces = {pace.query_id: pace for pace in g.paces}
    assert paces["cup"].reached == pytest.approx(1.0)
    assert (paces["cup"].period, paces["cup"].camera) == (0.5, "camera")
    assert paces["ball"].reached == pytest.approx(2.0)
    assert g.newest == {"camera": stamp(19.8)}
