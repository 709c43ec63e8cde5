"""Start the node, spin it until a stop is requested, and shut it down in order."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from llava_st_ros.errors import LlavaStError, one_line
from llava_st_ros.ros.ground_action import EXECUTOR_THREADS
from llava_st_ros.ros.model_loading import LoadModel
from llava_st_ros.ros.node import NODE_NAME, GroundingNode
from llava_st_ros.ros.parameter_sources import ParameterSources
from llava_st_ros.ros.spinning import Spinner
from llava_st_ros.ros.startup import check_arguments, startup_errors
from llava_st_ros.ros.stop_signals import StopSignals, leave

CALLBACK_SECONDS = 0.3  # for callbacks to end after a shutdown's deadline


def run(args: Sequence[str] | None, load: LoadModel, stop: StopSignals) -> int:
    """Run the node as ``main`` describes."""
    arguments = list(sys.argv if args is None else args)
    node: GroundingNode | None = None
    spinner: Spinner | None = None
    code = 0
    try:
        with stop.interrupting():
            with startup_errors(arguments):
                check_arguments(arguments)
                # rclpy's own handlers would shut down the context while the node still runs.
                rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
                sources = ParameterSources.from_arguments(arguments)
                node = GroundingNode(load=load, sources=sources)
            stop.timeout = node.parameters.stop_timeout
            if not node.parameters.autostart:
                node.get_logger().info("unconfigured: waiting for a lifecycle manager")
            elif not _autostart(node) and not stop.is_requested:
                code = 2
        if code == 0 and not stop.is_requested:
            spinner = Spinner(node.context, EXECUTOR_THREADS, node.on_callback_error)
            spinner.add(node)
            spinner.wait(lambda: stop.is_requested)
            if spinner.failure is not None:
                node.get_logger().fatal(f"the executor failed: {one_line(spinner.failure)}")
                code = 1
    except LlavaStError as error:
        print(f"{NODE_NAME}: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        pass
    finally:
        _shut_down(node, spinner, stop)
    return code


def _autostart(node: GroundingNode) -> bool:
    success = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == success and node.trigger_activate() == success)


def _shut_down(node: GroundingNode | None, spinner: Spinner | None, stop: StopSignals) -> None:
    """Shut down within the deadline; end the process if something does not end."""
    deadline = stop.deadline
    if node is not None:
        node.interrupt(deadline)
    if spinner is not None and not spinner.close(deadline.remaining + CALLBACK_SECONDS):
        leave(f"a callback did not end within {stop.timeout:g} s")
    is_abandoned = False
    if node is not None:
        try:
            node.destroy_node()
        except Exception:  # the rest must be shut down all the same
            traceback.print_exc()
        is_abandoned = node.has_abandoned_threads
    rclpy.try_shutdown()
    if is_abandoned:  # the interpreter's exit could wait for the thread, or crash
        leave(f"an inference did not end within {stop.timeout:g} s")
