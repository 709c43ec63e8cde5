"""Simulated streams of a split, recorded as annotated bags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from llava_st_ros.errors import BackendError, ConfigError, DataError
from llava_st_ros.evaluation.jobs.records import JobFailure, Progress, Work
from llava_st_ros.evaluation.jobs.run import run_jobs
from llava_st_ros.evaluation.simulator_import import requires_simulator
from llava_st_ros.files.checksums import sha256_of
from llava_st_ros.simulation.worlds import SPLITS

_QUERIES_STREAM = 2  # of random numbers: a seed's queries do not depend on its video's numbers


@dataclass(frozen=True)
class StreamSplit:
    """The streams of a split and their queries; both depend on these values and the index only.

    Attributes:
        split: The simulator's split.
        seconds: Least and greatest length of a stream.
        queries: Standing queries of a stream (``simulation.video_queries.sample_queries``).
        fps: Frames per second.
        size: Width and height of the frames in pixels.

    Raises:
        ConfigError: There is no such split, or a value is out of range.
    """

    split: str
    seconds: tuple[float, float] = (30.0, 60.0)
    queries: int = 5
    fps: float = 15.0
    size: int = 320

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        low, high = self.seconds
        if not 10 <= low <= high <= 600:
            raise ConfigError(
                f"streams of {low:g} to {high:g} s; expected 10 <= least <= greatest <= 600"
            )
        if not 1 <= self.queries <= 64:
            raise ConfigError(f"{self.queries} queries a stream; expected 1 to 64")
        if not 1 <= self.fps <= 120 or not 32 <= self.size <= 4096:
            raise ConfigError(
                f"{self.fps:g} frames/s of {self.size} px; expected 1 to 120 frames/s and 32 to "
                "4096 px"
            )

    @property
    def folder(self) -> str:
        """The name of the folder of its bags, which differs for other streams or queries.

        It has a checksum of the simulator's sources: a change there may change any of them.
        """
        low, high = self.seconds
        return (
            f"{self.split}-{low:g}to{high:g}s-{self.fps:g}fps-{self.size}px-{self.queries}queries-"
            f"{_sources_checksum()}"
        )

    def bag(self, store: Path, index: int) -> Path:
        """Return the path of the bag of stream ``index``."""
        return store / self.folder / f"{index:04}"

    def record(self, store: Path, index: int) -> None:
        """Record stream ``index`` as a bag with annotations; it appears complete.

        Raises:
            ConfigError: The split has no such stream.
            BackendError: There is no headless OpenGL.
            DataError: The simulator cannot be imported, or the bag cannot be written.
        """
        with requires_simulator():
            from llava_st_ros.simulation.bag_writer import write_bag
            from llava_st_ros.simulation.simulator import split_seed
            from llava_st_ros.simulation.streams import simulate_stream
            from llava_st_ros.simulation.video_queries import sample_queries
        seed = split_seed(self.split, index)
        rng = np.random.default_rng([seed, _QUERIES_STREAM])
        duration = float(rng.uniform(*self.seconds))
        video = simulate_stream(seed, duration=duration, fps=self.fps, size=self.size)
        queries = sample_queries(video, self.queries, rng)
        path = self.bag(store, index)
        try:
            write_bag(video, path, queries=queries)
        except DataError:
            if not path.exists():  # else another process has recorded it
                raise


@cache
def _sources_checksum() -> str:
    """Return eight hex digits of a checksum of the simulator's sources."""
    folder = files("llava_st_ros.simulation")
    assert isinstance(folder, Path)
    return sha256_of(*sorted(folder.glob("*.py")))[:8]


def record_streams(
    split: StreamSplit,
    indices: range,
    store: Path,
    workers: int = 1,
    on_recorded: Callable[[int], None] = lambda completed: None,
) -> Sequence[Path]:
    """Record streams of a split, those that ``store`` does not have yet.

    Args:
        split: The streams.
        indices: Indices of the streams.
        store: The folder to record them in.
        workers: Number of processes; 1 is this process.
        on_recorded: Called with the number of streams recorded since the last call.

    Returns:
        The bags, in order.

    Raises:
        LlavaStError: As ``StreamSplit.record`` does.
    """
    missing = [index for index in indices if not split.bag(store, index).exists()]
    on_recorded(len(indices) - len(missing))
    for done in run_jobs(_Recorder(split, store), missing, workers=workers):
        if isinstance(done.outcome, JobFailure):
            raise BackendError(f"stream {missing[done.index]}: {done.outcome.reason}")
        on_recorded(1)
    return [split.bag(store, index) for index in indices]


@dataclass(frozen=True)
class _Recorder:
    """Records streams in a process."""

    split: StreamSplit
    store: Path

    def __call__(self) -> Work[int, None]:
        return self._record

    def _record(self, index: int, progress: Progress) -> None:
        self.split.record(self.store, index)
