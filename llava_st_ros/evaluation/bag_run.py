"""A run over bags: each bag is a job whose outcome is kept, so that a run can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import llava_st_ros
from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.atomic_files import require_writable_folder
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.evaluation.bag_evaluation import BagJob, BagOutcome, evaluate_bag
from llava_st_ros.evaluation.jobs.ray_cluster import RayCluster
from llava_st_ros.evaluation.jobs.records import (
    JobFailure,
    OnProgress,
    Progress,
    Work,
    ignore_progress,
)
from llava_st_ros.evaluation.jobs.run import run_jobs
from llava_st_ros.evaluation.ledger import LedgerModel, read_ledger_lines, write_ledger
from llava_st_ros.evaluation.results import RunResults, read_results, write_results
from llava_st_ros.files.checksums import checksum_of, sha256_of
from llava_st_ros.text.tokenizer import Tokenizer

FOLDER = "bags"  # of the outcomes, in a run's folder
MAX_NAME_BYTES = 200  # of the file of an outcome


@dataclass(frozen=True)
class ModelSettings:
    """The model that answers.

    Attributes:
        path: Checkpoint or engine directory.
        backend: Runtime; empty for the model's own.
        device: Device of the runtime; empty for the runtime's default.
        threads: CPU threads (``load_backend``).
        sha256: Its checksum (``backends.model_checksum``).
    """

    path: Path
    backend: str = ""
    device: str = ""
    threads: int = 0
    sha256: str = ""

    @property
    def ledger_model(self) -> LedgerModel:
        """The model, for the ledger."""
        return LedgerModel(str(self.path), self.sha256, self.backend, self.device)


def load_model(settings: ModelSettings) -> tuple[Backend, Tokenizer]:
    """Load a model. Raises LlavaStError as ``load_backend`` does."""
    return load_backend(
        settings.path, settings.backend, device=settings.device, threads=settings.threads
    )


@dataclass(frozen=True)
class BagWorker:
    """Evaluates bags in a process: calling it loads the model and returns the work.

    Attributes:
        model: The model.
        load: Loads it; a function at the top level of a module.
    """

    model: ModelSettings
    load: Callable[[ModelSettings], tuple[Backend, Tokenizer]] = load_model

    def __call__(self) -> Work[BagJob, BagOutcome]:
        backend, tokenizer = self.load(self.model)
        return partial(self._evaluate, backend, tokenizer)

    def _evaluate(
        self, backend: Backend, tokenizer: Tokenizer, job: BagJob, progress: Progress
    ) -> BagOutcome:
        return evaluate_bag(job, backend, tokenizer, progress, self.model.ledger_model)


def bag_jobs(bags: Sequence[Path], annotations: Sequence[Path], job: BagJob) -> list[BagJob]:
    """Return a job for each bag, with unique names.

    Args:
        bags: The bags, in the order of the results.
        annotations: Their annotation files, in the same order; none for the default ones
            (``annotation_path``).
        job: The settings of all jobs.

    Raises:
        DataError: A bag is given twice, or there are not as many annotation files as bags.
    """
    if annotations and len(annotations) != len(bags):
        raise DataError(
            f"{len(annotations)} annotation files for {len(bags)} bags",
            "give one for each bag in the same order, or none",
        )
    resolved = [bag.resolve() for bag in bags]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise DataError(f"{bags[number]} is given twice")
        if path.parent in resolved:
            raise DataError(f"{bags[number]} is given twice: it is a part of {path.parent.name}")
    paths = annotations or [annotation_path(bag) for bag in bags]
    return [
        replace(job, name=name, bag=bag, annotations=path)
        for name, bag, path in zip(_names(resolved), bags, paths)
    ]


def _names(bags: Sequence[Path]) -> list[str]:
    """Name each bag by as many of its last folders as distinguish it from the others."""
    names = []
    for bag in bags:
        length = 1
        others = [other for other in bags if other != bag]
        while any(other.parts[-length:] == bag.parts[-length:] for other in others):
            length += 1
        names.append("/".join(bag.parts[-length:]).lstrip("/"))
    return names


class BagRun:
    """The evaluation of several bags, whose outcomes are kept in the run's folder.

    Args:
        jobs: The bags.
        worker: What evaluates them.
        folder: The run's folder; None keeps no outcome.
        resume: Whether outcomes of the same job, model and data are taken from ``folder``.

    Attributes:
        outcomes: The outcomes until now, by the index of their job.
        repeated: Which outcomes of an earlier run are not taken, and why, one line each.
    """

    def __init__(
        self,
        jobs: Sequence[BagJob],
        worker: BagWorker,
        *,
        folder: Path | None = None,
        resume: bool = False,
    ) -> None:
        self.jobs, self._worker, self._folder = jobs, worker, folder
        self.outcomes: dict[int, BagOutcome | JobFailure] = {}
        self.repeated: list[str] = []
        self._keys: list[dict[str, str]] = []
        if folder is not None:
            require_writable_folder(folder / FOLDER)
            self._keys = [_key(job, worker.model.sha256) for job in jobs]
            if resume:
                self._read_stored(folder)

    @property
    def evaluated(self) -> list[BagOutcome]:
        """The outcomes of the bags that were evaluated, in the order of the jobs."""
        ordered = [self.outcomes[index] for index in sorted(self.outcomes)]
        return [outcome for outcome in ordered if isinstance(outcome, BagOutcome)]

    @property
    def waiting(self) -> list[int]:
        """The indices of the jobs that have no outcome."""
        return [index for index in range(len(self.jobs)) if index not in self.outcomes]

    def run(
        self,
        *,
        workers: int = 1,
        ray: RayCluster | None = None,
        on_progress: OnProgress = ignore_progress,
    ) -> Iterator[int]:
        """Evaluate the waiting jobs and yield the index of each when it is finished, in any order.

        Arguments and errors are those of ``run_jobs``.
        """
        waiting = self.waiting
        finished = run_jobs(
            self._worker,
            [self.jobs[index] for index in waiting],
            workers=workers,
            ray=ray,
            on_progress=lambda n, done, total: on_progress(waiting[n], done, total),
        )
        for job in finished:
            index = waiting[job.index]
            if self._folder is not None and isinstance(job.outcome, BagOutcome):
                self._store(self._folder, index, job.outcome)
            self.outcomes[index] = job.outcome
            yield index

    def _store(self, folder: Path, index: int, outcome: BagOutcome) -> None:
        about: Mapping[str, Any] = {
            "job": self._keys[index],
            "failures": list(outcome.failures),
            "frames": outcome.frames,
            "seconds": outcome.seconds,
        }
        # The ledger is complete before the outcome is.
        write_ledger(_ledger_path(folder, self.jobs[index]), outcome.ledger)
        results = RunResults(about, outcome.cases, (), outcome.dropped, outcome.latency)
        write_results(_path(folder, self.jobs[index]), results)

    def _read_stored(self, folder: Path) -> None:
        for index, job in enumerate(self.jobs):
            path = _path(folder, job)
            if not path.exists():
                continue
            try:
                stored = read_results(path)
                key = dict(stored.about["job"])
                outcome = BagOutcome(
                    stored.cases,
                    stored.dropped,
                    tuple(stored.about["failures"]),
                    int(stored.about["frames"]),
                    float(stored.about["seconds"]),
                    stored.latency,
                    read_ledger_lines(_ledger_path(folder, job)),
                )
            except (LlavaStError, KeyError, TypeError, ValueError):
                self.repeated.append(f"{job.name}: its stored outcome is not readable")
                continue
            expected = self._keys[index]
            changed = [name for name in expected if key.get(name) != expected[name]]
            if changed:
                self.repeated.append(f"{job.name}: other {', '.join(changed)} than before")
            else:
                self.outcomes[index] = outcome


def _key(job: BagJob, model_sha256: str) -> dict[str, str]:
    """Return what an outcome depends on; the bag as the names, sizes and times of its files."""
    files = sorted(job.bag.iterdir()) if job.bag.is_dir() else [job.bag]
    stats = [
        (path.name, stat.st_size, stat.st_mtime_ns)
        for path, stat in ((path, path.stat()) for path in files if path.exists())
        if path != job.annotations
    ]
    try:
        annotations = sha256_of(job.annotations)
    except OSError:
        annotations = ""  # the job fails with the reason
    settings = asdict(job)
    del settings["bag"], settings["annotations"]
    return {
        "bag": checksum_of({"files": stats}),
        "annotations": annotations,
        "model": model_sha256,
        "settings": checksum_of(settings),
        "version": llava_st_ros.__version__,
    }


def _ledger_path(folder: Path, job: BagJob) -> Path:
    return _path(folder, job).with_suffix(".ledger.jsonl")


def _path(folder: Path, job: BagJob) -> Path:
    name = quote(job.name, safe=" ")
    if len(name) > MAX_NAME_BYTES:
        digest = hashlib.sha256(job.name.encode("utf-8", "surrogateescape")).hexdigest()
        name = f"{name[:MAX_NAME_BYTES]}-{digest[:16]}"
    return folder / FOLDER / f"{name}.json"
