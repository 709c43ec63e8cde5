"""Print what the node does under load: raw cameras at camera rate, over DDS, in several processes.

scripts/with_ros python -m benchmarks.node [--cameras 4] [--rate 30] [--size 640x480]
    [--seconds 60] [--churn [RATE]] [--best-effort] [--large-segment] [--model DIR]
    [--out FILE.json]

A process publishes the demo's frames on all cameras, one follows what the node publishes (this
one), and the node has one standing query on each camera: objects that are followed, and so carried
to every image between two answers. Latencies are from the stamp, which is the time of publication,
to the arrival of the tracks; the start is that of the process, up to the state ACTIVE and to the
first tracks. CPU times, memory, threads and handles are read from /proc. With
--churn a query is added and removed each second, or so many times a second: run it for an hour to
see what grows. Its own memory (anonymous) is listed apart from that which it shares with the
cameras: the segments of Fast DDS are counted as far as they have been read.

By the node's diagnostics the latency of carried tracks is divided: up to the callback it is that of
the middleware and the executor, from there to the publication that of the node; of each, and of
the callbacks, the 99th percentile is that of each camera's last 1,000 values. --large-segment
gives the cameras config/fast_dds_large_images.xml. At the end actions are cancelled: in turn as
soon as they are accepted, and at their first token.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, TransitionEvent
from rclpy.action import ActionClient
from rclpy.node import Node
from rich.table import Table

from benchmarks.process_costs import Memory, cpu_seconds, handles, memory_mib
from demo.domains import free_domain
from llava_st_ros import action, msg, srv
from llava_st_ros.atomic_files import write_text
from llava_st_ros.cli.outputs import print_tables
from llava_st_ros.records import NANOSECONDS
from llava_st_ros.ros.child_processes import ChildProcesses
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.diagnostics import RECENT_DURATIONS

OBJECTS = ("the green ball", "the blue ball", "the red box")
START_TIMEOUT = 60.0  # seconds
ROOT = Path(__file__).resolve().parents[1]
BAG = ROOT / "demo" / "bag"
LARGE_SEGMENT = ROOT / "config" / "fast_dds_large_images.xml"
WARM_UP = 5.0  # seconds after the first tracks, before anything is measured
CANCELS = 20
MODEL, CARRIED = "answers", "carried"


@dataclass
class Follower:
    """What has arrived from the node, by camera."""

    node: Node
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    arrays: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    last_stamps: dict[str, int] = field(default_factory=dict)
    backwards: int = 0
    statuses: dict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    active_at: float | None = None  # of time.monotonic()

    def __post_init__(self) -> None:
        self.node.create_subscription(msg.GroundedTrackArray, "tracks", self._on_tracks, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.node.create_subscription(
            TransitionEvent, "grounding/transition_event", self._on_transition, 10
        )
        self._services = {
            kind: self.node.create_client(kind, f"grounding/{name}")
            for kind, name in ((srv.AddQuery, "add_query"), (srv.RemoveQuery, "remove_query"))
        }
        self._action = ActionClient(self.node, action.Ground, "grounding/ground")

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)

    def clear(self) -> None:
        """Forget what has arrived until now."""
        self.latencies.clear()
        self.arrays.clear()
        self.statuses.clear()
        self.backwards = 0

    def call(self, request: Any, kind: Any) -> bool:
        """Call a service of the node; return whether it succeeded."""
        future = self._services[kind].call_async(request)
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=10.0)
        response = future.result()
        return response is not None and response.success

    def cancel(self, camera: str, at_token: bool) -> float | None:
        """Cancel an action; return the seconds until it is CANCELED, None if it ended before.

        Args:
            camera: The camera that it is about.
            at_token: Cancel at its first token, not as soon as it is accepted.
        """
        tokens: list[Any] = []
        query = msg.Query(text="what happens", task="DVC")
        goal = action.Ground.Goal(query=query, camera=camera)
        sent = self._action.send_goal_async(goal, feedback_callback=tokens.append)
        rclpy.spin_until_future_complete(self.node, sent, timeout_sec=10.0)
        handle = sent.result()
        if handle is None or not handle.accepted:
            raise SystemExit("the node does not accept an action")
        result = handle.get_result_async()
        while at_token and not tokens and not result.done():
            rclpy.spin_once(self.node, timeout_sec=1.0)
        started = time.monotonic()
        handle.cancel_goal_async()
        rclpy.spin_until_future_complete(self.node, result, timeout_sec=10.0)
        if result.result() is None:
            raise SystemExit("an action does not end")
        is_canceled = result.result().status == GoalStatus.STATUS_CANCELED
        return time.monotonic() - started if is_canceled else None

    def _on_transition(self, event: TransitionEvent) -> None:
        if event.goal_state.id == State.PRIMARY_STATE_ACTIVE and self.active_at is None:
            self.active_at = time.monotonic()

    def _on_tracks(self, array: msg.GroundedTrackArray) -> None:
        now, stamp = time.time_ns(), stamp_from_msg(array.header.stamp)
        self.backwards += stamp < self.last_stamps.get(array.camera, 0)
        self.last_stamps[array.camera] = stamp
        boxes = [track.tube[-1] for track in array.tracks if track.tube]
        if not boxes:
            return
        self.arrays[array.camera] += 1
        is_carried = any(box.source == msg.GroundedBox.PROPAGATION for box in boxes)
        self.latencies[CARRIED if is_carried else MODEL].append((now - stamp) / NANOSECONDS)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            name = status.name.partition(": ")[2]
            self.statuses[name].append({value.key: value.value for value in status.values})


def parameters(cameras: int, model: Path | None) -> list[str]:
    """Return the node's arguments: one object is followed on each camera."""
    queries = [
        json.dumps(
            {
                "id": f"object{i}",
                "text": OBJECTS[i % len(OBJECTS)],
                "task": "REC",
                "cameras": [f"camera{i}"],
            }
        )
        for i in range(cameras)
    ]
    sources = [f"camera{i}=/camera{i}" for i in range(cameras)]
    values = {"cameras": json.dumps(sources), "queries": json.dumps(queries)}
    if model is not None:
        values["model"] = str(model)
    return [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]


