"""One family of errors, each a single line: what was found, what was expected, what to do."""

from __future__ import annotations


class LlavaStError(Exception):
    """Base of every error this package raises on purpose.

    The message is one line so that it reads whole in a ROS log and at a shell prompt. ``code`` is
    the exit code of a command that ends with it.
    """

    code = 2

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = (
            " ".join(part.split()) for part in (found, expected, remedy)
        )
        super().__init__(f"{self.found}; expected {self.expected}; {self.remedy}")

    def __reduce__(self) -> tuple[type[LlavaStError], tuple[str, str, str]]:
        """From one process to another whole: by its three parts, not by the message."""
        return type(self), (self.found, self.expected, self.remedy)


class ConfigError(LlavaStError):
    """A setting or a geometry that cannot work."""


class CheckpointError(LlavaStError):
    """A checkpoint folder that is not what its config says."""


class QueryError(LlavaStError):
    """A query that cannot be asked as it stands."""


class FrameError(LlavaStError):
    """A camera frame that cannot be read."""


class DataError(LlavaStError):
    """A bag, video, dataset or other input file that cannot be read."""


class BackendError(LlavaStError):
    """A runtime that is missing or was called against its contract."""


class EngineError(LlavaStError):
    """An engine directory that is not whole, or not for this machine or model."""
