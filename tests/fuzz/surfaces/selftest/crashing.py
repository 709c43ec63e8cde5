"""Every third input ends the process."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from fuzz.surface import Case, Surface


class Crashing(Surface):
    def make(self, rng: np.random.Generator) -> Case:
        return Case(int(rng.integers(3)), "")

    def check(self, data: Any) -> None:
        if data == 0:
            os.kill(os.getpid(), signal.SIGSEGV)


SURFACE = Crashing
