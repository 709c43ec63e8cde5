"""The lifecycle node: loads on configure, subscribes on activate; the work is done elsewhere."""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.errors import BackendError, ConfigError, LlavaStError
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import Frame, Tick
from llava_st_ros.ros import parameters
from llava_st_ros.ros.cameras import CameraSubscription
from llava_st_ros.ros.control import Control
from llava_st_ros.ros.ground_action import EXECUTOR_THREADS, GroundAction
from llava_st_ros.ros.images import bridge_name
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.publications import Publications
from llava_st_ros.ros.queries import check_cameras, parse_queries
from llava_st_ros.ros.spinning import Spinner
from llava_st_ros.ros.throttle import Throttle
from llava_st_ros.ros.watch import Watch
from llava_st_ros.ros.worker import Worker
from llava_st_ros.text.tokenizer import Tokenizer

NODE_NAME = "grounding"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Load = Callable[[NodeParameters], tuple[Backend, Tokenizer]]


def load_model(settings: NodeParameters) -> tuple[Backend, Tokenizer]:
    """The backend and tokenizer that the parameters name."""
    path = settings.model or default_model(settings.backend, settings.device, settings.precision)
    return load_backend(
        path,
        settings.backend,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )


class GroundingNode(LifecycleNode):
    """Cameras in, tracks and events out; msg/, srv/ and action/ say what is exchanged.

    ``load`` gives the model on configure. The constructor raises ConfigError for parameters that
    cannot work. Spin it in EXECUTOR_THREADS threads (see Spinner): a goal that waits for its
    answer holds one, and cancelling needs another.
    """

    def __init__(self, *, load: Load = load_model, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self._load = load
        try:
            self.settings = parameters.declare(self)
        except ConfigError:
            self.destroy_node()
            raise
        self._throttle = Throttle(self.settings.log_period)
        self._worker: Worker | None = None
        self._publications: Publications | None = None
        self._cameras: tuple[CameraSubscription, ...] = ()
        self._description: Mapping[str, Any] = {}
        self._control = Control(self, self._configured_worker, lambda: self.settings)
        self._action = GroundAction(self, self._configured_worker, lambda: self.settings)
        self._watch = Watch(self, lambda: self._cameras, lambda: self._worker, self._describe)
        self.add_on_set_parameters_callback(self._on_parameters)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._step("configure", self._configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        def activate() -> None:
            # The publishers speak before the first frame can come.
            LifecycleNode.on_activate(self, state)
            self._activate()

        return self._step("activate", activate, undo=self._deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._step("deactivate", self._deactivate)
        LifecycleNode.on_deactivate(self, state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._step("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._step("shut down", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._step("recover", self._release)

    def interrupt(self) -> None:
        """Cut short what the model is doing, so that no callback waits for it any more."""
        worker = self._worker
        if worker is not None:
            worker.pause(self.settings.stop_timeout)

    def destroy_node(self) -> None:
        """Stop everything, whatever the state, and destroy the node. Stop spinning it first."""
        if hasattr(self, "_action"):
            self._release()
            self._action.destroy()
        super().destroy_node()

    def _step(
        self, what: str, do: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        # rclpy swallows what a transition raises, so it is told here.
        try:
            do()
            return TransitionCallbackReturn.SUCCESS
        except LlavaStError as error:
            self.get_logger().error(f"cannot {what}: {error}")
            result = TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(f"cannot {what}:\n{traceback.format_exc()}")
            result = TransitionCallbackReturn.ERROR
        if undo is not None:
            undo()
        return result

    def _configure(self) -> None:
        settings = self.settings
        names = [source.name for source in settings.camera_sources]
        queries = parse_queries(settings.queries, settings.default_period)
        self.get_logger().info(f"loading {settings.model or 'the model of the package'}")
        backend, tokenizer = self._load(settings)
        described = backend.describe()
        self._description = {
            "model": settings.model or "llava-st-tiny",
            "backend": described.name,
            "device": described.device,
            "precision": described.precision,
            "image conversion": bridge_name(),
        }
        grounder = Grounder(backend, tokenizer, settings.grounder_config)
        for query in queries:
            check_cameras(query, names)
            grounder.add_query(query)
        self._publications = Publications(self, names, self.get_logger().warning)
        self._publications.overlay_quality = settings.overlay_quality
        self._worker = Worker(
            grounder, tokenizer, self._on_tick, self._on_failure, settings.reset_seconds
        )
        self._worker.start()
        self.get_logger().info(
            f"configured: {described.name} on {described.device}, {len(queries)} standing queries"
        )

    def _activate(self) -> None:
        worker, publications = self._configured_worker(), self._publications
        if publications is not None:
            publications.begin_stream()
        worker.resume()
        self._cameras = tuple(
            CameraSubscription(self, source, self.settings, worker.push, self._throttle)
            for source in self.settings.camera_sources
        )
        topics = ", ".join(camera.topic for camera in self._cameras)
        self.get_logger().info(f"active: images from {topics}")

    def _deactivate(self) -> None:
        cameras, self._cameras = self._cameras, ()
        for camera in cameras:
            camera.destroy()
        if self._worker is not None and not self._worker.pause(self.settings.stop_timeout):
            self.get_logger().warning("an inference is still running; its result is dropped")

    def _release(self) -> None:
        self._deactivate()
        worker, self._worker = self._worker, None
        publications, self._publications = self._publications, None
        if worker is not None and not worker.stop(self.settings.stop_timeout):
            self.get_logger().error(
                f"the inference did not end within {self.settings.stop_timeout:g} s; its thread is "
                "left behind"
            )
        if publications is not None:
            publications.destroy()
        self._description = {}
        del worker
        gc.collect()  # so that the model's memory is free for the next one

    def _configured_worker(self) -> Worker:
        worker = self._worker
        if worker is None:
            raise BackendError(
                "an unconfigured node; expected a configured one", "configure it first"
            )
        return worker

    def _on_tick(self, tick: Tick, frames: Mapping[str, Frame], seconds: float) -> None:
        publications = self._publications
        if publications is not None:
            publications.publish(tick, frames)
            self._watch.note_tick(tick, seconds)

    def _on_failure(self, error: Exception) -> None:
        if not self.context.ok():
            return  # interrupted in the middle of a tick: nobody is there to be told
        self._watch.note_failure(error)
        line = str(error) if isinstance(error, LlavaStError) else repr(error)
        self._throttle(self.get_logger().error, "failure", f"a tick failed: {line}")
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().debug(trace)

    def _on_parameters(self, new: Sequence[Parameter]) -> SetParametersResult:
        try:
            self.settings = parameters.changed(self.settings, new)
        except ConfigError as error:
            return parameters.refusal(error)
        self._throttle.period = self.settings.log_period
        for camera in self._cameras:
            camera.intake.max_rate = self.settings.max_frame_rate
        worker, publications = self._worker, self._publications
        if worker is not None:
            worker.grounder.configure(self.settings.grounder_config)
        if publications is not None:
            publications.overlay_quality = self.settings.overlay_quality
        return SetParametersResult(successful=True)

    def _describe(self) -> Mapping[str, Any]:
        state = "active" if self._cameras else "inactive" if self._worker else "unconfigured"
        return {"state": state, **self._description}


def main(args: Sequence[str] | None = None, *, load: Load = load_model) -> int:
    """Run the node until SIGINT or SIGTERM; exit code 2 where it cannot start.

    For the main thread of a process: it takes over the two signals.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, _stop_once)
    try:
        with ExitStack() as ending:  # the last to come is the first to go
            # rclpy's own handlers would shut the context down under a running node.
            rclpy.init(
                args=None if args is None else list(args),
                signal_handler_options=SignalHandlerOptions.NO,
            )
            ending.callback(rclpy.try_shutdown)
            node = GroundingNode(load=load)
            ending.callback(node.destroy_node)
            if not node.settings.autostart:
                node.get_logger().info("unconfigured: waiting for a lifecycle manager")
            elif not _start(node):
                return 2
            spinner = Spinner(node.context, EXECUTOR_THREADS)
            ending.callback(spinner.close)
            ending.callback(node.interrupt)
            spinner.add(node)
            spinner.wait()
    except ConfigError as error:
        print(f"{NODE_NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _stop_once(number: int, frame: object) -> None:
    # A launch file and a terminal both pass Ctrl-C on: the second must not cut the end short.
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda *_: None)
    raise KeyboardInterrupt


def _start(node: GroundingNode) -> bool:
    success = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == success and node.trigger_activate() == success)
