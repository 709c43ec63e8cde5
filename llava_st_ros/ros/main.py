"""The node's process: start, spin until a signal, and shut down in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from llava_st_ros.errors import ConfigError
from llava_st_ros.ros.ground_action import EXECUTOR_THREADS
from llava_st_ros.ros.model_loading import LoadModel, load_model
from llava_st_ros.ros.node import NODE_NAME, GroundingNode
from llava_st_ros.ros.spinning import Spinner

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(args: Sequence[str] | None = None, *, load: LoadModel = load_model) -> int:
    """Run the node until SIGINT or SIGTERM.

    Must be called in the main thread; it replaces the handlers of both signals.

    Args:
        args: Command-line arguments; None for ``sys.argv``.
        load: Loads the model when the node is configured.

    Returns:
        The exit code: 0, or 2 if the node cannot start.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, _stop_once)
    try:
        with ExitStack() as shutdown:
            # rclpy's own handlers would shut down the context while the node still runs.
            rclpy.init(
                args=None if args is None else list(args),
                signal_handler_options=SignalHandlerOptions.NO,
            )
            shutdown.callback(rclpy.try_shutdown)
            node = GroundingNode(load=load)
            shutdown.callback(node.destroy_node)
            if not node.parameters.autostart:
                node.get_logger().info("unconfigured: waiting for a lifecycle manager")
            elif not _autostart(node):
                return 2
            spinner = Spinner(node.context, EXECUTOR_THREADS)
            shutdown.callback(spinner.close)
            shutdown.callback(node.interrupt)
            spinner.add(node)
            spinner.wait()
    except ConfigError as error:
        print(f"{NODE_NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _stop_once(number: int, frame: object) -> None:
    # The terminal and a launch file both forward Ctrl-C. The second signal must not interrupt the
    # shutdown.
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda *_: None)
    raise KeyboardInterrupt


def _autostart(node: GroundingNode) -> bool:
    success = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == success and node.trigger_activate() == success)
