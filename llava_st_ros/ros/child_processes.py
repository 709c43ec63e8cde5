"""Child processes that send JSON lines on stdout, and never outlive the process that waits."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_st_ros.errors import LlavaStError
from llava_st_ros.files.json_files import parse_json

_GRACE_SECONDS = {signal.SIGINT: 8.0, signal.SIGTERM: 4.0}  # before the next stronger signal


class ProcessError(LlavaStError):
    """A child process ended or does not answer."""


def send(**message: object) -> None:
    """Send a message from a child process to its parent."""
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
        """Raise ProcessError if a process exited with an error."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                self._fail(name, process)

    def require_running(self, name: str) -> None:
        """Raise ProcessError if a process has exited."""
        process = self._processes[name]
        if process.poll() is not None:
            self._fail(name, process)

    def interrupt(self, name: str) -> int:
        """End a process as Ctrl-C does, wait for it, and return its exit code."""
        process = self._processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(_GRACE_SECONDS[signal.SIGINT])
        except subprocess.TimeoutExpired:
            return 1

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
        raise ProcessError(f"the {name} exited with code {process.returncode}{last}", f"see {path}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ProcessError):  # output of a library, not a message
                self._messages.put(parse_json(line, "a message", ProcessError, nan=True))

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