def durations(statuses: Sequence[dict[str, str]], key: str, value: str) -> list[float]:
    """Return the "mean", "max" or "p99" of the durations in each report, in ms."""
    texts = [status[key] for status in statuses]
    return [1000 * float(t.split(f"{value} ")[1].split(" s")[0]) for t in texts if t != "none"]


def growth(statuses: Sequence[dict[str, str]], key: str) -> int:
    """Return by how much a count of the diagnostics has grown."""
    return int(statuses[-1][key]) - int(statuses[0][key]) if statuses else 0


def measure(follower: Follower, process_id: int, options: argparse.Namespace) -> dict[str, Any]:
    """Follow the node for some time; return the figures."""
    follower.clear()
    start, cpu = time.monotonic(), cpu_seconds(process_id)
    memory, counts = [memory_mib(process_id)], [handles(process_id)]
    failures = queries = 0
    while time.monotonic() - start < options.seconds:
        second = start + len(memory)
        while options.churn and time.monotonic() < second:
            query = msg.Query(id="churn", text=OBJECTS[queries % len(OBJECTS)])
            failures += not follower.call(srv.AddQuery.Request(query=query), srv.AddQuery)
            follower.spin(0.5 / options.churn)
            removed = srv.RemoveQuery.Request(id="churn")
            failures += not follower.call(removed, srv.RemoveQuery)
            queries += 1
            follower.spin(start + queries / options.churn - time.monotonic())
        follower.spin(second - time.monotonic())
        memory.append(memory_mib(process_id))
        counts.append(handles(process_id))
    elapsed = time.monotonic() - start
    cpu_percent = 100 * (cpu_seconds(process_id) - cpu) / elapsed
    cameras = [f"camera {name}" for name in sorted(follower.arrays)]
    reports = [follower.statuses[name] for name in cameras]
    carried = [follower.statuses[f"tracks {name}"] for name in sorted(follower.arrays)]
    rates = [np.mean([float(s["rate (Hz)"]) for s in report]) for report in reports if report]
    settled = min(60, len(memory) - 1)
    threads, files = zip(*counts)
    figures: dict[str, Any] = {
        "cameras": options.cameras,
        "rate_hz": options.rate,
        "size": options.size,
        "reliability": "best effort" if options.best_effort else "reliable",
        "large_segment": options.large_segment,
        "seconds": round(elapsed, 1),
        "images_hz_per_camera": [round(float(rate), 1) for rate in rates],
        "images_lost": sum(growth(report, "lost by the middleware") for report in reports),
        "track_arrays_hz_per_camera": [round(n / elapsed, 1) for n in follower.arrays.values()],
        "stamps_that_go_back": follower.backwards,
        "cpu_percent": round(cpu_percent, 1),
        "cpu_percent_per_image_hz": round(cpu_percent / sum(rates), 2) if rates else None,
        "threads": [threads[0], threads[-1]],
        "files": [files[0], files[-1]],
    }
    for kind in Memory._fields:
        values = [round(getattr(memory[at], kind), 1) for at in (0, settled, -1)]
        figures[f"{kind}_mib"] = values
    for figure, statuses, key in (
        ("stamp_to_callback_ms", reports, "delay from stamp to callback"),
        ("callback_ms", reports, "duration of callbacks"),
        ("callback_to_carried_ms", carried, "delay from callback to publication"),
    ):
        means = [value for report in statuses for value in durations(report, key, "mean")]
        longest = [value for report in statuses for value in durations(report, key, "max")]
        figures[f"{figure}_mean_of_a_second_p50"] = percentile(means, 50)
        figures[f"{figure}_longest_of_a_second_p50"] = percentile(longest, 50)
        figures[f"{figure}_longest_of_a_second_p99"] = percentile(longest, 99)
        last = [durations(report, key, "p99")[-1:] for report in statuses]
        figures[f"{figure}_last_{RECENT_DURATIONS}_p99"] = [
            round(value, 2) for values in last for value in values
        ]
    for kind, values in sorted(follower.latencies.items()):
        milliseconds = [1000 * value for value in values]
        for q in (50, 99):
            figures[f"stamp_to_tracks_ms_{kind}_p{q}"] = percentile(milliseconds, q)
    if options.churn:
        figures["queries"] = queries
        figures["failed_service_calls"] = failures
    return figures


