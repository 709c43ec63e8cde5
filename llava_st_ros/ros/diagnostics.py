"""The contents of /diagnostics: image rates, dropped frames, latency and the model."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock

from llava_st_ros.records import NANOSECONDS
from llava_st_ros.ros.arrival_rate import ArrivalRate
from llava_st_ros.ros.intake import IntakeCounts
from llava_st_ros.streaming.frame_buffer import StreamCounts, StreamReport

ARRIVAL_SHARE = 0.9  # a smaller share of the images is a warning
RECENT_DURATIONS = 1000  # of which there is a 99th percentile
OTHER_CLOCK = 3600.0  # seconds of latency beyond which stamps are of another clock


def seconds_since(stamp: int, clock: Clock) -> float | None:
    """Return the seconds since a stamp (ns); None while there is no simulated time.

    If they are OTHER_CLOCK or more, the stamp is of another clock.
    """
    now = clock.now().nanoseconds
    return (now - stamp) / NANOSECONDS if now else None


@dataclass(frozen=True)
class DurationSummary:
    """Number, mean and maximum of measured durations, in seconds.

    Attributes:
        count: Number of durations.
        mean: Their mean.
        maximum: The longest.
        recent: Number of the latest durations that ``p99`` is about, those of before included: a
            second has too few for it.
        p99: Their 99th percentile.
    """

    count: int = 0
    mean: float = 0.0
    maximum: float = 0.0
    recent: int = 0
    p99: float = 0.0

    def __str__(self) -> str:
        if not self.count:
            return "none"
        return (
            f"mean {self.mean:.4f} s, max {self.maximum:.4f} s over {self.count}; "
            f"p99 {self.p99:.4f} s of the last {self.recent}"
        )


class DurationMeter:
    """Summarizes durations; ``add`` and ``drain`` may be called from different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._summary = DurationSummary()
        self._recent: deque[float] = deque(maxlen=RECENT_DURATIONS)

    def add(self, seconds: float) -> None:
        with self._lock:
            old, count = self._summary, self._summary.count + 1
            mean = old.mean + (seconds - old.mean) / count
            self._summary = DurationSummary(count, mean, max(old.maximum, seconds))
            self._recent.append(seconds)

    def drain(self) -> DurationSummary:
        """Return the summary since the last call, and start over."""
        with self._lock:
            summary, self._summary = self._summary, DurationSummary()
            recent = list(self._recent) if summary.count else []
        if not recent:
            return summary
        return replace(summary, recent=len(recent), p99=float(np.percentile(recent, 99)))


