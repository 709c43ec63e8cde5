"""What a fuzzed surface is: it makes inputs, tries them and knows which of them are valid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.errors import LlavaStError

MAX_MESSAGE = 1300  # characters of an error message


class FaultError(Exception):
    """The product did something wrong without an unexpected exception."""


class WrongAcceptanceError(FaultError):
    """Invalid input was accepted, or part of it was lost and not reported."""


class WrongRejectionError(FaultError):
    """Valid input was rejected."""


class BadMessageError(FaultError):
    """An error message is not one readable line."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        data: The input, in the surface's own form.
        description: How it differs from a valid one.
    """

    data: Any
    description: str


class Surface(ABC):
    """An interface of the product that receives data from outside.

    Args:
        folder: An empty folder for files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def make(self, rng: np.random.Generator) -> Case:
        """Return an input that depends on ``rng`` only."""

    @abstractmethod
    def check(self, data: Any) -> None:
        """Give an input to the product.

        Raises:
            LlavaStError: The product rejected it.
            FaultError: The product accepted it wrongly, or rejected it wrongly.
        """

    def accepts(self, case: Case) -> bool:
        """Try an input; whether the product accepted it. Raises what is a fault."""
        try:
            self.check(case.data)
        except LlavaStError as error:
            message = str(error)
            if not message.strip() or "\n" in message or len(message) > MAX_MESSAGE:
                raise BadMessageError(f"{len(message)} characters: {message[:300]!r}") from error
            return False
        return True
