"""Publishes /diagnostics once per second and warns about silent cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from llava_st_ros.errors import one_line
from llava_st_ros.records import Tick
from llava_st_ros.ros import diagnostics, query_health
from llava_st_ros.ros.cameras import CameraSubscription
from llava_st_ros.ros.diagnostics import Reason
from llava_st_ros.ros.intake import IntakeCounts
from llava_st_ros.ros.worker import Worker, WorkerHealth
from llava_st_ros.streaming.frame_buffer import StreamReport
from llava_st_ros.streaming.silence import CAMERA_TIMEOUT

PERIOD = 1.0  # seconds
TICK_MEMORY = 10.0  # seconds for which the longest tick counts

# Returns the reasons why the model's status is not OK; called once per publication.
Reasons = Callable[[], Iterable[Reason]]
# Returns further statuses; called once per publication.
Statuses = Callable[[], Iterable[DiagnosticStatus]]


class DiagnosticsPublisher:
    """The timer, the publisher and the counts.

    Args:
        node: The node that publishes.
        get_cameras: Returns the subscribed cameras; empty unless the node is active.
        get_worker: Returns the worker; None while the node is unconfigured.
        describe: Returns the lifecycle state under "state", and the facts about the model.

    Attributes:
        silence_limit: Seconds without an image after which there is a warning; of a slow camera
            longer.
    """

    def __init__(
        self,
        node: Node,
        get_cameras: Callable[[], tuple[CameraSubscription, ...]],
        get_worker: Callable[[], Worker | None],
        describe: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.silence_limit = CAMERA_TIMEOUT
        self._node, self._describe = node, describe
        self._get_cameras, self._get_worker = get_cameras, get_worker
        self._latency = diagnostics.DurationMeter()
        self._tick_time = diagnostics.DurationMeter()
        self._answers = self._tracks = self._failures = self._previous_failures = 0
        self._callback_errors = self._previous_callback_errors = 0
        self._last_failure = self._last_callback_error = ""
        self._previous_health = WorkerHealth()
        self._sources: list[Reasons] = [
            self._worker_reasons,
            self._failure_reasons,
            self._query_reasons,
        ]
        self._statuses: list[Statuses] = []
        self._slow_ticks = diagnostics.RecentMaximum(TICK_MEMORY)
        self._failed_evaluations = 0
        self._other_clocks: frozenset[str] = frozenset()  # cameras
        self._previous_counts: dict[str, IntakeCounts] = {}  # by camera
        self._previous_streams: dict[str, StreamReport] = {}  # by camera
        self._published_at = time.monotonic()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        node.create_timer(
            PERIOD,
            self.publish,
            callback_group=MutuallyExclusiveCallbackGroup(),
            # Diagnostics continue while simulated time is paused.
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def record_tick(self, tick: Tick, seconds: float) -> None:
        """Count a tick whose results were just published.

        Latency is measured from the stamp of the newest frame of each answer.

        Args:
            tick: The tick.
            seconds: How long it took.
        """
        self._tracks = len(tick.tracks)
        self._failed_evaluations += len(tick.failures)
        if not tick.groundings:
            return
        self._answers += len(tick.groundings)
        self._tick_time.add(seconds)
        self._slow_ticks.add(seconds)
        for grounding in tick.groundings:
            latency = diagnostics.seconds_since(grounding.window[-1], self._node.get_clock())
            if latency is None:
                continue
            if abs(latency) < diagnostics.OTHER_CLOCK:
                self._latency.add(latency)
                self._other_clocks -= {grounding.camera}
            else:  # e.g. a bag, or simulated time without use_sim_time
                self._other_clocks |= {grounding.camera}

    def add_source(self, source: Reasons) -> None:
        """Add a source of reasons why the model's status is not OK; the worst level counts."""
        self._sources.append(source)

    def add_statuses(self, source: Statuses) -> None:
        """Add a source of further statuses."""
        self._statuses.append(source)

    def record_callback_error(self, error: Exception) -> None:
        """Count a callback that raised."""
        self._callback_errors += 1
        self._last_callback_error = one_line(error)

    def record_failure(self, error: BaseException) -> None:
        """Count a tick that failed."""
        self._failures += 1
        self._last_failure = one_line(error)

    def publish(self) -> None:
        """Publish the status of the model and of each camera, and warn about silent cameras."""
        now = time.monotonic()
        interval, self._published_at = now - self._published_at, now
        statuses = [self._model_status()]
        worker = self._get_worker()
        for camera in self._get_cameras():
            name = camera.source.name
            stream = worker.grounder.stream_report(name) if worker else StreamReport()
            previous_stream = self._previous_streams.get(name, StreamReport())
            self._previous_streams[name] = stream
            camera.refresh()
            camera.warn_if_silent(self.silence_limit)
            camera.warn_about_stamps(stream, previous_stream)
            counts = camera.intake.counts
            previous = self._previous_counts.get(name, IntakeCounts())
            if counts.received < previous.received:  # the node was activated again
                previous = IntakeCounts()
            health = diagnostics.CameraHealth(
                name,
                camera.topic,
                camera.publisher_count,
                camera.reliability,
                camera.silence,
                counts,
                previous,
                interval,
                camera.last_problem,
                camera.arrivals,
                camera.lost,
                stream,
                previous_stream,
                camera.callbacks.drain(),
                camera.delays.drain(),
                camera.rectifier is not None,
            )
            self._previous_counts[name] = counts
            node = self._node.get_fully_qualified_name()
            limit = camera.silence_limit(self.silence_limit)
            statuses.append(diagnostics.camera_status(node, health, limit))
            if camera.rectifier is not None:
                statuses.append(camera.rectifier.status(node))
        if len(statuses) == 1:
            # Inactive: new subscriptions and streams start their counts at 0.
            self._previous_counts.clear()
            self._previous_streams.clear()
        for source in self._statuses:
            statuses.extend(source())
        stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(diagnostics.make_array(stamp, statuses))

    def _worker_reasons(self) -> Iterator[Reason]:
        worker = self._get_worker()
        health = WorkerHealth() if worker is None else worker.health
        previous, self._previous_health = self._previous_health, health
        if health.stall is not None:
            yield Reason(DiagnosticStatus.ERROR, f"the inference is hung: {health.stall}")
        if worker is not None and not worker.is_alive:
            yield Reason(DiagnosticStatus.ERROR, f"the worker thread has ended: {health.last_end}")
        elif health.restarts > previous.restarts:
            text = f"the worker thread ended and was restarted: {health.last_end}"
            yield Reason(DiagnosticStatus.ERROR, text)
        if health.unreported > previous.unreported:
            text = f"{health.unreported} failures could not be reported; see the process's output"
            yield Reason(DiagnosticStatus.ERROR, text)

    def _failure_reasons(self) -> Iterator[Reason]:
        new, self._previous_failures = (
            self._failures - self._previous_failures,
            self._failures,
        )
        if new:
            yield Reason(DiagnosticStatus.ERROR, f"{new} ticks failed: {self._last_failure}")
        new_errors, self._previous_callback_errors = (
            self._callback_errors - self._previous_callback_errors,
            self._callback_errors,
        )
        if new_errors:
            text = f"{new_errors} callbacks raised: {self._last_callback_error}"
            yield Reason(DiagnosticStatus.ERROR, text)

    def _query_reasons(self) -> Iterator[Reason]:
        worker = self._get_worker()
        if worker is None:
            return
        grounder = worker.grounder
        yield from query_health.failure_reasons(
            grounder.failures, grounder.newest, len(grounder.queries)
        )
        if worker.enabled:
            streams = {name: grounder.stream_report(name) for name in grounder.cameras}
            yield from query_health.history_reasons(grounder.queries, streams)
            yield from query_health.pace_reasons(grounder.paces, self._slow_ticks.value)

    def _model_status(self) -> DiagnosticStatus:
        worker, description = self._get_worker(), dict(self._describe())
        reasons = [reason for source in self._sources for reason in source()]
        level, message = diagnostics.combine(reasons, description.pop("state"))
        values = {
            **description,
            "standing queries": len(worker.grounder.queries) if worker else 0,
            "standing queries enabled": "yes" if worker and worker.enabled else "no",
            "one-shot queries pending": worker.pending if worker else 0,
            "answers": self._answers,
            "tracks": self._tracks,
            "failures": self._failures,
            "failed evaluations of queries": self._failed_evaluations,
            "callbacks that raised": self._callback_errors,
            "worker restarts": worker.health.restarts if worker else 0,
            "latency from stamp to publication": self._latency.drain(),
            "cameras with stamps of another clock": ", ".join(sorted(self._other_clocks)) or "none",
            "duration of ticks with answers": self._tick_time.drain(),
        }
        name = f"{self._node.get_fully_qualified_name()}: model"
        device = str(description.get("device", ""))
        return diagnostics.make_status(name, level, message, values, device)
