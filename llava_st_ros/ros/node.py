"""The lifecycle node: loads the model on configure, subscribes to the cameras on activate."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from llava_st_ros.errors import BackendError, ConfigError, LlavaStError, one_line
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, EndReason, Frame, Tick
from llava_st_ros.ros.cameras import CameraSubscription
from llava_st_ros.ros.deadline import Deadline
from llava_st_ros.ros.depth_camera import DepthCamera, DepthCameras
from llava_st_ros.ros.diagnostics import Reason
from llava_st_ros.ros.diagnostics_publisher import DiagnosticsPublisher
from llava_st_ros.ros.ground_action import GroundAction
from llava_st_ros.ros.images import bridge_name
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.memory import free_memory
from llava_st_ros.ros.model_loading import LoadedModel, LoadModel, load_model
from llava_st_ros.ros.output_kinds import Selection, select
from llava_st_ros.ros.parameter_sources import NO_SOURCES, ParameterSources
from llava_st_ros.ros.parameter_updates import TypedParameters
from llava_st_ros.ros.parameters import declare_parameters, with_changes
from llava_st_ros.ros.progress import ObservedBackend, Progress
from llava_st_ros.ros.publishers import ResultPublishers
from llava_st_ros.ros.queries import describe_added, parameter_queries
from llava_st_ros.ros.service_guard import guard_services, reject_invalid_transitions
from llava_st_ros.ros.services import Services
from llava_st_ros.ros.track_carrier import ReadFrame, TrackCarrier
from llava_st_ros.ros.track_outputs import TrackOutputs, missing_reasons
from llava_st_ros.ros.worker import Worker, WorkerHealth
from llava_st_ros.streaming.silence import SilenceMonitor

NODE_NAME = "grounding"
SUPERVISION_PERIOD = 0.5  # seconds
FLUSH_SECONDS = 0.2  # for subscribers to get the last results


class GroundingNode(TypedParameters, LifecycleNode):
    """Camera images in, tracks and events out. The interfaces are in msg/, srv/ and action/.

    Spin it in EXECUTOR_THREADS threads (see Spinner): a pending goal blocks one, and its
    cancellation needs another.

    Args:
        load: Loads the model on configure.
        sources: The parameter files and rules of the command line, to explain a problem.
        **options: Passed on to ``LifecycleNode``.

    Attributes:
        parameters: The current values of the parameters.

    Raises:
        ConfigError: A parameter is not valid.
        QueryError: An entry of the parameter ``queries`` is not valid.
    """

    def __init__(
        self,
        *,
        load: LoadModel = load_model,
        sources: ParameterSources = NO_SOURCES,
        **options: Any,
    ) -> None:
        super().__init__(NODE_NAME, **options)
        self._load = load
        try:
            self.parameters = declare_parameters(self, sources)
            parameter_queries(self.parameters)
        except LlavaStError:
            self.destroy_node()
            raise
        if not self.parameters.camera_sources:
            self.get_logger().warning("cameras is empty: no query will be answered")
        self._throttle = LogThrottle(self.get_logger(), self.parameters.log_period)
        self._worker: Worker | None = None
        self._result_publishers: ResultPublishers | None = None
        self._cameras: tuple[CameraSubscription, ...] = ()
        self._model_facts: Mapping[str, Any] = {}
        self._outputs = Selection()
        self._depth: DepthCameras | None = None
        self._carrier: TrackCarrier | None = None
        self._query_services = Services(
            self, self._get_worker, lambda: self.parameters, self._throttle
        )
        self._action = GroundAction(self, self._get_worker, lambda: self.parameters, self._throttle)
        self._diagnostics = DiagnosticsPublisher(
            self, lambda: self._cameras, lambda: self._worker, self._describe
        )
        self._diagnostics.silence_limit = self.parameters.camera_timeout
        self._diagnostics.add_source(self._query_services.topic.reasons)
        self._diagnostics.add_source(lambda: missing_reasons(self._outputs))
        self._diagnostics.add_source(self._depth_reasons)
        self._diagnostics.add_statuses(self._depth_statuses)
        self._diagnostics.add_statuses(self._carrier_statuses)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._shutdown_deadline: Deadline | None = None
        self._abandoned: list[Worker] = []  # their threads did not end
        self._worker_health = WorkerHealth()
        self._silent_cameras: Mapping[str, int] = {}
        self.create_timer(
            SUPERVISION_PERIOD,
            self._supervise,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        reject_invalid_transitions(self)
        guard_services(self, self._on_service_error)

    @property
    def image_topics(self) -> tuple[str, ...]:
        """The resolved image topics; empty unless the node is active."""
        return tuple(camera.topic for camera in self._cameras)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self._configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        def activate() -> None:
            # Enables the publishers before the first frame can arrive.
            LifecycleNode.on_activate(self, state)
            self._activate()

        def undo() -> None:
            self._deactivate()
            LifecycleNode.on_deactivate(self, state)

        return self._transition("activate", activate, undo)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._transition("deactivate", self._deactivate)
        LifecycleNode.on_deactivate(self, state)
        if result is TransitionCallbackReturn.SUCCESS:
            self.get_logger().info("inactive: all tracks and events have ended")
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shut down", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("recover", self._release)

    @property
    def has_abandoned_threads(self) -> bool:
        """Whether the thread of an inference that did not end is still running."""
        return any(worker.is_alive for worker in self._abandoned)

    def interrupt(self, deadline: Deadline | None = None) -> None:
        """Stop a running inference, so that no callback waits for one: the node will be destroyed.

        Args:
            deadline: Limits this call and ``destroy_node`` together; ``stop_timeout`` from now if
                omitted.
        """
        self._shutdown_deadline = deadline or Deadline(self.parameters.stop_timeout)
        worker = self._worker
        if worker is not None:
            worker.pause(self._shutdown_deadline.remaining)

    def on_callback_error(self, error: Exception) -> None:
        """Log and count the exception of a callback, as a Spinner reports it."""
        self._diagnostics.record_callback_error(error)
        self._throttle.error("callback", f"a callback raised {one_line(error)}")
        self._log_trace(error)

    def destroy_node(self) -> None:
        """Stop everything, in any lifecycle state, and destroy the node. Stop spinning it first."""
        if hasattr(self, "_action"):
            self._release()
            self._action.destroy()
        super().destroy_node()
        # It keeps rcl's node alive: others would see this node until the interpreter exits.
        self._state_machine = None

    def _transition(
        self, name: str, run: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        # rclpy discards exceptions of transitions, so they are logged here.
        try:
            run()
            return TransitionCallbackReturn.SUCCESS
        except LlavaStError as error:
            self.get_logger().error(f"cannot {name}: {error}")
            result = TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(f"cannot {name}:\n{traceback.format_exc()}")
            result = TransitionCallbackReturn.ERROR
        if undo is not None:
            undo()
        return result

    def _configure(self) -> None:
        parameters = self.parameters
        queries = parameter_queries(parameters)
        self.get_logger().info(f"loading {parameters.model or 'the packaged model'}")
        model = self._load(parameters)
        self._model_facts = _model_facts(model)
        progress = Progress()
        backend = ObservedBackend(model.backend, progress)
        grounder = Grounder(backend, model.tokenizer, parameters.grounder_config)
        for query in queries:
            grounder.add_query(query)
            self.get_logger().info(describe_added(query))
        self._outputs = self._select_outputs()
        self._result_publishers = ResultPublishers(
            self,
            parameters.camera_names,
            TrackOutputs(
                self,
                parameters.camera_names,
                self._outputs,
                [source.name for source in parameters.depth_sources(self)],
                self._get_depth,
            ),
            grounder.carried,
        )
        self._result_publishers.overlay_quality = parameters.overlay_quality
        self._worker_health = WorkerHealth()
        self._worker = Worker(
            grounder,
            model.tokenizer,
            self._on_tick,
            self._on_failure,
            parameters.watchdog_seconds,
            progress,
            SilenceMonitor(self._silence_clock),
        )
        self._worker.camera_timeout = parameters.camera_timeout
        self._worker.start()
        self.get_logger().info(
            "configured: {model}, {backend} on {device}, {precision}".format(**self._model_facts)
            + f"; {len(queries)} standing queries"
        )

    def _activate(self) -> None:
        worker, publishers = self._get_worker(), self._result_publishers
        if publishers is not None:
            publishers.reset()
        worker.resume()
        self._silent_cameras = {}
        self._depth = DepthCameras(self, self.parameters, self._throttle)
        if publishers is not None:
            self._carrier = TrackCarrier(
                worker.grounder, publishers, self.parameters.track_rate, self._on_carrier_error
            )
        for source in self.parameters.camera_sources:  # one by one: the next may fail
            camera = CameraSubscription(
                self, source, self.parameters, self._on_frame, self._on_skipped, self._throttle
            )
            self._cameras = (*self._cameras, camera)
        self.get_logger().info(f"active: images from {', '.join(self.image_topics) or 'no topic'}")

    def _deactivate(self, deadline: Deadline | None = None) -> None:
        deadline = deadline or self._new_deadline()
        cameras, self._cameras = self._cameras, ()
        for camera in cameras:
            camera.destroy()
        carrier, self._carrier = self._carrier, None
        if carrier is not None and not carrier.stop(deadline.remaining):
            self.get_logger().warning("the thread that carries tracks does not end")
        worker, publishers = self._worker, self._result_publishers
        if worker is not None:
            if not worker.pause(deadline.remaining):
                line = "an inference is still running; its result will be dropped"
                self.get_logger().warning(line)
            limit = max(FLUSH_SECONDS, deadline.remaining)
            if cameras and not worker.end_streams(EndReason.DEACTIVATED, limit):
                line = "results are still being published: followers do not get the end of events"
                self.get_logger().warning(line)
        if cameras and publishers is not None and self.context.ok():
            publishers.flush(FLUSH_SECONDS)
        depth, self._depth = self._depth, None
        if depth is not None:
            depth.destroy()

    def _new_deadline(self) -> Deadline:
        """Return the limit of a transition, or that of the shutdown if the node shuts down."""
        return self._shutdown_deadline or Deadline(self.parameters.stop_timeout)

    def _release(self) -> None:
        if self._release_model():  # whose variables hold the model until it returns
            free_memory()  # before another model is loaded

    def _release_model(self) -> bool:
        """Stop and forget what a configuration has made. Return whether there was one."""
        deadline = self._new_deadline()
        self._deactivate(deadline)
        worker, self._worker = self._worker, None
        publishers, self._result_publishers = self._result_publishers, None
        if worker is not None and not worker.stop(deadline.remaining):
            self._abandoned = [*filter(lambda other: other.is_alive, self._abandoned), worker]
            self.get_logger().error(
                f"an inference did not end within {self.parameters.stop_timeout:g} s; its thread "
                "is abandoned"
            )
        if publishers is not None:
            publishers.destroy()
        self._model_facts, self._outputs = {}, Selection()
        return worker is not None

    def _select_outputs(self) -> Selection:
        outputs = select(self.parameters.outputs, any(self.parameters.depth_sources(self)))
        for line in outputs.missing:
            if outputs.is_requested:
                self.get_logger().warning(line)
            else:
                self.get_logger().info(line)
        return outputs

    def _depth_reasons(self) -> Iterable[Reason]:
        depth = self._depth
        return () if depth is None else depth.reasons()

    def _depth_statuses(self) -> Iterable[DiagnosticStatus]:
        depth = self._depth
        return () if depth is None else depth.statuses()

    def _get_depth(self, camera: str) -> DepthCamera | None:
        depth = self._depth
        return None if depth is None else depth.get(camera)

    def _get_worker(self) -> Worker:
        worker = self._worker
        if worker is None:
            raise BackendError("the node is unconfigured", "configure it, then retry")
        return worker

    def _on_frame(self, frame: Frame) -> None:
        worker, carrier = self._worker, self._carrier
        if worker is not None:
            worker.push(frame)
        if carrier is not None:
            carrier.add_frame(frame)

    def _on_skipped(self, camera: str, stamp: int, read: ReadFrame) -> None:
        worker, carrier = self._worker, self._carrier
        if worker is not None:
            worker.note_image(camera)
        if carrier is not None:
            carrier.add_image(camera, stamp, read)

    def _carrier_statuses(self) -> Iterable[DiagnosticStatus]:
        carrier = self._carrier
        return () if carrier is None else carrier.statuses(self.get_fully_qualified_name())

    def _on_tick(self, tick: Tick, frames: Mapping[str, Frame], seconds: float) -> None:
        self._log_failures(tick)
        publishers = self._result_publishers
        if publishers is not None:
            publishers.publish(tick, frames)
            self._diagnostics.record_tick(tick, seconds)

    def _log_failures(self, tick: Tick) -> None:
        for failure in tick.failures:
            line = (
                f"query {failure.query_id!r} failed on camera {failure.camera!r}, "
                f"{failure.count} in a row: {failure.error}; other queries are not affected"
            )
            self._throttle.warning(f"query {failure.query_id}", line)
            self.get_logger().debug(failure.trace)

    def _on_failure(self, error: BaseException) -> None:
        if not self.context.ok():
            return  # the process is shutting down; there is no logger to report to
        self._diagnostics.record_failure(error)
        self._throttle.error("failure", f"a tick failed: {one_line(error)}")
        self._log_trace(error)

    def _on_carrier_error(self, error: BaseException) -> None:
        if not self.context.ok():
            return  # as for ``_on_failure``
        self._diagnostics.record_failure(error)
        self._throttle.error("carrier", f"tracks could not be carried: {one_line(error)}")
        self._log_trace(error)

    def _on_service_error(self, name: str, error: Exception) -> None:
        self._diagnostics.record_callback_error(error)
        self._throttle.error(f"service {name}", f"a request to {name} failed: {one_line(error)}")
        self._log_trace(error)

    def _log_trace(self, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().debug(trace)

    def _supervise(self) -> None:
        worker = self._worker
        if worker is None:
            return
        health, previous = worker.supervise(), self._worker_health
        self._worker_health = health
        if health.restarts > previous.restarts:
            line = f"the worker thread ended and was restarted: {health.last_end}"
            self._throttle.error("worker end", line)
        if health.stall is not None:
            self._throttle.error("stall", f"the inference is hung: {health.stall}")
        elif previous.stall is not None:
            self.get_logger().info("the inference continues")
        self._report_silences(worker.refresh())
        publishers = self._result_publishers
        if publishers is not None:
            publishers.refresh()

    def _report_silences(self, silent: Mapping[str, int]) -> None:
        previous, self._silent_cameras = self._silent_cameras, silent
        if not self._cameras:  # not active: no camera is silent, and none sends images again
            return
        for camera in silent.keys() - previous.keys():
            self.get_logger().warning(
                f"camera {camera!r} has sent no usable image for "
                f"{silent[camera] / NANOSECONDS:.1f} s: its tracks are lost and its events end"
            )
        for camera in previous.keys() - silent.keys():
            self.get_logger().info(f"camera {camera!r} sends images again")

    def _silence_clock(self) -> int:
        """Return the time (ns) in which cameras send images; it stands still with a simulation."""
        clock = cast(ROSClock, self.get_clock())
        return clock.now().nanoseconds if clock.ros_time_is_active else time.monotonic_ns()

    def _on_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        try:
            self.parameters = with_changes(self.parameters, changes)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._throttle.period = self.parameters.log_period
        self._diagnostics.silence_limit = self.parameters.camera_timeout
        for camera in self._cameras:
            camera.intake.max_rate = self.parameters.max_frame_rate
        if self._carrier is not None:
            self._carrier.max_rate = self.parameters.track_rate
        worker, publishers = self._worker, self._result_publishers
        if worker is not None:
            worker.watchdog_seconds = self.parameters.watchdog_seconds
            worker.camera_timeout = self.parameters.camera_timeout
            worker.grounder.configure(self.parameters.grounder_config)
        if publishers is not None:
            publishers.overlay_quality = self.parameters.overlay_quality
        return SetParametersResult(successful=True)

    def _describe(self) -> Mapping[str, Any]:
        state = "active" if self._cameras else "inactive" if self._worker else "unconfigured"
        return {"state": state, **self._model_facts}


def _model_facts(model: LoadedModel) -> Mapping[str, Any]:
    """What is running, for the log and /diagnostics."""
    description, folder = model.backend.describe(), model.folder.resolve()
    return {
        "model": folder.name,
        "model folder": str(folder),
        "backend": description.name,
        "device": description.device,
        "precision": description.precision,
        "image conversion": bridge_name(),
    }
