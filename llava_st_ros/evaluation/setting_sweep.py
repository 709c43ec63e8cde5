"""Settings of tracks and events compared on the same answers: the model runs once.

Any setting of GrounderConfig can be compared but those that determine what the model sees and how
it decodes (FIXED).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from typing import Any

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import BackendError, ConfigError
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag, stream_rows
from llava_st_ros.evaluation.bag_run import BagWorker
from llava_st_ros.evaluation.jobs.records import (
    JobFailure,
    OnProgress,
    Progress,
    Work,
    ignore_progress,
)
from llava_st_ros.evaluation.jobs.run import run_jobs
from llava_st_ros.evaluation.remembered_answers import EyelessBackend, Key, RememberingRunner
from llava_st_ros.evaluation.results import Case, MetricRow
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.records import Grounding
from llava_st_ros.text.tokenizer import Tokenizer

FIXED = ("stream", "max_new_tokens", "constrained", "max_queries")


@dataclass(frozen=True)
class Variation:
    """Values of one setting to compare.

    Attributes:
        name: The setting.
        values: Its values, each once.
    """

    name: str
    values: tuple[float | bool, ...]

    @classmethod
    def parse(cls, text: str) -> Variation:
        """Return the variation of a text such as "no_match_threshold=0.5,0.2".

        Raises:
            ConfigError: The text is not of this form, or there is no such setting.
        """
        known = {f.name: f.default for f in fields(GrounderConfig) if f.name not in FIXED}
        name, _, listed = text.partition("=")
        if name not in known or not listed:
            raise ConfigError(
                f"{text!r} is not a setting with values, like no_match_threshold=0.5,0.2",
                f"the settings are {', '.join(known)}",
            )
        try:
            values = [
                parse_json(v, text, ConfigError, expected=None, nan=True) for v in listed.split(",")
            ]
        except ConfigError as error:
            raise ConfigError(f"{text!r} has a value that is no number") from error
        is_switch, is_count = isinstance(known[name], bool), isinstance(known[name], int)
        expected = (bool,) if is_switch else (int,) if is_count else (int, float)
        for value in values:
            if not isinstance(value, expected) or isinstance(value, bool) != is_switch:
                kind = "true or false" if is_switch else "an integer" if is_count else "a number"
                raise ConfigError(f"{name} is {value!r}; expected {kind}")
        return cls(name, tuple(dict.fromkeys(values)))


Changes = Mapping[str, Any]  # settings by name


def combinations(variations: Sequence[Variation]) -> list[Changes]:
    """Return every combination of the values of several settings, the last one varying fastest.

    Raises:
        ConfigError: A setting is named twice.

    >>> combinations([Variation("a", (1, 2)), Variation("b", (True, False))])[1]
    {'a': 1, 'b': False}
    """
    names = [variation.name for variation in variations]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name} is varied twice", "give all its values at once")
    return [dict(zip(names, values)) for values in product(*(v.values for v in variations))]


def sweep_bags(
    jobs: Sequence[BagJob],
    worker: BagWorker,
    changes: Sequence[Changes],
    workers: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> list[list[MetricRow]]:
    """Return the figures of bags for each of several changes of the jobs' settings.

    Args:
        jobs: The bags, each with one annotated camera.
        worker: What answers.
        changes: The settings that differ from those of the jobs.
        workers: Number of processes; 1 is this process.
        on_progress: As for ``run_jobs``.

    Raises:
        BackendError: A bag could not be evaluated.
        LlavaStError: As ``run_jobs`` does.
    """
    found: dict[int, list[Sequence[Case]]] = {}
    start = _SweepWorker(worker, tuple(changes))
    for done in run_jobs(start, jobs, workers=workers, on_progress=on_progress):
        if isinstance(done.outcome, JobFailure):
            raise BackendError(f"{jobs[done.index].name}: {done.outcome.reason}")
        found[done.index] = done.outcome
    return [
        stream_rows([case for index in sorted(found) for case in found[index][number]])
        for number in range(len(changes))
    ]


def sweep_bag(
    job: BagJob,
    backend: Backend,
    tokenizer: Tokenizer,
    configs: Sequence[GrounderConfig],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sequence[Case]]:
    """Return the cases of a bag with one annotated camera for each of several settings.

    Args:
        job: The bag; its config is not used.
        backend: The model.
        tokenizer: Its tokenizer.
        configs: The settings, the same in FIXED.
        on_progress: As for ``evaluate_bag``; called for the first settings only.

    Raises:
        DataError: As ``evaluate_bag`` does.
    """
    answers: dict[Key, Grounding] = {}
    cases: list[Sequence[Case]] = []
    for config in configs:
        runner = RememberingRunner(backend, tokenizer, config, answers)
        varied = replace(job, config=config)
        cases.append(evaluate_bag(varied, backend, tokenizer, on_progress, runner=runner).cases)
        if len(cases) == 1:
            backend, on_progress = EyelessBackend(backend), lambda done, total: None
    return cases


@dataclass(frozen=True)
class _SweepWorker:
    """Sweeps bags in a process: calling it loads the model and returns the work."""

    worker: BagWorker
    changes: tuple[Changes, ...]

    def __call__(self) -> Work[BagJob, list[Sequence[Case]]]:
        backend, tokenizer = self.worker.load(self.worker.model)
        return partial(self._sweep, backend, tokenizer)

    def _sweep(
        self, backend: Backend, tokenizer: Tokenizer, job: BagJob, progress: Progress
    ) -> list[Sequence[Case]]:
        configs = [replace(job.config, **changed) for changed in self.changes]
        return sweep_bag(job, backend, tokenizer, configs, progress)
