"""The cases of a checkpoint on simulated clips, computed by one process or several.

Clips are distributed over the processes and their cases are merged in the clips' order, so the
result does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llava_st_ros.backends import load_backend
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.jobs.records import JobFailure, Progress, Work
from llava_st_ros.evaluation.jobs.run import run_jobs
from llava_st_ros.evaluation.results import Case
from llava_st_ros.evaluation.scoring import CATEGORIES
from llava_st_ros.evaluation.simulated import (
    BlindBackend,
    SimulatedEvaluation,
    render_split,
    simulated_questions,
)

CHUNK = 5  # clips of a job


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate, and on what.

    Attributes:
        model: Checkpoint or engine directory.
        split: The simulator's split.
        categories: The categories of questions (``scoring.CATEGORIES``).
        backend: Runtime; empty for the model's own.
        device: Device of the runtime; empty for the runtime's default.
        blind: Whether to run the blind baseline too.
        store: Folder that keeps rendered clips.
        threads: CPU threads of each process (``load_backend``).
    """

    model: Path
    split: str
    categories: tuple[str, ...] = CATEGORIES
    backend: str = ""
    device: str = "cpu"
    blind: bool = True
    store: Path | None = None
    threads: int = 0


@dataclass(frozen=True)
class ClipCases:
    """The scored questions of clips: with the clips' frames, and with black frames."""

    sighted: list[Case] = field(default_factory=list)
    blind: list[Case] = field(default_factory=list)

    def add(self, other: ClipCases) -> None:
        """Append the cases of later clips."""
        self.sighted.extend(other.sighted)
        self.blind.extend(other.blind)


def evaluate(
    settings: EvaluationSettings,
    clips: int,
    workers: int = 1,
    on_clips: Callable[[int], None] = lambda completed: None,
) -> ClipCases:
    """Score a model on clips 0..clips-1 of a split.

    Args:
        settings: What to evaluate.
        clips: Number of clips.
        workers: Number of processes; 1 is this process.
        on_clips: Called with the number of clips completed since the last call.

    Raises:
        LlavaStError: As ``load_backend`` and ``simulated_questions`` do.
    """
    if settings.store is not None and workers > 1:
        # Rendered before the processes start: they only read the store.
        model = load_backend(settings.model, device="cpu")[0].describe().model
        render_split(settings.split, clips, model, settings.store)
    chunks = [range(first, min(first + CHUNK, clips)) for first in range(0, clips, CHUNK)]
    found: dict[int, ClipCases] = {}
    for done in run_jobs(_Worker(settings), chunks, workers=workers):
        chunk = chunks[done.index]
        if isinstance(done.outcome, JobFailure):
            raise BackendError(f"clips {chunk[0]} to {chunk[-1]}: {done.outcome.reason}")
        found[done.index] = done.outcome
        on_clips(len(chunk))
    cases = ClipCases()
    for index in sorted(found):
        cases.add(found[index])
    return cases


@dataclass(frozen=True)
class _Worker:
    """Evaluates clips in a process: calling it loads the model and returns the work."""

    settings: EvaluationSettings

    def __call__(self) -> Work[range, ClipCases]:
        return _Evaluator(self.settings).run


class _Evaluator:
    def __init__(self, settings: EvaluationSettings) -> None:
        self._settings = settings
        backend, tokenizer = load_backend(
            settings.model,
            name=settings.backend,
            device=settings.device,
            threads=settings.threads,
        )
        self._model = backend.describe().model
        self._sighted = SimulatedEvaluation(backend, tokenizer)
        self._blind = (
            SimulatedEvaluation(BlindBackend(backend), tokenizer) if settings.blind else None
        )

        # Nothing to render: what is wrong with the settings is the run's error.
        simulated_questions(settings.split, range(0), self._model, categories=settings.categories)

    def run(self, clips: range, progress: Progress) -> ClipCases:
        """Return the cases of the clips."""
        settings, cases = self._settings, ClipCases()
        for clip in simulated_questions(
            settings.split,
            clips,
            self._model,
            categories=settings.categories,
            store=settings.store,
        ):
            blind = self._blind.run(clip) if self._blind else []
            cases.add(ClipCases(self._sighted.run(clip), blind))
        return cases
