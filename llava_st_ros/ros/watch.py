"""Looks at the node once a second: says what is silent, and publishes /diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from llava_st_ros.records import NANOSECONDS, Tick
from llava_st_ros.ros import diagnostics
from llava_st_ros.ros.cameras import CameraSubscription
from llava_st_ros.ros.intake import IntakeCounts
from llava_st_ros.ros.worker import Worker

PERIOD = 1.0  # seconds between two looks
SILENCE = 2.0  # seconds without an image that are worth a word


class Watch:
    """The timer, the publisher, and what is counted between two looks."""

    def __init__(
        self,
        node: Node,
        cameras: Callable[[], tuple[CameraSubscription, ...]],
        worker: Callable[[], Worker | None],
        describe: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._node, self._cameras, self._worker, self._describe = node, cameras, worker, describe
        self._latency, self._tick_time = diagnostics.Meter(), diagnostics.Meter()
        self._answers = self._tracks = self._failures = self._failures_before = 0
        self._failure = ""
        self._before: dict[str, IntakeCounts] = {}
        self._looked = time.monotonic()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        node.create_timer(
            PERIOD,
            self.look,
            callback_group=MutuallyExclusiveCallbackGroup(),
            # Simulated time that stands still must not silence the node.
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def note_tick(self, tick: Tick, seconds: float) -> None:
        """Count a tick just published; latency runs from the stamp of the newest image it used."""
        self._tracks = len(tick.tracks)
        if not tick.groundings:
            return
        self._answers += len(tick.groundings)
        self._tick_time.add(seconds)
        now = self._node.get_clock().now().nanoseconds
        if now:  # zero: simulated time that has not begun
            for grounding in tick.groundings:
                self._latency.add((now - grounding.window[-1]) / NANOSECONDS)

    def note_failure(self, error: Exception) -> None:
        self._failures += 1
        self._failure = f"{type(error).__name__}: {error}"

    def look(self) -> None:
        """One look: silence is logged, diagnostics are published."""
        now = time.monotonic()
        interval, self._looked = now - self._looked, now
        statuses = [self._model_status()]
        for camera in self._cameras():
            camera.complain_of_silence(SILENCE)
            counts = camera.intake.counts
            health = diagnostics.CameraHealth(
                camera.source.name,
                camera.topic,
                camera.publishers,
                camera.silence,
                counts,
                self._before.get(camera.source.name, IntakeCounts()),
                interval,
                camera.problem,
            )
            self._before[camera.source.name] = counts
            statuses.append(
                diagnostics.camera_status(self._node.get_fully_qualified_name(), health, SILENCE)
            )
        if len(statuses) == 1:
            self._before.clear()  # inactive: the next subscriptions count from zero
        stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(diagnostics.array(stamp, statuses))

    def _model_status(self) -> DiagnosticStatus:
        worker, described = self._worker(), dict(self._describe())
        level, message = DiagnosticStatus.OK, described.pop("state")
        new_failures = self._failures - self._failures_before
        self._failures_before = self._failures
        if worker is not None and not worker.alive:
            level, message = DiagnosticStatus.ERROR, "the worker thread has ended"
        elif new_failures:
            level, message = DiagnosticStatus.ERROR, f"{new_failures} failed: {self._failure}"
        values = {
            **described,
            "standing queries": len(worker.grounder.queries) if worker else 0,
            "asked": "yes" if worker and worker.enabled else "no",
            "questions waiting": worker.pending if worker else 0,
            "answers": self._answers,
            "tracks": self._tracks,
            "failures": self._failures,
            "latency from stamp to publication": self._latency.take(),
            "time for a tick with answers": self._tick_time.take(),
        }
        name = f"{self._node.get_fully_qualified_name()}: model"
        return diagnostics.status(name, level, message, values, str(described.get("device", "")))
