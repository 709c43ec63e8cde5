"""How long an answer takes in a streaming replay: as measured, or by a model of other hardware."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Protocol

from llava_st_ros.errors import ConfigError, shown

MAX_SECONDS = 3600.0  # of an answer
# Draws are bounded by the quantiles 0.1 % and 99.9 %: one in a thousand is cut off on each side.
LOWEST, HIGHEST = 0.001, 0.999
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)=(\S+)")
_EXPECTED = "expected seconds (0.5) or quantiles (p50=0.8,p99=1.5)"


class LatencyModel(Protocol):
    """Decides how long an answer takes."""

    def seconds(self, query_id: str, camera: str, number: int, measured: float) -> float:
        """Return the time that an answer takes.

        Args:
            query_id: The query.
            camera: The camera.
            number: How many answers the query has had on the camera before.
            measured: Seconds that the answer took in this process.
        """
        ...


@dataclass(frozen=True)
class MeasuredLatency:
    """Each answer takes the time that it took in this process: no two runs are the same."""

    def seconds(self, query_id: str, camera: str, number: int, measured: float) -> float:
        return measured

    def __str__(self) -> str:
        return "measured"


@dataclass(frozen=True)
class FixedLatency:
    """Each answer takes the same time, in seconds."""

    value: float

    def seconds(self, query_id: str, camera: str, number: int, measured: float) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True)
class QuantileLatency:
    """Latencies with given quantiles, drawn independently for each answer.

    With two quantiles the distribution is lognormal: ``log t = m + s z`` with a standard normal z.
    With more, log t is linear in z between two neighboring quantiles, and beyond the outermost ones
    as between the last two. z is bounded by LOWEST and HIGHEST.

    The draw depends on the seed, the query, the camera and the number of the answer only: the n-th
    answer takes equally long for every checkpoint, in every process.

    Attributes:
        quantiles: (probability, seconds), two or more, both increasing.
        seed: Another seed gives other draws.

    >>> model = QuantileLatency(((0.5, 0.8), (0.99, 1.5)))
    >>> round(model.at(0.5), 3), round(model.at(0.99), 3), round(model.at(1.0), 3)
    (0.8, 1.5, 1.844)
    """

    quantiles: Sequence[tuple[float, float]]
    seed: int = 0

    def seconds(self, query_id: str, camera: str, number: int, measured: float) -> float:
        key = repr((self.seed, query_id, camera, number)).encode()
        draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return self.at((draw + 0.5) / 2**64)

    def at(self, probability: float) -> float:
        """Return the seconds that an answer exceeds with the probability 1 - ``probability``."""
        normal = NormalDist()
        z = normal.inv_cdf(min(max(probability, LOWEST), HIGHEST))
        points = [(normal.inv_cdf(p), math.log(seconds)) for p, seconds in self.quantiles]
        segments = list(pairwise(points))
        (x1, y1), (x2, y2) = next((s for s in segments if z <= s[1][0]), segments[-1])
        return min(MAX_SECONDS, math.exp(y1 + (y2 - y1) * (z - x1) / (x2 - x1)))

    def __str__(self) -> str:
        return ",".join(f"p{p * 100:g}={seconds:g}" for p, seconds in self.quantiles)


def parse_latency(text: str, seed: int = 0) -> LatencyModel:
    """Read the latency model of a command line.

    Args:
        text: "measured", seconds ("0.5"), or quantiles in seconds ("p50=0.8,p99=1.5").
        seed: Of the draws.

    Raises:
        ConfigError: It is none of these, or out of range.

    >>> str(parse_latency("p99=1.5, p50=0.8"))
    'p50=0.8,p99=1.5'
    """
    if text.strip() == "measured":
        return MeasuredLatency()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and "=" not in text:
        return FixedLatency(_seconds(text, parts[0], lowest=0.0))
    quantiles: dict[float, float] = {}
    for part in parts:
        match = _QUANTILE.fullmatch(part)
        probability = float(match[1]) / 100 if match else 0.0
        if match is None or not LOWEST <= probability <= HIGHEST:
            raise ConfigError(f"--latency contains {shown(part)}; {_EXPECTED}, p0.1 to p99.9")
        if probability in quantiles:
            raise ConfigError(f"--latency {shown(text)} names {part.split('=')[0]} twice")
        quantiles[probability] = _seconds(text, match[2], lowest=1e-6)
    if len(quantiles) < 2:
        raise ConfigError(
            f"--latency {shown(text)} has one quantile; expected two or more",
            f"for a fixed time, use --latency {parts[0].split('=')[1]}",
        )
    ordered = sorted(quantiles.items())
    for (_, smaller), (p, larger) in pairwise(ordered):
        if larger < smaller:
            raise ConfigError(
                f"--latency {shown(text)}: p{p * 100:g} is smaller than the quantile before it"
            )
    return QuantileLatency(tuple(ordered), seed)


def _seconds(text: str, value: str, *, lowest: float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        raise ConfigError(f"--latency is {shown(text)}; {_EXPECTED}") from None
    if not lowest <= seconds <= MAX_SECONDS:  # false for NaN, too
        raise ConfigError(
            f"--latency contains {shown(value)}; expected {lowest:g} to {MAX_SECONDS:g} seconds"
        )
    return seconds
