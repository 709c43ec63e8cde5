"""What goes to /diagnostics: rates, drops, latency from the stamp, the queue, the model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from llava_st_ros.ros.intake import IntakeCounts


@dataclass(frozen=True)
class Spread:
    """Seconds measured since the last look."""

    count: int = 0
    mean: float = 0.0
    largest: float = 0.0

    def __str__(self) -> str:
        if not self.count:
            return "none"
        return f"mean {self.mean:.3f} s, max {self.largest:.3f} s over {self.count}"


class Meter:
    """Collects seconds in one thread, gives their spread in another and begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: list[float] = []

    def add(self, seconds: float) -> None:
        with self._lock:
            self._values.append(seconds)

    def take(self) -> Spread:
        with self._lock:
            values, self._values = self._values, []
        return Spread(len(values), sum(values) / len(values), max(values)) if values else Spread()


@dataclass(frozen=True)
class CameraHealth:
    """One camera at one moment; ``before`` holds the counts of ``interval`` seconds ago."""

    name: str
    topic: str
    publishers: int
    silence: float
    counts: IntakeCounts
    before: IntakeCounts
    interval: float
    problem: str = ""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return (self.counts.received - self.before.received) / max(self.interval, 1e-9)

    @property
    def new_drops(self) -> int:
        return self.counts.dropped - self.before.dropped


def camera_status(node: str, health: CameraHealth, silence_limit: float) -> DiagnosticStatus:
    """WARN where a camera is silent for ``silence_limit`` seconds or sends bad images."""
    level, message = DiagnosticStatus.OK, f"{health.rate:.1f} Hz"
    if health.silence > silence_limit:
        level = DiagnosticStatus.WARN
        message = f"waiting for images on {health.topic} ({health.publishers} publishers)"
    elif health.new_drops:
        level = DiagnosticStatus.WARN
        message = f"{health.new_drops} bad images: {health.problem}"
    counts = health.counts
    return status(
        f"{node}: camera {health.name}",
        level,
        message,
        {
            "topic": health.topic,
            "publishers": health.publishers,
            "rate (Hz)": f"{health.rate:.2f}",
            "received": counts.received,
            "skipped for the frame rate": counts.skipped,
            "dropped, unreadable": counts.unreadable,
            "dropped, wrong size": counts.resized,
            "dropped, no stamp": counts.unstamped,
            "since the last image (s)": f"{health.silence:.1f}",
            "last problem": health.problem or "none",
        },
    )


def status(
    name: str, level: bytes, message: str, values: Mapping[str, object], hardware: str = ""
) -> DiagnosticStatus:
    """One line of /diagnostics."""
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def array(stamp: Time, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message
