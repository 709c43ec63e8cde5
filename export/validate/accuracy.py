"""Accuracy of an engine and of the reference on the same simulated clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import ModelConfig
from llava_st_ros.evaluation.metrics import mean
from llava_st_ros.evaluation.simulated import (
    ClipQuestions,
    SimulatedEvaluation,
    simulated_questions,
)
from llava_st_ros.records import Task
from llava_st_ros.text.tokenizer import Tokenizer

SPLIT = "validation"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of an engine and of the reference on simulated clips.

    Attributes:
        clips: Number of clips: the first ones of the validation split that have an STVG query.
        reference: Mean vIoU of the reference.
        engine: Mean vIoU of the engine.
        equal: Share of answers whose text is equal.
    """

    clips: int
    reference: float
    engine: float
    equal: float

    @property
    def loss(self) -> float:
        """Loss of mean vIoU; negative if the engine is better."""
        return self.reference - self.engine


@dataclass(frozen=True)
class ClipAnswers:
    """A backend's answers in the order of the clips: vIoU and text of each."""

    viou: list[float]
    texts: list[str]


def load_simulated_clips(config: ModelConfig, count: int) -> list[ClipQuestions]:
    """Return the first ``count`` clips of the validation split that have an STVG query.

    Raises:
        DataError: The simulator is not installed.
        BackendError: OpenGL is missing.
    """
    clips = simulated_questions(SPLIT, range(10 * count), config, categories=(Task.STVG.value,))
    return list(islice((clip for clip in clips if clip.questions), count))


def answer_clips(
    backend: Backend, tokenizer: Tokenizer, clips: Sequence[ClipQuestions]
) -> ClipAnswers:
    """Answer the queries of every clip with a backend."""
    evaluation = SimulatedEvaluation(backend, tokenizer)
    for clip in clips:
        evaluation.run(clip)
    return ClipAnswers(
        [case.values["vIoU"] for case in evaluation.cases if case.task == Task.STVG.value],
        [answer.text for _, answer in evaluation.answers],
    )


def compare_answers(reference: ClipAnswers, engine: ClipAnswers) -> Accuracy:
    """Compare the answers of two backends to the same clips."""
    equal = mean([float(a == b) for a, b in zip(reference.texts, engine.texts)])
    return Accuracy(len(engine.texts), mean(reference.viou), mean(engine.viou), equal)
