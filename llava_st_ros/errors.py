"""The package's errors. A message is one line: the problem and, if not obvious, the remedy."""

from __future__ import annotations


class LlavaStError(Exception):
    """Base class of the errors of this package.

    The message is a single line, so that it is readable in a ROS log and on a terminal.

    Args:
        problem: What is wrong with the user's value, and what was expected.
        remedy: What to do about it; empty if that is obvious.

    Attributes:
        code: Exit code of a command that fails with this error.
    """

    code = 2

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = (" ".join(part.split()) for part in (problem, remedy))
        super().__init__("; ".join(part for part in (self.problem, self.remedy) if part))

    def __reduce__(self) -> tuple[type[LlavaStError], tuple[str, str]]:
        """Pickle the two parts, so that an error is unchanged in another process."""
        return type(self), (self.problem, self.remedy)


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
