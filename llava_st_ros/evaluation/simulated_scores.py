"""The cases of a checkpoint on simulated clips, computed by one process or several.

Clips are distributed over the processes and their cases are merged in the clips' order, so the
result does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from llava_st_ros.backends import load_backend
from llava_st_ros.evaluation.results import Case
from llava_st_ros.evaluation.scoring import CATEGORIES
from llava_st_ros.evaluation.simulated import (
    BlindBackend,
    SimulatedEvaluation,
    render_split,
    simulated_questions,
)

CHUNK = 5  # clips per task of a worker process


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
    cases = ClipCases()
    for completed, chunk_cases in _chunk_cases(settings, clips, workers):
        cases.add(chunk_cases)
        on_clips(completed)
    return cases


def _chunk_cases(
    settings: EvaluationSettings, clips: int, workers: int
) -> Iterator[tuple[int, ClipCases]]:
    if workers == 1:
        for cases in _Evaluator(settings).run(range(clips)):
            yield 1, cases
        return
    if settings.store is not None:
        # Rendered before the processes start: they only read the store.
        model = load_backend(settings.model, device="cpu")[0].describe().model
        render_split(settings.split, clips, model, settings.store)
    chunks = [range(first, min(first + CHUNK, clips)) for first in range(0, clips, CHUNK)]
    # Spawned, not forked: neither a GL context nor a CUDA context survives a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        cases_by_chunk = pool.map(_evaluate_chunk, [settings] * len(chunks), chunks)
        yield from zip(map(len, chunks), cases_by_chunk)


def _evaluate_chunk(settings: EvaluationSettings, clips: range) -> ClipCases:
    cases = ClipCases()
    for clip_cases in _evaluator(settings).run(clips):
        cases.add(clip_cases)
    return cases


@cache
def _evaluator(settings: EvaluationSettings) -> _Evaluator:
    """Return this process's evaluator, which keeps its model from chunk to chunk."""
    return _Evaluator(settings)


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

    def run(self, clips: range) -> Iterator[ClipCases]:
        """Yield the cases of each clip."""
        settings = self._settings
        for clip in simulated_questions(
            settings.split,
            clips,
            self._model,
            categories=settings.categories,
            store=settings.store,
        ):
            yield ClipCases(self._sighted.run(clip), self._blind.run(clip) if self._blind else [])
