"""Device names: the one place that reads "cpu", "cuda" and "cuda:1".

Whether the device exists is not checked here: each backend resolves a DeviceSpec itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from llava_st_ros.errors import BackendError


@dataclass(frozen=True)
class DeviceSpec:
    """A device name, parsed.

    Attributes:
        kind: "cpu" or "cuda".
        index: Which GPU; 0 for the CPU.
    """

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> DeviceSpec:
        """Read "cpu", "cuda" (the first GPU) or "cuda:N". Raises BackendError."""
        if name == "cpu":
            return cls("cpu")
        if match := re.fullmatch(r"cuda(?::([0-9]+))?", name):
            return cls("cuda", int(match[1] or 0))
        raise BackendError(f"device is {name!r}; expected cpu, cuda or cuda:N")

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"
