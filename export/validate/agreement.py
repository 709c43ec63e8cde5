"""Agreement of an engine's answers with the reference's on the reference clips.

Both decode under the grammar, as on a robot, but never answer "no match". Coordinates are compared
teacher-forced: each is the one that the engine would choose after the reference's answer up to it,
so that one early difference does not shift all that follows. Tubes are those of the engine's own
answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import ModelConfig
from llava_st_ros.decoding.generate import generate
from llava_st_ros.evaluation.metrics import mean, viou
from llava_st_ros.export.validate.reference_clips import reference_clips
from llava_st_ros.records import Box, Modality, Prompt
from llava_st_ros.text.answers import parse
from llava_st_ros.text.grammar import Grammar
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import question_from_query
from llava_st_ros.text.tokenizer import Tokenizer

MAX_NEW_TOKENS = 2048
NEVER_NO_MATCH = 1.0  # no_match_threshold


@dataclass(frozen=True)
class Agreement:
    """Agreement of an engine's answers with the reference's.

    Attributes:
        questions: Number of questions.
        coordinates: Number of coordinates that were compared.
        median_bins: Median distance of a coordinate from the reference's, in rows of its table.
        p99_bins: 99th percentile of these distances.
        tube_iou: Mean vIoU of the engine's tubes with the reference's; an image's box is a tube
            of one frame.
        equal: Share of answers whose token ids are all equal.
    """

    questions: int
    coordinates: int
    median_bins: float
    p99_bins: float
    tube_iou: float
    equal: float


@dataclass(frozen=True)
class RecordedAnswer:
    """A backend's answer to one question.

    Attributes:
        ids: Token ids of the backend's own answer.
        tube: Box by time token.
        coordinates: Id that the backend selects at each coordinate of the teacher's answer.
    """

    ids: tuple[int, ...]
    tube: dict[int, Box]
    coordinates: tuple[int, ...]


def answer_reference_clips(
    backend: Backend, tokenizer: Tokenizer, teacher: Sequence[RecordedAnswer] = ()
) -> list[RecordedAnswer]:
    """Answer the questions of every reference clip.

    Args:
        backend: The backend to run.
        tokenizer: Its tokenizer.
        teacher: Answers along which coordinates are selected; empty: the backend's own.
    """
    config = backend.describe().model
    builder = PromptBuilder(tokenizer, config)
    answers: list[RecordedAnswer] = []
    for clip in reference_clips(config):
        features = [backend.encode_frame(frame) for frame in clip.frames]
        visual = {
            Modality.VIDEO: backend.pack(features, range(len(features))),
            Modality.IMAGE: backend.image_tokens(features[0]),
        }
        for query in clip.queries:
            question = question_from_query(query)
            grammar = Grammar.for_question(question, tokenizer, config, NEVER_NO_MATCH)
            prompt = builder.build(question)
            tokens = visual[query.task.modality]
            ids = generate(
                backend,
                backend.embed(prompt, tokens),
                tokenizer,
                grammar=grammar,
                max_new_tokens=MAX_NEW_TOKENS,
            ).ids
            forced = teacher[len(answers)].ids if teacher else ids
            logits = _teacher_forced(backend, prompt, tokens, forced)
            boxes = parse(ids, query.task, config, tokenizer).boxes
            tube = {0 if slot is None else slot: box for slot, box in boxes}  # None: of an image
            selected = _select(grammar, config, forced, logits)
            answers.append(RecordedAnswer(ids, tube, selected))
    return answers


def compare_answers(
    reference: Sequence[RecordedAnswer], engine: Sequence[RecordedAnswer]
) -> Agreement:
    """Compare the answers of an engine, taught by the reference's, with the reference's."""
    pairs = list(zip(reference, engine))
    bins = [abs(a - b) for r, e in pairs for a, b in zip(r.coordinates, e.coordinates)]
    # A box without area has an IoU of 0 even with itself.
    ious = [1.0 if e.tube == r.tube else viou(e.tube, r.tube) for r, e in pairs]
    median, p99 = np.percentile(bins, (50, 99)) if bins else (np.nan, np.nan)
    equal = mean([float(r.ids == e.ids) for r, e in pairs])
    return Agreement(len(pairs), len(bins), float(median), float(p99), mean(ious), equal)


def _teacher_forced(
    backend: Backend, prompt: Prompt, visual: object, ids: Sequence[int]
) -> np.ndarray:
    """Return the logits [K, vocabulary] from which each of K ids is selected."""
    cache = backend.new_cache()
    rows = [backend.prefill(backend.embed(prompt, visual), cache)[None]]
    if len(ids) > 1:
        rows.append(backend.extend(ids[:-1], cache))
    return np.concatenate(rows)


def _select(
    grammar: Grammar, config: ModelConfig, ids: Sequence[int], logits: np.ndarray
) -> tuple[int, ...]:
    """Return the ids selected where an answer has a coordinate that is not forced."""
    state, selected = grammar.start(), []
    for token, row in zip(ids, logits):
        if state.allowed is not None and config.coordinates.locate(token) is not None:
            selected.append(state.allowed.select(row))
        state.advance((token,))
    return tuple(selected)
