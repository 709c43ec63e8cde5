"""What a precision costs in answers: engine and reference on the same simulated clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llava_st_ros.backends.base import Backend
from llava_st_ros.evaluation.metrics import mean
from llava_st_ros.evaluation.simulated import SimulatedEvaluation, simulated_cases
from llava_st_ros.model.tokenizer import Tokenizer
from llava_st_ros.records import Task

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


def compare_answers(
    reference: Backend,
    engine: Backend,
    tokenizer: Tokenizer,
    clips: int,
    on_clip: Callable[[], None] = lambda: None,
) -> Accuracy:
    """Ask both about ``clips`` clips. Raises DataError where the simulator is not installed,
    BackendError where it has no OpenGL."""
    sides = [SimulatedEvaluation(backend, tokenizer) for backend in (reference, engine)]
    config = reference.describe().model
    subjects = (Task.STVG.value,)
    asked = 0
    for clip in simulated_cases(SPLIT, range(clips * 10), config, subjects=subjects):
        if not clip.cases:
            continue
        for side in sides:
            side.run(clip)
        on_clip()
        asked += 1
        if asked == clips:
            break
    ours, theirs = (
        mean([values["vIoU"] for values in side.scores[Task.STVG.value]]) for side in sides
    )
    texts = [[answer.text for _, answer in side.answers] for side in sides]
    return Accuracy(asked, ours, theirs, mean([float(a == b) for a, b in zip(*texts)]))
