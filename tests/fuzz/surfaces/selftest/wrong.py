"""Every other input is accepted wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzz.surface import Case, Surface, WrongAcceptanceError


class Wrong(Surface):
    def make(self, rng: np.random.Generator) -> Case:
        return Case(int(rng.integers(2)), "")

    def check(self, data: Any) -> None:
        if data == 0:
            raise WrongAcceptanceError("accepted")


SURFACE = Wrong
