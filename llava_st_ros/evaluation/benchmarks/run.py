"""The evaluation of many samples, by one process or several.

Samples about the same clip are evaluated by one process, one after the other. Outcomes are in the
order of the samples, whatever the number of processes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from llava_st_ros.backends import load_backend
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.benchmarks.evaluator import SampleEvaluator, SampleOutcome
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkSample, VideoTruth

CHUNK = 8  # most samples of a task of a worker process


@dataclass(frozen=True)
class RunSettings:
    """What evaluates the samples.

    Attributes:
        model: Checkpoint or engine directory.
        media: The media folder.
        backend: Runtime; empty for the model's own.
        device: Device of the runtime; empty for the runtime's default.
        threads: CPU threads of each process (``load_backend``).
    """

    model: Path
    media: Path
    backend: str = ""
    device: str = ""
    threads: int = 0


def evaluate_samples(
    settings: RunSettings, samples: Sequence[BenchmarkSample], workers: int = 1
) -> Iterator[tuple[int, SampleOutcome]]:
    """Yield the index and the outcome of each sample, as soon as it is known.

    With several processes the order is that of completion.

    Args:
        settings: What evaluates them.
        samples: The samples.
        workers: Number of processes; 1 is this process.

    Raises:
        LlavaStError: The model or the media folder cannot be used, or a process has died.
    """
    if workers == 1:
        evaluator = _make_evaluator(settings)
        for index, sample in enumerate(samples):
            yield index, evaluator.evaluate(sample)
        return
    # Spawned, not forked: a CUDA context does not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_ignore_interrupts
    ) as pool:
        futures = {
            pool.submit(_evaluate_chunk, settings, [samples[i] for i in chunk]): chunk
            for chunk in chunks(samples)
        }
        try:
            for future in as_completed(futures):
                yield from zip(futures[future], future.result())
        except BrokenProcessPool as error:
            raise BackendError(
                "a worker process has ended unexpectedly",
                "it may lack memory: use fewer --workers",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def chunks(samples: Sequence[BenchmarkSample]) -> list[list[int]]:
    """Return the indices of the samples of each task: at most CHUNK, about the same clip."""
    found = []
    for _, group in groupby(range(len(samples)), key=lambda index: _clip_key(samples[index])):
        indices = list(group)
        found += [indices[first : first + CHUNK] for first in range(0, len(indices), CHUNK)]
    return found


def _clip_key(sample: BenchmarkSample) -> tuple[object, object]:
    return sample.media, sample.truth.crop if isinstance(sample.truth, VideoTruth) else None


def _make_evaluator(settings: RunSettings) -> SampleEvaluator:
    backend, tokenizer = load_backend(
        settings.model, name=settings.backend, device=settings.device, threads=settings.threads
    )
    return SampleEvaluator(backend, tokenizer, settings.media)


_evaluator = cache(_make_evaluator)  # a worker process keeps its model from task to task


def _ignore_interrupts() -> None:
    """Ctrl-C interrupts the first process, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _evaluate_chunk(
    settings: RunSettings, samples: Sequence[BenchmarkSample]
) -> list[SampleOutcome]:
    evaluator = _evaluator(settings)
    return [evaluator.evaluate(sample) for sample in samples]