def measure_cancel(follower: Follower, cameras: int) -> dict[str, Any]:
    """Cancel actions in turn; return the figures."""
    times = [follower.cancel(f"camera{i % cameras}", i % 2 == 1) for i in range(CANCELS)]
    milliseconds = [1000 * seconds for seconds in times if seconds is not None]
    return {
        "cancel_ms_p50": percentile(milliseconds, 50),
        "cancel_ms_longest": percentile(milliseconds, 100),
        "cancelled": f"{len(milliseconds)} of {CANCELS}",
    }


def percentile(values: Sequence[float], q: float) -> float | None:
    return round(float(np.percentile(values, q)), 2) if len(values) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--rate", type=float, default=30.0, help="Hz of each camera")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--churn",
        type=float,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="RATE",
        help="add and remove queries, so many a second (default: one)",
    )
    parser.add_argument(
        "--best-effort", action="store_true", help="cameras publish best effort, not reliably"
    )
    parser.add_argument(
        "--large-segment", action="store_true", help=f"cameras have {LARGE_SEGMENT.name}"
    )
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()

    os.environ["ROS_DOMAIN_ID"] = str(free_domain())
    command = [sys.executable, "-m", "llava_st_ros.cli", "node", "--ros-args"]
    command += parameters(options.cameras, options.model)
    profile = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(LARGE_SEGMENT)}
    environment = profile if options.large_segment else {}
    with TemporaryDirectory() as logs, ChildProcesses(Path(logs), environment) as children:
        load = [str(BAG), "--cameras", str(options.cameras), "--rate", str(options.rate)]
        load += ["--size", options.size, *(["--best-effort"] if options.best_effort else [])]
        children.start("cameras", "benchmarks.camera_load", *load)
        rclpy.init()
        follower = Follower(Node("node_benchmark"))
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                while not follower.arrays:
                    children.check()
                    if process.poll() is not None or time.monotonic() > started + START_TIMEOUT:
                        raise SystemExit("the node publishes no tracks")
                    follower.spin(0.05)
                first_tracks = time.monotonic() - started
                follower.spin(WARM_UP)
                figures = measure(follower, process.pid, options)
                figures |= measure_cancel(follower, options.cameras)
                children.check()
            finally:
                process.terminate()
                rclpy.try_shutdown()
    active = follower.active_at
    figures["start_to_active_s"] = None if active is None else round(active - started, 1)
    figures["start_to_tracks_s"] = round(first_tracks, 1)
    table = Table("figure", "value", title="The node under load")
    for name, value in figures.items():
        table.add_row(name, str(value))
    print_tables(table)
    if options.out is not None:
        write_text(options.out, json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
