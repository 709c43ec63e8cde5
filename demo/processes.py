"""The demo's child processes: started, watched, and ended whatever happens."""

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

_FIRST_PORT, _PORTS_A_DOMAIN = 7400, 250  # of DDS (RTPS 2.2, section 9.6.1)
_PATIENCE = {signal.SIGINT: 8.0, signal.SIGTERM: 4.0}  # s, before the next stronger signal


class DemoError(LlavaStError):
    """The demo cannot go on."""


class Children:
    """Processes that talk in JSON lines on stdout; their stderr goes to ``<name>.log``.

    A context manager: on leaving it, every process (and what it started) is ended, politely first.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()

    def __enter__(self) -> Children:
        return self

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start ``python -m module arguments`` in a process group of its own."""
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
        """Raise DemoError where a process has ended with an error."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                self._died(name, f"ended with exit code {process.returncode}")

    def running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def require_running(self, name: str) -> None:
        """Raise DemoError where a process that must still run has ended."""
        if not self.running(name):
            self._died(name, f"has ended (exit code {self._processes[name].returncode})")

    def next_message(self, timeout: float) -> dict[str, Any] | None:
        """The next line of any process, None where none comes within ``timeout`` seconds."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def _died(self, name: str, what: str) -> None:
        path = self._logs / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        raise DemoError(f"the {name} {what}: {last}; expected it to run", f"see {path}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # a library's own print is no message
                message = json.loads(line)
                if isinstance(message, dict):
                    self._messages.put(message)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signal_number, patience in _PATIENCE.items():
            self._signal(signal_number)
            for process in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


def free_domain() -> int:
    """A ROS domain id whose discovery ports nobody on this machine has open.

    Ids up to 101 keep clear of the ports that Linux gives out by itself.
    """
    ids: Sequence[int] = random.sample(range(1, 101), 100)
    for domain in ids:
        base = _FIRST_PORT + _PORTS_A_DOMAIN * domain
        if all(_free(base + offset) for offset in (0, 10, 11)):
            return domain
    raise DemoError(
        "every ROS domain from 1 to 100 in use; expected a free one", "end other ROS nodes"
    )


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
