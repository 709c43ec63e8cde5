"""The results of a benchmark: what was evaluated, what was not and why, and the figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from llava_st_ros.evaluation.benchmarks.evaluator import SampleOutcome
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkFile
from llava_st_ros.evaluation.results import Case, MetricRow, RunResults, rows_of
from llava_st_ros.evaluation.scoring import METRICS


def run_results(
    about: Mapping[str, Any],
    read: BenchmarkFile,
    outcomes: Mapping[int, SampleOutcome],
    requested: int,
) -> RunResults:
    """Return the results of the samples that were evaluated.

    Args:
        about: What ran.
        read: What the benchmark's files contain.
        outcomes: The outcome of each sample, by its index; some are lacking if the run was
            interrupted.
        requested: The number of samples that were to be evaluated.
    """
    ordered = [outcomes[index] for index in sorted(outcomes)]
    cases = tuple(outcome.case for outcome in ordered)
    latency: dict[str, list[float]] = defaultdict(list)
    for outcome in ordered:
        for stage, seconds in outcome.seconds.items():
            latency[stage].append(seconds)
    notes = dict.fromkeys((*read.notes, *(note for o in ordered for note in o.notes)))
    return RunResults(
        {**about, "notes": list(notes)},
        cases,
        tuple(_rows(cases)),
        tuple(dropped(read, ordered, requested)),
        {stage: tuple(seconds) for stage, seconds in latency.items()},
    )


def _rows(cases: Sequence[Case]) -> list[MetricRow]:
    rows = []
    for task in dict.fromkeys(case.task for case in cases):
        rows += rows_of(task, METRICS[task.split()[0]], [c for c in cases if c.task == task])
    return rows


def dropped(read: BenchmarkFile, outcomes: Sequence[SampleOutcome], requested: int) -> list[str]:
    """Return what was not evaluated and why: the counts, then each record and sample."""
    records, unanswered = len(read.bad), [o for o in outcomes if not o.answered]
    lines = []
    if records:
        total = records + len(read.samples)
        lines.append(f"{records} of {total} records cannot be used ({records / total:.1%})")
    if unanswered:
        lines.append(
            f"{len(unanswered)} of {len(outcomes)} samples have no answer and count as 0 "
            f"({len(unanswered) / len(outcomes):.1%}): their media are missing or unreadable, or "
            "the evaluation failed"
        )
    if len(outcomes) < requested:
        lines.append(f"interrupted: {len(outcomes)} of {requested} samples are evaluated")
    lines += [f"{bad.place}: {bad.problem}" for bad in read.bad]
    lines += [f"{o.case.id}: {problem}" for o in unanswered for problem in o.case.problems]
    return lines
