"""``make demo``: plays a bag to the node, then draws and scores what the node published.

    scripts/with_ros python -m demo.run [--out out/demo]

The node, a player and a collector run as separate processes that communicate over DDS. Exit codes:
0 if there are tracks, 1 if there are none or a process died, 2 if the input cannot be read.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

from demo.domains import free_domain
from demo.playback import Playback
from demo.view import View, summary_tables
from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.annotations.records import AnnotatedQuery, GroundTruth
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.errors import LlavaStError
from llava_st_ros.evaluation.about import about_run
from llava_st_ros.evaluation.bag_evaluation import ALL_QUERIES, stream_rows
from llava_st_ros.evaluation.frame_readers import RecordedFrames
from llava_st_ros.evaluation.report_page.report_files import write_run
from llava_st_ros.evaluation.result_table import result_table
from llava_st_ros.evaluation.results import RunResults
from llava_st_ros.evaluation.streams.scores import score_stream
from llava_st_ros.media.pictures import frame_rate, write_pictures
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import NANOSECONDS, Modality
from llava_st_ros.ros.child_processes import ChildProcesses, ProcessError

NODE_NAME, IMAGE_TOPIC = "grounding", "/camera/image/compressed"
START_TIMEOUT_S, LAST_ANSWER_TIMEOUT_S = 120.0, 15.0
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Scenario:
    """A bag with its ground truth.

    Attributes:
        stamps: The stamps of the bag's frames (ns).
    """

    source: BagSource
    ground_truth: GroundTruth
    stamps: list[int]

    @property
    def queries(self) -> tuple[AnnotatedQuery, ...]:
        return self.ground_truth.queries

    @property
    def seconds(self) -> float:
        return (self.stamps[-1] - self.stamps[0]) / NANOSECONDS


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--bag", type=Path, default=HERE / "bag", help="default: demo/bag")
    arguments.add_argument(
        "--annotations", type=Path, help="default: annotations.json in the bag's folder"
    )
    arguments.add_argument("--out", type=Path, default=Path("out/demo"))
    arguments.add_argument(
        "--model", type=Path, help="checkpoint or engine directory (default: llava-st-tiny)"
    )
    arguments.add_argument(
        "--period", type=float, default=1.0, help="seconds between evaluations of a video query"
    )
    # Boxes of a track more than a second apart are not joined, and image queries are cheap.
    arguments.add_argument(
        "--picture-period",
        type=float,
        default=0.5,
        help="seconds between evaluations of an image query",
    )
    arguments.add_argument("--min-confidence", type=float, default=0.0)
    arguments.add_argument(
        "--history",
        type=float,
        default=0.9,
        help="fraction of the window to be seen before the first evaluation",
    )
    return arguments


def write_parameters(
    path: Path, arguments: argparse.Namespace, queries: Sequence[AnnotatedQuery]
) -> None:
    """Write the node's parameter file: one camera and the standing queries."""
    standing_queries = [
        json.dumps(
            {
                "id": query.id,
                "text": query.text,
                "task": query.task.value,
                "period": arguments.picture_period
                if query.task.modality is Modality.IMAGE
                else arguments.period,
            }
        )
        for query in queries
    ]
    parameters = {
        "model": str((arguments.model or default_model()).resolve()),
        # The player, the collector and DDS need the cores too (docs/lab_notes.md).
        "threads": 1,
        "cameras": [f"camera={IMAGE_TOPIC}"],
        "queries": standing_queries,
        "min_confidence": arguments.min_confidence,
        "history": arguments.history,
    }
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")


