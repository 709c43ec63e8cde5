"""Runs one query on one view of a camera: prompt, decoding, parsing, mapping to stamps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from llava_st_ros.backends.base import Backend
from llava_st_ros.calibration import QueryCalibration
from llava_st_ros.config import GrounderConfig
from llava_st_ros.decoding.generate import generate
from llava_st_ros.errors import QueryError
from llava_st_ros.records import (
    Answer,
    BoxTube,
    Candidate,
    Grounding,
    Modality,
    Prompt,
    Query,
    Segment,
    Span,
    Task,
)
from llava_st_ros.streaming.view import CameraView
from llava_st_ros.streaming.window import Window, span_of_tokens, tube_of_tokens
from llava_st_ros.text.answer_format import NO_MATCH_TEXT
from llava_st_ros.text.answer_room import answer_room
from llava_st_ros.text.answers import parse
from llava_st_ros.text.grammar import EVEN_ODDS, Grammar
from llava_st_ros.text.prompt import PromptBuilder, visual_block
from llava_st_ros.text.tasks import Question, question_from_query
from llava_st_ros.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PreparedQuery:
    """A query with its prompt and grammar, which do not depend on the window.

    Attributes:
        query: The query.
        prompt: Its prompt.
        grammar: Its grammar; None for decoding without constraints.
        no_match_threshold: P(no match) from which the answer is "no match", also where the grammar
            decodes the most probable match; 1 for never.
    """

    query: Query
    prompt: Prompt
    grammar: Grammar | None
    no_match_threshold: float = EVEN_ODDS


class QueryRunner:
    """Runs queries on a model. Keeps no state between two queries."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer, config: GrounderConfig) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._config = config
        self._model = backend.describe().model
        self._prompts = PromptBuilder(tokenizer, self._model)
        self._no_match_ids = tuple(tokenizer.encode_user(NO_MATCH_TEXT))
        self._answer_room = lru_cache(64)(
            partial(answer_room, prompts=self._prompts, config=self._model)
        )

    def prepare(
        self,
        query: Query,
        no_match_threshold: float = EVEN_ODDS,
        evidence_floor: float = 1.0,
        calibration: QueryCalibration | None = None,
    ) -> PreparedQuery:
        """Build the prompt and the grammar of a query.

        Args:
            query: The query.
            no_match_threshold: P(no match) from which the answer is "no match"; 1 for never.
            evidence_floor: P(match) from which the most probable match is decoded all the same, as
                the candidate of the grounding; 1 for never.
            calibration: How probabilities are corrected; by default as for one-shot queries.

        Raises:
            QueryError: The query lacks an input that its task needs, or leaves no room for an
                answer in the model's positions.
        """
        question = question_from_query(query)
        grammar = None
        if self._config.constrained:
            grammar = Grammar.for_question(
                question,
                self._tokenizer,
                self._model,
                max(no_match_threshold, 1.0 - evidence_floor),
                calibration,
            )
        prompt = self._prompts.build(question)
        self._check_positions(question, prompt)
        return PreparedQuery(query, prompt, grammar, no_match_threshold)

    def _check_positions(self, question: Question, prompt: Prompt) -> None:
        """Raise QueryError unless the prompt and an answer fit the model's positions."""
        room = self._answer_room(question.task, question.temporal_inputs)
        room = min(room, self._config.max_new_tokens)
        length, limit = len(prompt.token_ids), self._backend.describe().max_positions
        if length + room <= limit:
            return
        visual = len(visual_block(self._model, question.modality))
        raise QueryError(
            f"the query needs {length + room} positions ({visual} visual tokens, "
            f"{length - visual} tokens of the prompt, {room} for the answer), but the model has "
            f"{limit}",
            f"shorten its text by {length + room - limit} tokens",
        )

    def run(
        self,
        prepared: PreparedQuery,
        view: CameraView,
        *,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Grounding | None:
        """Run a query.

        Args:
            prepared: The query, from ``prepare``.
            view: The camera's window or newest frame.
            on_token: Called with each generated id.
            cancelled: Called before each frame of a window is encoded and before each decoding
                step; True ends the answer early.

        Returns:
            The grounding, of a partial answer if it was cancelled while it was decoded; None if it
            was cancelled before, or if the view has no frame.
        """
        query = prepared.query
        window = view.window(query.task.modality, cancelled)
        if window is None:
            return None
        embeddings, cache = view.prefix(query.task.modality).resume(prepared.prompt)
        generation = generate(
            self._backend,
            embeddings,
            self._tokenizer,
            cache=cache,
            grammar=prepared.grammar,
            max_new_tokens=self._config.max_new_tokens,
            on_token=on_token,
            cancelled=cancelled,
        )
        answer = parse(generation.ids, query.task, self._model, tokenizer=self._tokenizer)
        grounding = replace(
            to_grounding(query, answer, window, generation.confidence),
            token_ids=generation.ids,
            match_probability=generation.match_probability,
        )
        threshold = prepared.no_match_threshold
        if not generation.no_match and is_no_match(generation.match_probability, threshold):
            return as_no_match(grounding, self._no_match_ids)
        return grounding


def is_no_match(match_probability: float | None, no_match_threshold: float) -> bool:
    """Whether the answer is "no match"; None as the probability is that of no choice."""
    if match_probability is None or no_match_threshold >= 1.0:
        return False
    return 1.0 - match_probability >= no_match_threshold


def as_no_match(found: Grounding, no_match_ids: tuple[int, ...]) -> Grounding:
    """Return "no match" as the answer, with the decoded match as its candidate.

    Args:
        found: A grounding with a match and its probability.
        no_match_ids: The token ids of the answer "no match".
    """
    assert found.match_probability is not None
    return replace(
        found,
        answer=Answer(found.query.task, text=NO_MATCH_TEXT, no_match=True),
        span=None,
        tube=BoxTube(),
        confidence=1.0 - found.match_probability,
        token_ids=no_match_ids,
        candidate=Candidate(found.span, found.tube, found.confidence),
    )


def to_grounding(query: Query, answer: Answer, window: Window, confidence: float) -> Grounding:
    """Map an answer to the stream: replace time tokens by the stamps of the window's frames.

    Time tokens of spans and segments past the window are clamped to its last frame. The box of an
    image task gets the stamp of the image.

    Args:
        query: The query.
        answer: Its parsed answer.
        window: The frames that the model saw.
        confidence: Of the generation.
    """
    stamps, newest = window.stamps, window.newest
    return Grounding(
        query=query,
        answer=answer,
        window=stamps,
        span=_span(query, answer, stamps),
        tube=tube_of_tokens(answer.boxes, stamps),
        confidence=confidence,
        camera=newest.camera,
        frame_id=newest.frame_id,
        width=newest.width,
        height=newest.height,
        segments=tuple(
            Segment(span_of_tokens(span, stamps), text) for span, text in answer.segments
        ),
    )


def _span(query: Query, answer: Answer, stamps: Sequence[int]) -> Span | None:
    if answer.span is None or query.task.modality is Modality.IMAGE:
        return None
    first, last = answer.span
    if query.task is Task.ELC and query.span is not None:
        first = min(round(query.span[0] * (len(stamps) - 1)), last)
    return span_of_tokens((first, last), stamps)
