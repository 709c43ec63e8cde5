"""The contents of /diagnostics: image rates, dropped frames, latency and the model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from llava_st_ros.ros.intake import IntakeCounts


@dataclass(frozen=True)
class DurationSummary:
    """Number, mean and maximum of measured durations, in seconds."""

    count: int = 0
    mean: float = 0.0
    maximum: float = 0.0

    def __str__(self) -> str:
        if not self.count:
            return "none"
        return f"mean {self.mean:.3f} s, max {self.maximum:.3f} s over {self.count}"


class DurationMeter:
    """Collects durations; ``add`` and ``drain`` may be called from different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: list[float] = []

    def add(self, seconds: float) -> None:
        with self._lock:
            self._values.append(seconds)

    def drain(self) -> DurationSummary:
        """Return the summary since the last call, and start over."""
        with self._lock:
            values, self._values = self._values, []
        if not values:
            return DurationSummary()
        return DurationSummary(len(values), sum(values) / len(values), max(values))


@dataclass(frozen=True)
class CameraHealth:
    """The state of one camera.

    Attributes:
        name: The camera.
        topic: Its image topic.
        publishers: Number of publishers of the topic.
        silence: Seconds since the last message.
        counts: Message counts now.
        previous: Message counts ``interval`` seconds ago.
        interval: Seconds.
        last_problem: Reason why the last bad message was dropped; empty if there was none.
    """

    name: str
    topic: str
    publishers: int
    silence: float
    counts: IntakeCounts
    previous: IntakeCounts
    interval: float
    last_problem: str = ""

    @property
    def rate(self) -> float:
        """Messages per second."""
        return (self.counts.received - self.previous.received) / max(self.interval, 1e-9)

    @property
    def new_drops(self) -> int:
        return self.counts.dropped - self.previous.dropped


def camera_status(node: str, health: CameraHealth, silence_limit: float) -> DiagnosticStatus:
    """Return a camera's status: WARN if it sends no images or bad ones, else OK.

    Args:
        node: Fully qualified name of the node.
        health: The camera's state.
        silence_limit: Seconds without a message after which the camera counts as silent.
    """
    level, message = DiagnosticStatus.OK, f"{health.rate:.1f} Hz"
    if health.silence > silence_limit:
        level = DiagnosticStatus.WARN
        message = f"waiting for images on {health.topic} ({health.publishers} publishers)"
    elif health.new_drops:
        level = DiagnosticStatus.WARN
        message = f"{health.new_drops} bad images: {health.last_problem}"
    counts = health.counts
    return make_status(
        f"{node}: camera {health.name}",
        level,
        message,
        {
            "topic": health.topic,
            "publishers": health.publishers,
            "rate (Hz)": f"{health.rate:.2f}",
            "received": counts.received,
            "skipped by max_frame_rate": counts.skipped,
            "dropped, unreadable": counts.unreadable,
            "dropped, wrong size": counts.resized,
            "dropped, no stamp": counts.unstamped,
            "time since last image (s)": f"{health.silence:.1f}",
            "last problem": health.last_problem or "none",
        },
    )


def make_status(
    name: str, level: bytes, message: str, values: Mapping[str, object], hardware_id: str = ""
) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def make_array(stamp: Time, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message
