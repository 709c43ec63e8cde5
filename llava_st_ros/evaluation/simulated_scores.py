"""A checkpoint's scores on the simulator's clips, in this process or shared out to several.

The clips are shared out and the scores put together in their order: however many processes there
are, they find what one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from llava_st_ros.backends import load_backend
from llava_st_ros.evaluation.scoring import SUBJECTS, Values
from llava_st_ros.evaluation.simulated import (
    BlindBackend,
    SimulatedEvaluation,
    render_split,
    simulated_cases,
)

CHUNK = 5  # clips that a process takes at a time


@dataclass(frozen=True)
class Measurement:
    """What is measured, on what. ``threads`` is that of load_backend, for each process."""

    model: Path
    split: str
    subjects: tuple[str, ...] = SUBJECTS
    backend: str = ""
    device: str = "cpu"
    blind: bool = True
    store: Path | None = None
    threads: int = 0


@dataclass(frozen=True)
class Scores:
    """Values of cases by subject; ``blind`` holds those of black frames, where they were asked."""

    seeing: dict[str, list[Values]] = field(default_factory=dict)
    blind: dict[str, list[Values]] = field(default_factory=dict)

    def add(self, other: Scores) -> None:
        for mine, theirs in ((self.seeing, other.seeing), (self.blind, other.blind)):
            for subject, values in theirs.items():
                mine.setdefault(subject, []).extend(values)


def measure(
    measurement: Measurement,
    clips: int,
    workers: int = 1,
    on_clips: Callable[[int], None] = lambda asked: None,
) -> Scores:
    """The scores on clips 0..clips-1, found by ``workers`` processes; 1 is this one.

    ``on_clips(n)`` is called as n more clips are done. Raises what load_backend and simulated_cases
    raise.
    """
    scores = Scores()
    for asked, found in _parts(measurement, clips, workers):
        scores.add(found)
        on_clips(asked)
    return scores


def _parts(measurement: Measurement, clips: int, workers: int) -> Iterator[tuple[int, Scores]]:
    if workers == 1:
        for scores in _Examiner(measurement).ask(range(clips)):
            yield 1, scores
        return
    if measurement.store is not None:
        # Before any process looks for clips there.
        model = load_backend(measurement.model, device="cpu")[0].describe().model
        render_split(measurement.split, clips, model, measurement.store)
    chunks = [range(first, min(first + CHUNK, clips)) for first in range(0, clips, CHUNK)]
    # Spawned, not forked: neither a GL context nor a CUDA one survives a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        found = pool.map(_ask, [measurement] * len(chunks), chunks)
        yield from zip(map(len, chunks), found)


def _ask(measurement: Measurement, clips: range) -> Scores:
    scores = Scores()
    for of_clip in _examiner(measurement).ask(clips):
        scores.add(of_clip)
    return scores


@cache
def _examiner(measurement: Measurement) -> _Examiner:
    """The one of this process, which keeps its network from chunk to chunk."""
    return _Examiner(measurement)


class _Examiner:
    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        backend, tokenizer = load_backend(
            measurement.model,
            name=measurement.backend,
            device=measurement.device,
            threads=measurement.threads,
        )
        self._model = backend.describe().model
        self._seeing = SimulatedEvaluation(backend, tokenizer)
        self._blind = (
            SimulatedEvaluation(BlindBackend(backend), tokenizer) if measurement.blind else None
        )

    def ask(self, clips: range) -> Iterator[Scores]:
        """The scores of each clip."""
        what = self._measurement
        for clip in simulated_cases(
            what.split, clips, self._model, subjects=what.subjects, store=what.store
        ):
            yield Scores(self._seeing.run(clip), self._blind.run(clip) if self._blind else {})
