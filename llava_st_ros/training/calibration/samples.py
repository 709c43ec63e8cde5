"""Collects the samples of a calibration from clips and streams, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.jobs.records import JobFailure, Progress, Work
from llava_st_ros.evaluation.jobs.run import run_jobs
from llava_st_ros.evaluation.match_samples import MatchSample, clip_samples, stream_samples
from llava_st_ros.evaluation.simulated_streams import StreamSplit, record_streams
from llava_st_ros.text.tokenizer import Tokenizer

CHUNK = 5  # clips of a job


@dataclass(frozen=True)
class SampleSource:
    """Where samples come from.

    Attributes:
        checkpoint: The checkpoint that answers.
        splits: The splits of the simulator, with the streams of each.
        clips: Number of clips of each split.
        streams: Number of streams of each split.
        store: Folder that keeps the streams.
        device: The device of the model; empty for the CPU.
        threads: CPU threads of each process (``load_backend``).
    """

    checkpoint: Path
    splits: tuple[StreamSplit, ...]
    clips: int
    streams: int
    store: Path
    device: str = ""
    threads: int = 0

    @property
    def total(self) -> int:
        """The number of clips and streams of all splits."""
        return len(self.splits) * (self.clips + self.streams)


@dataclass(frozen=True)
class _Job:
    """Some clips of a split, or one stream."""

    split: StreamSplit
    clips: range
    stream: int | None = None


def collect_samples(
    source: SampleSource,
    workers: int = 1,
    on_done: Callable[[int], None] = lambda completed: None,
) -> list[MatchSample]:
    """Answer the questions of all clips and streams.

    Args:
        source: The clips and streams, and what answers.
        workers: Number of processes; 1 is this process. The samples do not depend on it.
        on_done: Called with the number of clips and streams completed since the last call.

    Raises:
        BackendError: Some clips or a stream could not be used.
        LlavaStError: As ``load_backend`` does.
    """
    jobs = [
        _Job(split, range(first, min(first + CHUNK, source.clips)))
        for split in source.splits
        for first in range(0, source.clips, CHUNK)
    ]
    jobs += [_Job(s, range(0), index) for s in source.splits for index in range(source.streams)]
    found: dict[int, Sequence[MatchSample]] = {}
    for done in run_jobs(_Worker(source), jobs, workers=workers):
        job = jobs[done.index]
        if isinstance(done.outcome, JobFailure):
            name = f"stream {job.stream}" if job.stream is not None else f"clips {job.clips[0]} on"
            raise BackendError(f"{job.split.split}, {name}: {done.outcome.reason}")
        found[done.index] = done.outcome
        on_done(1 if job.stream is not None else len(job.clips))
    return [sample for index in sorted(found) for sample in found[index]]


@dataclass(frozen=True)
class _Worker:
    """Collects samples in a process: calling it loads the model and returns the work."""

    source: SampleSource

    def __call__(self) -> Work[_Job, list[MatchSample]]:
        source = self.source
        backend, tokenizer = load_backend(
            source.checkpoint, device=source.device, threads=source.threads
        )
        return partial(self._collect, backend, tokenizer)

    def _collect(
        self, backend: Backend, tokenizer: Tokenizer, job: _Job, progress: Progress
    ) -> list[MatchSample]:
        split = job.split
        if job.stream is None:
            found = clip_samples(backend, tokenizer, split.split, job.clips)
            return [sample for of_clip in found for sample in of_clip]
        bag = record_streams(split, range(job.stream, job.stream + 1), self.source.store)[0]
        # Without events that wait for a confirmation, all windows are a period apart.
        config = GrounderConfig(stream=StreamConfig(history=HISTORY), confirmations=1)
        name = f"{split.split} stream {job.stream}"
        return stream_samples(backend, tokenizer, bag, config, name)
