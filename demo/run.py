"""``make demo``: node, player and collector as real processes; then what came, drawn and scored.

    scripts/with_ros .venv/bin/python -m demo.run [--out out/demo]

Exit code 0 where tracks came, 1 where none did or a process died, 2 on input that can't be read.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from demo.playback import Playback
from demo.processes import Children, DemoError, free_domain
from demo.score import TrueQuery, read_truth, score
from demo.view import View, latency_figures, summary_tables
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.errors import LlavaStError
from llava_st_ros.evaluation.metrics import mean
from llava_st_ros.media.pictures import write_pictures
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import NANOSECONDS, Modality

NODE, IMAGES = "grounding", "/camera/image/compressed"
START_SECONDS, LAST_ANSWER_SECONDS = 120.0, 15.0
HERE = Path(__file__).resolve().parent


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--bag", type=Path, default=HERE / "bag", help="default: demo/bag")
    arguments.add_argument("--truth", type=Path, help="default: truth.json beside the bag's files")
    arguments.add_argument("--out", type=Path, default=Path("out/demo"))
    arguments.add_argument(
        "--model", type=Path, help="checkpoint or engine directory (default: llava-st-tiny)"
    )
    arguments.add_argument(
        "--period", type=float, default=1.0, help="s between two asks about the window"
    )
    # Boxes of a track further apart than a second are not joined, and pictures are cheap to ask.
    arguments.add_argument(
        "--picture-period", type=float, default=0.5, help="s between two asks about a picture"
    )
    arguments.add_argument("--min-confidence", type=float, default=0.0)
    arguments.add_argument(
        "--history", type=float, default=0.9, help="share of the window seen before the first ask"
    )
    return arguments


def write_parameters(path: Path, arguments: argparse.Namespace, queries: Any) -> None:
    """The node's parameters file: one camera and the truth's queries, in words."""
    standing = [
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
        # Player, collector and DDS need the cores too (docs/lab_notes.md).
        "threads": 1,
        "cameras": [f"camera={IMAGES}"],
        "queries": standing,
        "min_confidence": arguments.min_confidence,
        "history": arguments.history,
    }
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")


def play(
    children: Children, arguments: argparse.Namespace, playback: Playback, parameters: Path,
    queries: tuple[TrueQuery, ...], last: int, view: View,
) -> None:  # fmt: skip
    """Run the three processes until every query was answered on the bag's last frame."""

    def until(condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            children.check()
            children.require_running("node")
            children.require_running("collector")
            message = children.next_message(timeout=0.1)
            if message is not None:
                playback.take(message)
            elif time.monotonic() > deadline:
                return False
        return True

    children.start("collector", "demo.collect", f"/{NODE}")
    children.start(
        "node", "llava_st_ros.cli", "node", "--ros-args", "-r", f"__node:={NODE}",
        "--params-file", str(parameters),
    )  # fmt: skip
    view.say("loading the model; the node and the collector find each other")
    if not until(lambda: playback.ready, START_SECONDS):
        raise DemoError(
            f"no topics of the node after {START_SECONDS:.0f} s"
            "; expected tracks, events and answers",
            f"see {arguments.out / 'logs' / 'node.log'}",
        )
    children.start("player", "demo.play", str(arguments.bag), IMAGES)
    if not until(lambda: playback.done, START_SECONDS + arguments.bag_seconds):
        raise DemoError("a player that does not end; expected the bag's pace", "see the logs")
    # A query last asked a period or more before the bag's end is due again by then.
    due = last - round(arguments.period * NANOSECONDS)
    if not until(
        lambda: all(playback.answered.get(query.id, 0) > due for query in queries),
        LAST_ANSWER_SECONDS,
    ):
        view.say("not every query was answered on the last frames; going on with what came")


def run(arguments: argparse.Namespace, console: Console) -> int:
    source = BagSource(arguments.bag)
    queries = read_truth(arguments.truth or arguments.bag / "truth.json")
    stamps = [frame.stamp for frame in source]
    arguments.bag_seconds = (stamps[-1] - stamps[0]) / NANOSECONDS
    logs = arguments.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    parameters = arguments.out / "parameters.yaml"
    write_parameters(parameters, arguments, queries)
    environment = {
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(logs.resolve()),
        "PYTHONUNBUFFERED": "1",
    }
    view = View(queries, stamps[0], console)
    playback = Playback(queries, len(stamps), view)
    with Children(logs, environment) as children, view:
        play(children, arguments, playback, parameters, queries, stamps[-1], view)
    return report(arguments, source, stamps, queries, playback, console)


def report(
    arguments: argparse.Namespace,
    source: BagSource,
    stamps: list[int],
    queries: tuple[TrueQuery, ...],
    playback: Playback,
    console: Console,
) -> int:
    """Files in the output folder and tables on the console; the exit code."""
    recording, out = playback.recording, arguments.out
    scores = [score(recording, query, stamps) for query in queries]
    recording.write(out)
    write_pictures(
        source, recording, stamps, video=out / "overlay.mp4", sheet=out / "contact_sheet.png"
    )
    summary = {
        "bag": str(arguments.bag),
        "frames": len(stamps),
        "seconds": round(arguments.bag_seconds, 2),
        "mean_viou": mean([s.viou for s in scores]),
        "queries": [s.as_json() for s in scores],
        "tracks": len(recording.tracks),
        "events": len(recording.events),
        "answers": len(playback.answer_latencies),
        "latency": {
            "stamp_to_track": latency_figures(playback.latencies),
            "stamp_to_answer": latency_figures(playback.answer_latencies),
        },
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    console.print(summary_tables(queries, recording, scores, stamps[0]))
    for name, figures in summary["latency"].items():
        if figures["count"]:
            console.print(
                f"latency {name.replace('_', ' ')}: median {figures['median_ms']:.0f} ms, "
                f"p95 {figures['p95_ms']:.0f} ms ({figures['count']} messages)"
            )
    console.print(f"mean vIoU over {len(scores)} queries: {summary['mean_viou']:.3f}")
    names = "overlay.mp4, contact_sheet.png, tracks.jsonl, events.jsonl, summary.json"
    console.print(f"in {out}: {names}", soft_wrap=True)
    if not recording.tracks:
        raise DemoError("no track; expected at least one", f"see the logs in {out / 'logs'}")
    return 0


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    try:
        return run(parser().parse_args(), Console())
    except DemoError as error:
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
