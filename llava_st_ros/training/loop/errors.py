"""Why a run ended before its last step."""

from __future__ import annotations

from llava_st_ros.errors import LlavaStError


class TrainingError(LlavaStError):
    """Training that cannot continue, for example after a NaN or infinite loss."""


class TrainingInterrupted(TrainingError):  # noqa: N818 (not a failure)
    """A run that stopped with its state saved; the same command resumes it.

    Attributes:
        code: The exit code: 128 + the number of the signal that stopped it, or
            ``time_budget.OUT_OF_TIME``.
    """

    def __init__(self, problem: str, remedy: str, code: int) -> None:
        super().__init__(problem, remedy)
        self.code = code
