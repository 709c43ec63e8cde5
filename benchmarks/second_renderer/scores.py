"""How well a model answers queries about the second renderer's clips and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.second_renderer.footage import VERSION, make_video
from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, stream_rows
from llava_st_ros.evaluation.bag_run import bag_jobs
from llava_st_ros.evaluation.clip_window import ClipWindow
from llava_st_ros.evaluation.metric_kinds import AurocMetric, MeanMetric, Metric, above, reaching
from llava_st_ros.evaluation.remembered_answers import NEVER
from llava_st_ros.evaluation.results import Case, MetricRow, rows_of
from llava_st_ros.evaluation.scoring import FALSE_NO_MATCH, NO_MATCH, category, score
from llava_st_ros.evaluation.setting_sweep import sweep_bag
from llava_st_ros.evaluation.simulated import ClipQuestion, ClipQuestions
from llava_st_ros.evaluation.streams.headline import headline
from llava_st_ros.records import Task
from llava_st_ros.simulation.bag_writer import write_bag
from llava_st_ros.simulation.video_queries import sample_queries
from llava_st_ros.text.tokenizer import Tokenizer

CATEGORIES = (Task.STVG.value, Task.SVG.value, Task.TVG.value, Task.REC.value, NO_MATCH)
_CLIP_METRICS: dict[str, Sequence[Metric]] = {
    "REC": (
        MeanMetric("Acc@0.5", "IoU", transform=reaching(0.5)),
        MeanMetric("Acc@0.5, never no match", "forced IoU", transform=reaching(0.5)),
        FALSE_NO_MATCH,
    ),
    "STVG": (
        MeanMetric("m_vIoU", "vIoU"),
        MeanMetric("m_vIoU, never no match", "forced vIoU"),
        MeanMetric("m_tIoU", "tIoU"),
        FALSE_NO_MATCH,
    ),
    "SVG": (MeanMetric("m_sIoU", "sIoU"), FALSE_NO_MATCH),
    "TVG": (
        MeanMetric("R1@0.5", "tIoU", transform=above(0.5)),
        MeanMetric("R1@0.5, never no match", "forced tIoU", transform=above(0.5)),
        FALSE_NO_MATCH,
    ),
    NO_MATCH: (MeanMetric("accuracy", "accuracy"),),
}
_ALL_METRICS: Sequence[Metric] = (
    FALSE_NO_MATCH,
    AurocMetric("AUROC of P(match)", "match", negatives="match_probability_without"),
)


def score_clips(
    clips: Iterable[ClipQuestions], backend: Backend, tokenizer: Tokenizer
) -> list[Case]:
    """Ask the questions of clips and return their cases.

    A question that is answered "no match" though something matches is asked again without that
    option; keys of its scores then begin with "forced".
    """
    window = ClipWindow(backend, tokenizer)
    cases = []
    for clip in clips:
        window.load(clip.frames)
        cases += [_ask(window, clip, question) for question in clip.questions]
    return cases


def _ask(window: ClipWindow, clip: ClipQuestions, question: ClipQuestion) -> Case:
    grounding = window.ask(question.query, question.frame)
    answer, expected = grounding.answer, question.expected
    values = score(answer, expected, question.attributes)
    if not expected.no_match:
        if answer.no_match:
            answer = window.ask(question.query, question.frame, NEVER).answer
        forced = score(answer, expected, question.attributes)
        values |= {f"forced {key}": value for key, value in forced.items()}
    probability = grounding.match_probability
    key = "match_probability_without" if expected.no_match else "match"
    samples = {} if probability is None else {key: (probability,)}
    source = f"clip {clip.index}"
    task, text = category(expected), question.query.text
    return Case(question.query.id, source, task, text, values, samples=samples)


def clip_rows(cases: Sequence[Case]) -> list[MetricRow]:
    """Return the figures of clips: by category, then of all questions."""
    rows = []
    for name, metrics in _CLIP_METRICS.items():
        rows += rows_of(name, metrics, [case for case in cases if case.task == name])
    return rows + rows_of("all", _ALL_METRICS, cases)


def record_streams(
    seeds: range,
    queries: int,
    folder: Path,
    *,
    duration: float = 40.0,
    on_recorded: Callable[[int], None] = lambda recorded: None,
) -> list[Path]:
    """Record videos as annotated bags, each with standing queries as ``sample_queries`` does.

    Args:
        seeds: Of the videos.
        queries: Number of queries of each.
        folder: The folder of the bags. Those that it has already are not recorded again.
        duration: Of a video in seconds.
        on_recorded: Called with 1 after each one.

    Returns:
        The bags.
    """
    bags = []
    for seed in seeds:
        bag = folder / f"{duration:g}s-{queries}queries-v{VERSION}" / f"{seed:04}"
        if not bag.exists():
            video = make_video(seed, duration=duration)
            chosen = sample_queries(video, queries, np.random.default_rng([seed, 2]))
            write_bag(video, bag, queries=chosen)
        bags.append(bag)
        on_recorded(1)
    return bags


def score_streams(
    bags: Sequence[Path],
    backend: Backend,
    tokenizer: Tokenizer,
    configs: Sequence[GrounderConfig],
    on_scored: Callable[[int], None] = lambda scored: None,
) -> list[list[MetricRow]]:
    """Replay recorded streams offline and return the figures by which they are judged.

    Args:
        bags: The streams.
        backend: The model, which runs once for all of ``configs``.
        tokenizer: Its tokenizer.
        configs: Settings of tracks and events.
        on_scored: Called with 1 after each stream.

    Returns:
        The rows of ``headline`` for each of the settings.
    """
    cases: list[list[Case]] = [[] for _ in configs]
    for job in bag_jobs(bags, (), BagJob("", Path(), Path())):
        for all_cases, found in zip(cases, sweep_bag(job, backend, tokenizer, configs)):
            all_cases += found
        on_scored(1)
    return [headline(stream_rows(found)) for found in cases]
