"""Print what the node costs while nothing happens: CPU and resident memory in each state.

scripts/with_ros python -m benchmarks.idle_node [--model DIR] [--seconds 10] [--cycles 3]
    [--max-cpu 2.0] [--out FILE]

The node runs in a process of its own, with one camera that never sends an image. Its CPU time is
read from /proc, in percent of one core. Memory is that of the process, after each of several
cycles of configuring, activating and cleaning up. The exit code is 1 if a state needs more CPU than
``--max-cpu``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rich.table import Table

from benchmarks.process_costs import cpu_seconds, memory_mib
from llava_st_ros.atomic_files import write_text
from llava_st_ros.cli.outputs import print_tables

SETTLE = 1.0  # seconds after a transition, before its costs are measured
TIMEOUT = 30.0  # seconds for a transition
STEPS = (
    ("inactive", Transition.TRANSITION_CONFIGURE),
    ("active", Transition.TRANSITION_ACTIVATE),
    ("inactive again", Transition.TRANSITION_DEACTIVATE),
    ("unconfigured", Transition.TRANSITION_CLEANUP),
)


class Client(Node):
    """Changes the state of the node."""

    def __init__(self) -> None:
        super().__init__("idle_node_benchmark")
        self._service = self.create_client(ChangeState, "grounding/change_state")
        if not self._service.wait_for_service(TIMEOUT):
            raise SystemExit("the node did not start")

    def change(self, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        future = self._service.call_async(request)
        rclpy.spin_until_future_complete(self, future, timeout_sec=TIMEOUT)
        response = future.result()
        if response is None or not response.success:
            raise SystemExit(f"the node rejected transition {transition}")


def measure(process_id: int, state: str, cycle: int, seconds: float) -> dict[str, object]:
    """Return the costs of the node in its present state."""
    time.sleep(SETTLE)
    start, before = time.monotonic(), cpu_seconds(process_id)
    time.sleep(seconds)
    used = cpu_seconds(process_id) - before
    return {
        "cycle": cycle,
        "state": state,
        "cpu_percent": round(100 * used / (time.monotonic() - start), 2),
        "resident_mib": round(sum(memory_mib(process_id)), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--max-cpu", type=float, default=2.0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()

    command = [sys.executable, "-m", "llava_st_ros.cli", "node", "--ros-args"]
    command += ["-p", "autostart:=false", "-p", "queries:=['the red cup']"]
    if options.model is not None:
        command += ["-p", f"model:={options.model}"]
    rows = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            rclpy.init()
            client = Client()
            rows.append(measure(process.pid, "unconfigured", 0, options.seconds))
            for cycle in range(1, options.cycles + 1):
                for state, transition in STEPS:
                    client.change(transition)
                    rows.append(measure(process.pid, state, cycle, options.seconds))
        finally:
            process.terminate()
            rclpy.try_shutdown()

    table = Table("cycle", "state", "CPU (% of a core)", "resident (MiB)")
    for row in rows:
        table.add_row(*map(str, row.values()))
    print_tables(table)
    if options.out is not None:
        write_text(options.out, json.dumps(rows, indent=1) + "\n")
    return int(any(float(str(row["cpu_percent"])) > options.max_cpu for row in rows))


if __name__ == "__main__":
    sys.exit(main())
