"""What long commands write: checked before they start, and kept when they are ended early."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from llava_st_ros.atomic_files import require_writable_file, require_writable_folder
from llava_st_ros.errors import ConfigError, LlavaStError, reason_of


class InterruptedRunError(LlavaStError):
    """The user ended a command early; the message says what was kept."""

    code = 130


def check_folders(*folders: Path | None) -> None:
    """Create output folders and check that files can be written in them; None is skipped.

    Raises:
        ConfigError: A folder cannot be created or written.
    """
    for folder in folders:
        if folder is not None:
            try:
                require_writable_folder(folder)
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                raise ConfigError(f"cannot write to folder {folder}: {reason_of(error)}") from error


def check_files(*paths: Path | None) -> None:
    """Check that output files can be written; None is skipped. Raises ConfigError."""
    for path in paths:
        if path is not None:
            try:
                require_writable_file(path)
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                raise ConfigError(f"cannot write {path}: {reason_of(error)}") from error


def check_is_no_input(output: Path | None, *inputs: Path | None) -> None:
    """Check that writing an output does not replace what is read; None is skipped.

    Raises:
        ConfigError: The output is one of the inputs, by whatever path.
    """
    for path in inputs:
        with contextlib.suppress(OSError, ValueError):  # one of the two does not exist
            if output is not None and path is not None and output.samefile(path):
                raise ConfigError(
                    f"{output} is to be written, but it is the input {path}", "write elsewhere"
                )


def print_tables(*tables: Any) -> None:
    """Print tables of rich to stdout. Raises BrokenPipeError, where rich would exit with code 1."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise

    console = PipeConsole()
    for table in tables:
        console.print(table)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, by KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
