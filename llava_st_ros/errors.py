"""The package's errors. A message is one line: the problem and, if not obvious, the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_PART_CHARACTERS = 600  # of a problem or a remedy


class LlavaStError(Exception):
    """Base class of the errors of this package.

    The message is a single line of printable characters, so that it is readable in a ROS log and on
    a terminal. Values quoted in it can be of any size, so the middle of a long problem is left out.

    Args:
        problem: What is wrong with the user's value, and what was expected.
        remedy: What to do about it; empty if that is obvious.

    Attributes:
        code: Exit code of a command that fails with this error.
    """

    code = 2

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = printable_line(problem), printable_line(remedy)
        super().__init__("; ".join(part for part in (self.problem, self.remedy) if part))

    def __reduce__(self) -> tuple[type[LlavaStError], tuple[str, str]]:
        """Pickle the two parts, so that an error is unchanged in another process."""
        return type(self), (self.problem, self.remedy)


def printable_line(text: str) -> str:
    """One line of printable characters, at most ``MAX_PART_CHARACTERS``."""
    line = " ".join(text.split())
    if not line.isprintable():
        # Also lone surrogates, which cannot be written to a terminal.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) > MAX_PART_CHARACTERS:
        kept = MAX_PART_CHARACTERS // 2 - 10
        left_out = len(line) - 2 * kept
        line = f"{line[:kept]} ... ({left_out} characters) ... {line[-kept:]}"
    return line


def one_line(error: BaseException) -> str:
    """Describe any exception in one bounded line of printable characters.

    The type's name precedes the message, except for this package's errors.
    """
    if isinstance(error, LlavaStError):
        return str(error)
    return printable_line(f"{type(error).__name__}: {error}").removesuffix(":")


class ConfigError(LlavaStError):
    """An invalid setting or geometry."""


class CheckpointError(LlavaStError):
    """A checkpoint that is incomplete, corrupt or inconsistent with its config."""


class QueryError(LlavaStError):
    """An invalid query."""


class FrameError(LlavaStError):
    """A missing or unreadable camera frame."""


class DataError(LlavaStError):
    """An unreadable bag, video, dataset or other input file."""


class BackendError(LlavaStError):
    """A missing runtime, or a call that violates the backend protocol."""


class EngineError(LlavaStError):
    """An engine directory that is incomplete or made for another machine or model."""


def reason_of(error: BaseException) -> str:
    """One line that says why a library or the system failed, for the end of a message.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "/a"))
    'No such file or directory'
    >>> reason_of(MemoryError())
    'MemoryError'
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.split("\n")
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)[:300]


def shown(value: Any) -> str:
    """A value in an error message: short, however large it is."""
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, (list, tuple)):
        is_nested = any(isinstance(item, (Mapping, list, tuple)) for item in value)
        if len(value) > 8 or is_nested:  # aliases of a YAML file can make the text endless
            return f"a list of {len(value)}"
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
