"""Child processes of the demo, which send JSON lines on stdout. They never outlive the demo."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_st_ros.errors import LlavaStError
from llava_st_ros.files.json_files import parse_json

_FIRST_PORT, _PORTS_PER_DOMAIN = 7400, 250  # RTPS 2.2, section 9.6.1
_GRACE_SECONDS = {signal.SIGINT: 8.0, signal.SIGTERM: 4.0}  # before the next stronger signal


class DemoError(LlavaStError):
    """The demo cannot continue."""


def send(**message: object) -> None:
    """Send a message from a child process to the demo."""
    print(json.dumps(message), flush=True)


class ChildProcesses:
    """Processes that send JSON lines on stdout; their stderr is written to ``<name>.log``.

    On leaving the context every process, with the processes that it started, is terminated: first
    by SIGINT, then by SIGTERM and SIGKILL.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()

    def __enter__(self) -> ChildProcesses:
        return self

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start ``python -m module arguments`` in its own process group."""
        with (self._logs / f"{name}.log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                text=True,
                start_new_session=True,
            )
        self._processes[name] = process
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def check(self) -> None:
        """Raise DemoError if a process exited with an error."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                self._fail(name, process)

    def require_running(self, name: str) -> None:
        """Raise DemoError if a process has exited."""
        process = self._processes[name]
        if process.poll() is not None:
            self._fail(name, process)

    def next_message(self, timeout: float) -> dict[str, Any] | None:
        """Return the next message of any process, or None after ``timeout`` seconds."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def _fail(self, name: str, process: subprocess.Popen[str]) -> None:
        path = self._logs / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        raise DemoError(f"the {name} exited with code {process.returncode}{last}", f"see {path}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(DemoError):  # output of a library, not a message
                self._messages.put(parse_json(line, "a message", DemoError, nan=True))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signal_number, seconds in _GRACE_SECONDS.items():
            self._signal(signal_number)
            for process in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


def free_domain() -> int:
    """Return a ROS domain id whose discovery ports are free on this machine.

    Ids up to 101 stay below Linux's ephemeral ports.
    """
    ids: Sequence[int] = random.sample(range(1, 101), 100)
    for domain in ids:
        base = _FIRST_PORT + _PORTS_PER_DOMAIN * domain
        if all(_is_free(base + offset) for offset in (0, 10, 11)):
            return domain
    raise DemoError("every ROS domain from 1 to 100 is in use", "stop other ROS nodes")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
