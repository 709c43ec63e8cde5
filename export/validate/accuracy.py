"""What a precision costs in answers: engine and reference on the same simulated clips."""

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
    """Both on the first ``clips`` of the simulator's validation split that offer an STVG question:
    mean vIoU of the reference and of the engine, and the share of ``equal`` answers, word for
    word."""

    clips: int
    reference: float
    engine: float
    equal: float

    @property
    def loss(self) -> float:
        """Of mean vIoU."""
        return self.reference - self.engine

    def line(self) -> str:
        return (
            f"{self.clips} simulated clips: m_vIoU {self.engine:.3f} "
            f"(reference {self.reference:.3f}), {self.equal:.0%} of answers equal"
        )


@dataclass(frozen=True)
class Answers:
    """A backend's, in the clips' order: vIoU and text of each."""

    viou: list[float]
    texts: list[str]


def simulated_clips(config: ModelConfig, count: int) -> list[ClipQuestions]:
    """The first clips that offer an STVG question. Raises DataError where the simulator is not
    installed, BackendError where it has no OpenGL."""
    offered = simulated_questions(SPLIT, range(10 * count), config, categories=(Task.STVG.value,))
    return list(islice((clip for clip in offered if clip.questions), count))


def answer(backend: Backend, tokenizer: Tokenizer, clips: Sequence[ClipQuestions]) -> Answers:
    """Ask a backend about every clip."""
    evaluation = SimulatedEvaluation(backend, tokenizer)
    for clip in clips:
        evaluation.run(clip)
    return Answers(
        [values["vIoU"] for values in evaluation.scores[Task.STVG.value]],
        [given.text for _, given in evaluation.answers],
    )


def compare_answers(reference: Answers, engine: Answers) -> Accuracy:
    """Of two backends asked about the same clips."""
    equal = mean([float(a == b) for a, b in zip(reference.texts, engine.texts)])
    return Accuracy(len(engine.texts), mean(reference.viou), mean(engine.viou), equal)