def wait_until(
    condition: Callable[[], bool], children: ChildProcesses, playback: Playback, timeout: float
) -> bool:
    """Handle messages until a condition holds.

    Returns False once ``timeout`` seconds have passed and no message is left.

    Raises:
        ProcessError: A process died.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        children.check()
        children.require_running("node")
        children.require_running("collector")
        message = children.next_message(timeout=0.1)
        if message is not None:
            playback.add(message)
        elif time.monotonic() > deadline:
            return False
    return True


def play(
    children: ChildProcesses,
    arguments: argparse.Namespace,
    scenario: Scenario,
    playback: Playback,
    view: View,
) -> None:
    """Run the processes until every query was evaluated on the bag's last frames."""
    logs = arguments.out / "logs"
    parameters = arguments.out / "parameters.yaml"
    write_parameters(parameters, arguments, scenario.queries)
    children.start("collector", "llava_st_ros.ros.result_collector", f"/{NODE_NAME}")
    node_arguments = ["--ros-args", "-r", f"__node:={NODE_NAME}", "--params-file", str(parameters)]
    children.start("node", "llava_st_ros.cli", "node", *node_arguments)
    view.print("loading the model; connecting the node and the collector")
    if not wait_until(lambda: playback.is_ready, children, playback, START_TIMEOUT_S):
        raise ProcessError(
            f"the node has published no topics after {START_TIMEOUT_S:.0f} s",
            f"see {logs / 'node.log'}",
        )
    children.start("player", "llava_st_ros.ros.bag_player", str(arguments.bag), IMAGE_TOPIC)
    if not wait_until(
        lambda: playback.is_done, children, playback, START_TIMEOUT_S + scenario.seconds
    ):
        raise ProcessError("the player does not finish", f"see {logs / 'player.log'}")
    # A query last evaluated a period or more before the bag's end is due again by then.
    last_due = scenario.stamps[-1] - round(arguments.period * NANOSECONDS)
    ids = [query.id for query in scenario.queries]
    if not wait_until(
        lambda: playback.all_answered(ids, last_due), children, playback, LAST_ANSWER_TIMEOUT_S
    ):
        view.print("some queries were not evaluated on the last frames; continuing without them")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the demo; return its exit code."""
    source = BagSource(arguments.bag)
    ground_truth = read_annotations(arguments.annotations or annotation_path(arguments.bag))
    scenario = Scenario(source, ground_truth, [frame.stamp for frame in source])
    logs = arguments.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(logs.resolve()),
        "PYTHONUNBUFFERED": "1",
    }
    view = View(scenario.queries, scenario.stamps[0], console)
    playback = Playback(len(scenario.stamps), view)
    with ChildProcesses(logs, environment) as children, view:
        play(children, arguments, scenario, playback, view)
    results = evaluate(arguments, scenario, playback)
    report = write_outputs(arguments.out, scenario, playback, results)
    print_results(report, scenario, playback, results, console)
    if not playback.recording.tracks:
        raise ProcessError("the node published no tracks", f"see the logs in {logs}")
    return 0


def evaluate(arguments: argparse.Namespace, scenario: Scenario, playback: Playback) -> RunResults:
    """Score what was published about each query."""
    published, truth = playback.published, scenario.ground_truth
    cases = tuple(
        score_stream(published, query, truth, {0: scenario.stamps}).as_case(
            query.id, str(arguments.bag), query
        )
        for query in scenario.queries
    )
    about = about_run(
        "demo: node over DDS",
        arguments.model or default_model(),
        seconds=scenario.seconds,
        bag=str(arguments.bag),
        frames=len(scenario.stamps),
        tracks=len(playback.recording.tracks),
        events=len(playback.recording.events),
    )
    latency = {
        name: tuple(nanoseconds / NANOSECONDS for nanoseconds in samples)
        for name, samples in (
            ("stamp_to_track", playback.track_latencies),
            ("stamp_to_answer", playback.answer_latencies),
        )
    }
    return RunResults(about, cases, tuple(stream_rows(cases)), latency=latency)


def write_outputs(out: Path, scenario: Scenario, playback: Playback, results: RunResults) -> Path:
    """Write the records, the pictures and the results; return the path of the report."""
    playback.recording.write(out)
    write_pictures(
        scenario.source,
        playback.recording.annotations(scenario.stamps),
        fps=frame_rate(scenario.stamps),
        video=out / "overlay.mp4",
        sheet=out / "contact_sheet.png",
    )
    return write_run(results, out, RecordedFrames())


def print_results(
    report: Path, scenario: Scenario, playback: Playback, results: RunResults, console: Console
) -> None:
    """Print the tracks, events, figures and latencies, and where the report is."""
    first, recording = scenario.stamps[0], playback.recording
    console.print(summary_tables(scenario.queries, recording, results.cases, first))
    rows = [row for row in results.rows if row.task == ALL_QUERIES]
    console.print(result_table(rows, f"standing queries on {scenario.source.name}"))
    for name, samples in results.latency.items():
        if samples:
            median, p95 = np.percentile(samples, (50, 95))
            console.print(
                f"latency {name.replace('_', ' ')}: median {1e3 * median:.0f} ms, "
                f"p95 {1e3 * p95:.0f} ms ({len(samples)} messages)"
            )
    names = "overlay.mp4, contact_sheet.png, tracks.jsonl, events.jsonl, results.json, *.csv"
    console.print(f"in {report.parent}: {names}", soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    try:
        return run(parser().parse_args(), Console())
    except ProcessError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except LlavaStError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
