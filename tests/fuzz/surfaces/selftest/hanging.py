"""One input in a hundred never ends."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fuzz.surface import Case, Surface


class Hanging(Surface):
    def make(self, rng: np.random.Generator) -> Case:
        return Case(int(rng.integers(100)), "")

    def check(self, data: Any) -> None:
        if data == 0:
            time.sleep(3600)


SURFACE = Hanging
