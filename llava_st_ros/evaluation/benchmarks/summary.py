"""The results of a benchmark: what was evaluated, what was not and why, and the figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llava_st_ros.evaluation.benchmarks.evaluator import SampleOutcome
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkFile
from llava_st_ros.evaluation.captions import score_captions
from llava_st_ros.evaluation.conventions.records import Convention
from llava_st_ros.evaluation.metric_kinds import OURS, MeanMetric, Metric
from llava_st_ros.evaluation.results import Case, MetricRow, RunResults, rows_of

ANSWERED = MeanMetric("answered", "answered")


def run_results(
    about: Mapping[str, Any],
    read: BenchmarkFile,
    outcomes: Mapping[int, SampleOutcome],
    requested: int,
    conventions: Sequence[Convention],
) -> RunResults:
    """Return the results of the samples that were evaluated.

    Args:
        about: What ran.
        read: What the benchmark's files contain.
        outcomes: The outcome of each sample, by its index; some are lacking if the run was
            interrupted.
        requested: The number of samples that were to be evaluated.
        conventions: The scoring conventions.
    """
    ordered = [outcomes[index] for index in sorted(outcomes)]
    cases, of_captions, problems = _with_captions(ordered)
    latency: dict[str, list[float]] = defaultdict(list)
    for outcome in ordered:
        for stage, seconds in outcome.seconds.items():
            latency[stage].append(seconds)
    notes = dict.fromkeys((*read.notes, *(note for o in ordered for note in o.notes)))
    return RunResults(
        {**about, "notes": list(notes)},
        cases,
        tuple(_rows(cases, conventions, of_captions)),
        (*dropped(read, ordered, requested), *problems),
        {stage: tuple(seconds) for stage, seconds in latency.items()},
    )


def _with_captions(
    outcomes: Sequence[SampleOutcome],
) -> tuple[tuple[Case, ...], Sequence[Metric], Sequence[str]]:
    """Return the cases with the values of captions, which depend on each other, and the figures."""
    cases = [outcome.case for outcome in outcomes]
    captions = {i: o.captions for i, o in enumerate(outcomes) if o.captions is not None}
    if not captions:
        return tuple(cases), (), ()
    predicted, expected = zip(*captions.values())
    scores = score_captions(predicted, [[caption] for caption in expected])
    for i, values in zip(captions, scores.values):
        cases[i] = replace(cases[i], values={**cases[i].values, **values})
    return tuple(cases), scores.metrics, scores.problems


def _rows(
    cases: Sequence[Case], conventions: Sequence[Convention], of_captions: Sequence[Metric]
) -> list[MetricRow]:
    by_category: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_category[case.task].append(case)
    figures = [*(_metrics(convention) for convention in conventions), of_captions]
    return [
        row
        for category, of_category in by_category.items()
        for metrics in figures
        for row in rows_of(category, metrics, of_category)
    ]


def _metrics(convention: Convention) -> Sequence[Metric]:
    """Return a convention's figures; ours have the share of samples with an answer, too."""
    return (*convention.metrics, ANSWERED) if convention.name == OURS else convention.metrics


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
