"""The package's errors: one line each, what was wrong and, where it is not obvious, what to do."""

from __future__ import annotations


class LlavaStError(Exception):
    """Base of every error that this package raises on purpose.

    The message is a single line, so that it stays readable in a ROS log and at a shell prompt.

    Args:
        problem: What was wrong with the value, and what was expected.
        remedy: What to do about it; empty where the problem already says so.

    Attributes:
        code: Exit code of a command that ends with this error.
    """

    code = 2

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = (" ".join(part.split()) for part in (problem, remedy))
        super().__init__("; ".join(part for part in (self.problem, self.remedy) if part))

    def __reduce__(self) -> tuple[type[LlavaStError], tuple[str, str]]:
        """Pickle by the two parts, so that an error crosses processes unchanged."""
        return type(self), (self.problem, self.remedy)


class ConfigError(LlavaStError):
    """A setting or a geometry that cannot work."""


class CheckpointError(LlavaStError):
    """A checkpoint folder that does not match its config."""


class QueryError(LlavaStError):
    """A query that is not valid."""


class FrameError(LlavaStError):
    """A camera frame that cannot be read."""


class DataError(LlavaStError):
    """A bag, video, dataset or other input file that cannot be read."""


class BackendError(LlavaStError):
    """A runtime that is missing, or a call that breaks the backend protocol."""


class EngineError(LlavaStError):
    """An engine directory that is incomplete, or built for another machine or model."""
