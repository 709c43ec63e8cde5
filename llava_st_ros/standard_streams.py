"""stdin, stdout and stderr of a process that was started without some of them."""

from __future__ import annotations

import os
import sys


def open_missing_streams() -> None:
    """Open streams that are closed (``>&-`` in a shell) on /dev/null. Python has None for them.

    Otherwise the next file or socket that is opened would have a stream's number, and whatever a
    library writes to stderr would be written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # it stays open; each gets the lowest free number
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - open until the exit
            setattr(sys, name, stream)
