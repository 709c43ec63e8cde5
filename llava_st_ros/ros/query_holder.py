"""Holder process: finds a grounding node and lends it queries until it is interrupted.

    python -m llava_st_ros.ros.query_holder NODE FILE

FILE is read and removed when it appears: {"queries": [...]} with the fields of msg/Query. The
node's diagnostics and what was done are printed as JSON lines.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from llava_st_ros import msg, srv
from llava_st_ros.errors import BackendError, LlavaStError
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.ros.child_processes import send
from llava_st_ros.ros.node_finder import grounding_nodes

FIND_TIMEOUT_S, CALL_TIMEOUT_S, REMOVE_TIMEOUT_S = 6.0, 10.0, 2.0


class QueryHolder(Node):
    """Adds queries to a node, and removes them.

    Args:
        target: Fully qualified name of the node.
    """

    def __init__(self, target: str) -> None:
        super().__init__("query_holder")
        self._target = target
        self._added: list[str] = []
        self.status: dict[str, dict[str, str]] = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._add = self.create_client(srv.AddQuery, f"{target}/add_query")
        self._remove = self.create_client(srv.RemoveQuery, f"{target}/remove_query")

    def find(self) -> None:
        """Wait for the node and its diagnostics. Raises BackendError."""
        deadline = time.monotonic() + FIND_TIMEOUT_S
        while not (
            self._add.service_is_ready() and self._remove.service_is_ready() and self.status
        ):
            if time.monotonic() > deadline:
                if self._add.service_is_ready():
                    raise BackendError(f"{self._target} publishes no /diagnostics")
                raise BackendError(
                    f"no grounding node {self._target} after {FIND_TIMEOUT_S:.0f} s",
                    f"grounding nodes that exist: {', '.join(grounding_nodes(self)) or 'none'}",
                )
            rclpy.spin_once(self, timeout_sec=0.05)

    def add(self, entries: list[dict[str, Any]]) -> None:
        """Add queries. Raises BackendError if one is rejected."""
        for entry in entries:
            self._added.append(entry["id"])
            request = srv.AddQuery.Request(query=msg.Query(**entry))
            response = self._call(self._add, request, CALL_TIMEOUT_S)
            if not response.success:
                self._added.pop()
                raise BackendError(f"{self._target} rejects {entry['text']!r}: {response.message}")

    def remove(self) -> None:
        """Remove the added queries. Raises BackendError if the node does not answer."""
        while self._added:
            request = srv.RemoveQuery.Request(id=self._added.pop())
            self._call(self._remove, request, REMOVE_TIMEOUT_S)

    def _call(self, client: Any, request: Any, timeout: float) -> Any:
        future = client.call_async(request)
        deadline = time.monotonic() + timeout
        while not future.done():
            if time.monotonic() > deadline:
                raise BackendError(f"{client.srv_name} has not answered after {timeout:.0f} s")
            rclpy.spin_once(self, timeout_sec=0.05)
        return future.result()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._target}: "
        found = {
            status.name.removeprefix(prefix): {value.key: value.value for value in status.values}
            for status in message.status
            if status.name.startswith(prefix)
        }
        if found:
            self.status = found
            send(kind="diagnostics", status=found)


def main() -> int:
    target, commands = sys.argv[1], Path(sys.argv[2])
    parent = os.getppid()
    # SIGINT has to raise in Python, with a context that still works.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    holder = QueryHolder(target)
    code = 0
    try:
        holder.find()
        send(kind="found")
        while os.getppid() == parent:  # a parent that was killed sends no signal
            rclpy.spin_once(holder, timeout_sec=0.05)
            if commands.exists():
                entries = parse_json(
                    commands.read_text(encoding="utf-8"), "the queries", BackendError
                )
                commands.unlink()
                holder.add(entries["queries"])
                send(kind="added")
    except KeyboardInterrupt:
        pass
    except LlavaStError as error:
        send(kind="error", problem=error.problem, remedy=error.remedy)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        holder.remove()
    except LlavaStError as error:
        print(error, file=sys.stderr)
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
