"""The process's output, if nobody reads it."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import sys
from contextlib import suppress
from typing import Any

PIPE_BYTES = 1 << 20  # the most that Linux grants every user by default


class LossyFile(io.FileIO):
    """A file whose ``write`` drops what a full pipe does not accept."""

    def write(self, data: Any) -> int:
        written = super().write(data)
        return len(data) if written is None else written


def never_wait_for_readers() -> None:
    """Drop output to a full pipe instead of waiting until somebody reads it.

    rclpy writes log lines while it holds Python's global lock, so one full pipe stops the complete
    process, signal handlers included. Lines that are dropped here are still in /rosout and in the
    log file. Terminals, files and sockets are left alone.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        with suppress(OSError):  # closed, or no /proc
            if not stat.S_ISFIFO(os.fstat(number).st_mode):
                continue
            # A new description of the same pipe: its flags are not shared with other processes.
            pipe = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            os.dup2(pipe, number)
            os.close(pipe)
            raw: Any = LossyFile(number, "w", closefd=False)
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True))