class RecentMaximum:
    """The largest of the values of the last seconds; for use by two threads.

    Args:
        seconds: How long a value counts.
        clock: Returns the current time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._values: deque[tuple[float, float]] = deque()  # (time, value), values decreasing

    def add(self, value: float) -> None:
        with self._lock:
            while self._values and self._values[-1][1] <= value:
                self._values.pop()
            self._values.append((self._clock(), value))

    @property
    def value(self) -> float:
        """The maximum; 0 if there is none."""
        with self._lock:
            while self._values and self._clock() - self._values[0][0] > self._seconds:
                self._values.popleft()
            return self._values[0][1] if self._values else 0.0


@dataclass(frozen=True)
class Reason:
    """One reason why a status is not OK.

    Attributes:
        level: DiagnosticStatus.WARN or ERROR.
        text: What is wrong, in a few words.
    """

    level: bytes
    text: str


def combine(reasons: Iterable[Reason], ok: str) -> tuple[bytes, str]:
    """Return the level and the message of a status: the worst level and every reason, worst first.

    Args:
        reasons: Why the status is not OK.
        ok: The message if there is no reason.
    """
    ordered = sorted(reasons, key=lambda reason: reason.level, reverse=True)
    if not ordered:
        return DiagnosticStatus.OK, ok
    return ordered[0].level, "; ".join(reason.text for reason in ordered)


@dataclass(frozen=True)
class CameraHealth:
    """The state of one camera.

    Attributes:
        name: The camera.
        topic: Its image topic.
        publishers: Number of publishers of the topic.
        reliability: Of the subscription.
        silence: Seconds since the last message.
        counts: Message counts now.
        previous: Message counts ``interval`` seconds ago.
        interval: Seconds.
        last_problem: Reason why the last bad message was dropped; empty if there was none.
        arrivals: How many of the images arrive, judged by their stamps; None if unknown.
        lost: Number of images that the middleware reports as lost.
        stream: What has happened on the stream until now.
        previous_stream: The same ``interval`` seconds ago.
        callbacks: Of the subscription's callbacks, in which images are decoded, in this time.
        delays: From the stamps of images to their callbacks, in this time.
        is_rectified: Whether the node rectifies the images.
    """

    name: str
    topic: str
    publishers: int
    reliability: str
    silence: float
    counts: IntakeCounts
    previous: IntakeCounts
    interval: float
    last_problem: str = ""
    arrivals: ArrivalRate | None = None
    lost: int = 0
    stream: StreamReport = field(default_factory=StreamReport)
    previous_stream: StreamReport = field(default_factory=StreamReport)
    callbacks: DurationSummary = DurationSummary()
    delays: DurationSummary = DurationSummary()
    is_rectified: bool = False

    @property
    def rate(self) -> float:
        """Messages per second."""
        return (self.counts.received - self.previous.received) / max(self.interval, 1e-9)

    @property
    def new_drops(self) -> int:
        return self.counts.dropped - self.previous.dropped


def camera_status(node: str, health: CameraHealth, silence_limit: float) -> DiagnosticStatus:
    """Return a camera's status: WARN if images are missing, bad, wrongly stamped or lost, else OK.

    Args:
        node: Fully qualified name of the node.
        health: The camera's state.
        silence_limit: Seconds without a message after which the camera counts as silent.
    """
    reasons: list[Reason] = []
    if health.silence > silence_limit:
        count = f"{health.publishers} publisher{'' if health.publishers == 1 else 's'}"
        text = f"waiting for images on {health.topic} ({count})"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    if health.new_drops:
        text = f"{health.new_drops} bad images: {health.last_problem}"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    lost = health.arrivals
    if health.silence <= silence_limit and lost is not None and lost.share < ARRIVAL_SHARE:
        text = f"{lost.arrived:.1f} of {lost.stamped:.1f} Hz arrive"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    reasons.extend(stamp_reasons(health.stream, health.previous_stream))
    summary = f"{health.rate:.1f} Hz{', rectified by the node' if health.is_rectified else ''}"
    level, message = combine(reasons, summary)
    counts, stream = health.counts, health.stream.counts
    return make_status(
        f"{node}: camera {health.name}",
        level,
        message,
        {
            "topic": health.topic,
            "publishers": health.publishers,
            "reliability": health.reliability,
            "rate (Hz)": f"{health.rate:.2f}",
            "rate of the stamps (Hz)": (
                f"{health.arrivals.stamped:.2f}" if health.arrivals else "unknown"
            ),
            "received": counts.received,
            "lost by the middleware": health.lost,
            "skipped by max_frame_rate": counts.skipped,
            "delay from stamp to callback": health.delays,
            "duration of callbacks": health.callbacks,
            "dropped, unreadable": counts.unreadable,
            "dropped, not rectified": counts.unrectified,
            "dropped, wrong size": counts.resized,
            "dropped, no stamp": counts.unstamped,
            "dropped, invalid stamp": counts.misstamped,
            "dropped, implausible stamp": stream.implausible,
            "dropped, repeated stamp": stream.duplicates,
            "dropped, too late": stream.discarded - stream.evicted,
            "dropped, no room": stream.evicted,
            "history": f"{health.stream.covered / NANOSECONDS:.1f} s of the "
            f"{health.stream.required / NANOSECONDS:.1f} s that video queries wait for",
            "clock jumps": stream.resets,
            "last clock jump": health.stream.jumps[-1] if health.stream.jumps else "none",
            "time since last image (s)": f"{health.silence:.1f}",
            "last problem": health.last_problem or "none",
        },
    )


def stamp_reasons(stream: StreamReport, previous: StreamReport) -> list[Reason]:
    """Return what is wrong with a camera's frames in the buffer since an earlier report."""
    counts, before = stream.counts, previous.counts
    if counts.received < before.received:  # the node was activated again
        before = StreamCounts()
    reasons = []
    jumps = counts.resets - before.resets
    if jumps > 0:
        text = f"the clock of the stamps jumped {stream.jumps[-1]}; a new stream has started"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    implausible = counts.implausible - before.implausible
    if implausible > 0:
        text = f"{implausible} images set aside for an implausible stamp: {stream.implausible}"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    evicted = counts.evicted - before.evicted
    if evicted > 0:
        text = f"{evicted} images of the window had no room; raise buffer_megabytes"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    duplicates = counts.duplicates - before.duplicates
    if duplicates > (counts.received - before.received) / 2:
        text = f"{duplicates} images repeat an earlier stamp"
        reasons.append(Reason(DiagnosticStatus.WARN, text))
    return reasons


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
