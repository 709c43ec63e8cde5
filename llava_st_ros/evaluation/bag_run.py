"""A run over bags: each bag is a job whose outcome is kept, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.atomic_files import require_writable_folder
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.evaluation.bag_evaluation import BagJob, BagOutcome, evaluate_bag
from llava_st_ros.evaluation.jobs import JobFailure, run_jobs
from llava_st_ros.evaluation.ledger import LedgerModel, read_ledger_lines, write_ledger
from llava_st_ros.evaluation.results import RunResults, read_results, write_results
from llava_st_ros.files.checksums import checksum_of, sha256_of
from llava_st_ros.text.tokenizer import Tokenizer

FOLDER = "bags"  # of the outcomes, in a run's folder


@dataclass(frozen=True)
class BagTask:
    """A job and the model that runs it.

    Attributes:
        job: The bag.
        model: Checkpoint or engine directory.
        backend: Runtime; empty for the model's own.
        device: Device of the runtime; empty for the runtime's default.
        threads: CPU threads (``load_backend``).
        model_sha256: The model's checksum.
    """

    job: BagJob
    model: Path
    backend: str = ""
    device: str = ""
    threads: int = 0
    model_sha256: str = ""

    @property
    def ledger_model(self) -> LedgerModel:
        """What the ledger says about the model."""
        return LedgerModel(str(self.model), self.model_sha256, self.backend, self.device)


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
    paths = annotations or [annotation_path(bag) for bag in bags]
    return [
        replace(job, name=name, bag=bag, annotations=path)
        for name, bag, path in zip(_names(resolved), bags, paths)
    ]


def _names(bags: Sequence[Path]) -> list[str]:
    """Name each bag by as many of its last folders as tell it from the others."""
    names = []
    for bag in bags:
        length = 1
        others = [other for other in bags if other != bag]
        while any(other.parts[-length:] == bag.parts[-length:] for other in others):
            length += 1
        names.append("/".join(bag.parts[-length:]).lstrip("/"))
    return names


def run_bags(
    tasks: Sequence[BagTask],
    *,
    workers: int = 1,
    folder: Path | None = None,
    resume: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[tuple[BagJob, BagOutcome | JobFailure]]:
    """Evaluate bags and yield each outcome when it is known: stored ones first, then in any order.

    Args:
        tasks: The bags.
        workers: Number of processes; 1 is this process.
        folder: The run's folder, which keeps the outcomes; None keeps none.
        resume: Whether outcomes of the same job, model and data are taken from ``folder``.
        on_frame: Called after each frame, with one process.
    """
    keys: dict[int, str] = {}
    if folder is not None:
        require_writable_folder(folder / FOLDER)
        keys = {n: _key(task.job, task.model_sha256) for n, task in enumerate(tasks)}
    todo = []
    for number, task in enumerate(tasks):
        stored = _stored(folder, task.job, keys[number]) if folder and resume else None
        if stored is None:
            todo.append(number)
        else:
            yield task.job, stored
    function = evaluate_task if workers > 1 else _with_progress(on_frame)
    for finished in run_jobs(function, [tasks[number] for number in todo], workers):
        number, outcome = todo[finished.index], finished.outcome
        if folder is not None and isinstance(outcome, BagOutcome):
            _store(folder, tasks[number].job, keys[number], outcome)
        yield tasks[number].job, outcome


def evaluate_task(task: BagTask) -> BagOutcome:
    """Evaluate a bag with this process's model."""
    model = _model(task.model, task.backend, task.device, task.threads)
    return evaluate_bag(task.job, *model, model=task.ledger_model)


def _with_progress(on_frame: Callable[[], None]) -> Callable[[BagTask], BagOutcome]:
    def evaluate(task: BagTask) -> BagOutcome:
        model = _model(task.model, task.backend, task.device, task.threads)
        return evaluate_bag(task.job, *model, on_frame, task.ledger_model)

    return evaluate


@cache
def _model(model: Path, backend: str, device: str, threads: int) -> tuple[Backend, Tokenizer]:
    return load_backend(model, backend, device=device, threads=threads)


def _key(job: BagJob, model_sha256: str) -> str:
    """Hash what an outcome depends on; the bag by the names, sizes and times of its files."""
    files = sorted(job.bag.iterdir()) if job.bag.is_dir() else [job.bag]
    stats = [(path.name, path.stat()) for path in files if path.exists()]
    try:
        annotations = sha256_of(job.annotations)
    except OSError:
        annotations = ""  # the job fails with the reason
    settings = {name: v for name, v in asdict(job).items() if name not in ("bag", "annotations")}
    return checksum_of(
        {
            "settings": settings,
            "bag": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
            "annotations": annotations,
            "model": model_sha256,
        }
    )


def _path(folder: Path, job: BagJob) -> Path:
    return folder / FOLDER / (job.name.replace("/", "__") + ".json")


def _ledger_path(folder: Path, job: BagJob) -> Path:
    return _path(folder, job).with_suffix(".ledger.jsonl")


def _store(folder: Path, job: BagJob, key: str, outcome: BagOutcome) -> None:
    about: Mapping[str, Any] = {
        "job": key,
        "frames": outcome.frames,
        "seconds": outcome.seconds,
    }
    write_ledger(_ledger_path(folder, job), outcome.ledger)  # complete before the outcome is
    results = RunResults(about, outcome.cases, (), outcome.dropped, outcome.latency)
    write_results(_path(folder, job), results)


def _stored(folder: Path, job: BagJob, key: str) -> BagOutcome | None:
    try:
        stored = read_results(_path(folder, job))
        ledger = read_ledger_lines(_ledger_path(folder, job))
    except LlavaStError:
        return None  # missing or of another version: evaluated again
    if stored.about.get("job") != key:
        return None
    return BagOutcome(
        stored.cases,
        stored.dropped,
        int(stored.about["frames"]),
        float(stored.about["seconds"]),
        stored.latency,
        ledger,
    )
