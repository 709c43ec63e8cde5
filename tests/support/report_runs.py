"""Runs for the tests of reports: a small one on a recorded bag, and one with hostile texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin

from llava_st_ros.evaluation.metric_kinds import (
    MeanMetric,
    Metric,
    QuantileMetric,
    RatioMetric,
    TwoSampleMetric,
    above,
)
from llava_st_ros.evaluation.results import Case, MetricRow, RunResults, Timeline, rows_of
from llava_st_ros.evaluation.streams.scores import STREAM_METRICS
from llava_st_ros.records import NANOSECONDS, Box
from support.bags import START, STEP, TOPIC, images, write_recording

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></script><h1>hi",
    "x" * 500,
    "the blue ball is lifted " * 20,
    "\u202eright to left",
    "שלום, הכדור האדום",
    "👩‍🚀🤖 the 🔴 ball",
    "{{ 7 * 7 }} {% raw %}",
    "",
    "a\x00b\ud800c\x1b[31m",
    "=HYPERLINK(1)",
    "https://example.org/x.js",
)
METRICS = (
    MeanMetric("m_vIoU", "viou"),
    MeanMetric("m_tIoU", "tiou"),
    MeanMetric("vIoU@0.3", "viou", transform=above(0.3)),
    MeanMetric("m_vIoU", "hcstvg/viou", "HC-STVG"),
    MeanMetric("accuracy", "accuracy"),
    QuantileMetric("detection delay p50", "detection_delay", unit="s", lower_is_better=True),
    RatioMetric("false events", "false_events", unit="1/h", lower_is_better=True),
)


def results_of(cases: list[Case], about: dict[str, object], **fields: object) -> RunResults:
    """A run of cases, with the rows of each task and those of the stream."""
    rows = [
        row
        for task in dict.fromkeys(case.task for case in cases)
        for row in rows_of(task, METRICS, [case for case in cases if case.task == task])
    ]
    rows += rows_of("stream", METRICS[5:], cases)
    return RunResults(about, tuple(cases), tuple(rows), **fields)  # type: ignore[arg-type]


def recorded_run(folder: Path) -> RunResults:
    """Two queries on a bag of 20 images of 8 x 6 pixels."""
    bag = write_recording(folder / "bag", StoragePlugin.MCAP, images(20))
    stamps = [START + index * STEP for index in range(20)]
    moving = {s: Box(0.1 + 0.02 * i, 0.2, 0.4 + 0.02 * i, 0.7) for i, s in enumerate(stamps)}
    near = {s: Box(b.x1, b.y1, b.x2, b.y2 - 0.1) for s, b in list(moving.items())[5:15]}
    truth = Timeline(((stamps[4], stamps[12]),), {s: moving[s] for s in stamps[4:13]})
    found = Timeline(((stamps[5], stamps[14]),), near)
    samples = {"detection_delay": (0.1,), "stamp_to_answer": (0.4, 0.5, 0.9)}
    cases = [
        Case("bag:a", str(bag), "STVG", "the ball rolls", {"viou": 0.58, "tiou": 0.73},
             {"false_events": (0.0, 0.1)}, samples, truth, found, TOPIC),
        Case("bag:b", str(bag), "STVG", "the box falls", {"viou": 0.0, "tiou": 0.0},
             {"false_events": (1.0, 0.1)}, {"detection_delay": ()}, truth, Timeline(), TOPIC,
             ("answer 3 has no span",)),
    ]  # fmt: skip
    latency = {"encode": (0.1, 0.2, 0.3), "tick": (0.5, 0.7, 0.9)}
    about = {"model": "llava-st-tiny", "mode": "offline", "versions": {"numpy": np.__version__}}
    return results_of(cases, about, dropped=("3 frames: damaged",), latency=latency)


def hostile_run(count: int = 26) -> RunResults:
    """A run whose texts try to break the page; its recordings do not exist."""
    random = np.random.default_rng(1)
    cases = []
    for number in range(count):
        task = ("STVG", "TVG", "no_match")[number % 3]
        values = {
            "STVG": {name: float(random.random()) for name in ("viou", "tiou", "hcstvg/viou")},
            "TVG": {"tiou": float(random.random())},
            "no_match": {"accuracy": float(number % 2)},
        }[task]
        cases.append(
            Case(
                f"case <{number}>",
                ("bags/kitchen.mcap", "<b>bag</b>/../" + "y" * 80)[number % 2],
                task,
                HOSTILE[number % len(HOSTILE)],
                values,
                {"false_events": (float(number % 3), 0.02)},
                {"detection_delay": tuple(random.exponential(1.0, number % 3).tolist())},
                _timeline(random, 0 if task == "no_match" else 1 + number % 3),
                _timeline(random, number % 3),
                "/<i>topic</i>",
                ("</td></table><script>x",) * (number % 5),
            )
        )
    about = {"model": "/models/<b>x</b>", "command": "llava-st " + "bag.mcap " * 400}
    run = results_of(cases, about, dropped=("<dropped> " + "z" * 400,) * 150)
    undefined = MetricRow("<b>task</b>", "nothing", *(float("nan"),) * 3, 0, "x<y")
    return RunResults(run.about, run.cases, (*run.rows, undefined), run.dropped)


def stream_run(better: float = 0.0) -> RunResults:
    """Three queries with every figure of a stream, as many as a report has on bags."""
    kinds: dict[type[Metric], str] = {MeanMetric: "values", RatioMetric: "counts"}
    cases = []
    for number in range(3):
        share = 0.2 + 0.2 * number + better
        found: dict[str, dict[str, object]] = {"values": {}, "counts": {}, "samples": {}}
        for metric in STREAM_METRICS:
            value = {"values": share, "counts": (12.0 * share, 1.0), "samples": (share, 2.0)}
            kind = kinds.get(type(metric), "samples")
            found[kind][metric.key] = value[kind]
            if isinstance(metric, TwoSampleMetric):
                found[kind][metric.negatives] = (0.1, share)
        query = f"the red box is pushed behind the green ball {number}"
        bag = "recordings/kitchen_2026_11_03.mcap"
        cases.append(Case(f"bag-{number}", bag, "STVG", query, **found))  # type: ignore[arg-type]
    rows = rows_of("stream", STREAM_METRICS, cases)
    return RunResults({"model": "llava-st-tiny"}, tuple(cases), tuple(rows))


def changed_run() -> RunResults:
    """The hostile run, better by up to 0.2, with one more case and one that asks another query."""
    run = hostile_run()
    cases = [
        replace(case, values={k: min(1.0, v + 0.02 * (n % 11)) for k, v in case.values.items()})
        for n, case in enumerate(run.cases)
    ]
    cases[3] = replace(cases[3], query="another query")
    cases.append(replace(cases[0], id="more"))
    return results_of(cases, {**run.about, "model": "other"}, latency={"tick": (0.5, 0.6)})


def _timeline(random: np.random.Generator, spans: int) -> Timeline:
    time, found, boxes = 1_700_000_000 * NANOSECONDS, [], {}
    for _ in range(spans):
        start = time + int(random.integers(0, 9)) * NANOSECONDS
        time = start + int(random.integers(1, 9)) * NANOSECONDS
        found.append((start, time))
        for stamp in range(start, time, NANOSECONDS // 5):
            x, y = random.random(2) * 0.7
            boxes[stamp] = Box(x, y, x + 0.2, y + 0.25)
    return Timeline(tuple(found), boxes)
