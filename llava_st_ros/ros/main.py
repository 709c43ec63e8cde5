"""The node's process. Imports what is slow only after the signals are handled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_st_ros.ros.output import never_wait_for_readers
from llava_st_ros.ros.stop_signals import StopSignals
from llava_st_ros.standard_streams import open_missing_streams

if TYPE_CHECKING:
    from llava_st_ros.ros.model_loading import LoadModel


def main(args: Sequence[str] | None = None, *, load: LoadModel | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or SIGHUP.

    Must be called in the main thread. It replaces the handlers of these signals and leaves them
    ignored. If something does not end within ``stop_timeout`` after the signal, the process ends
    with the exit code 3 and ``main`` does not return.

    Args:
        args: Command-line arguments; None for ``sys.argv``.
        load: Loads the model when the node is configured; ``load_model`` by default.

    Returns:
        The exit code: 0; 1 if the executor failed; 2 if the node cannot start.

    Raises:
        ImportError: rclpy or the messages cannot be imported.
    """
    open_missing_streams()
    never_wait_for_readers()
    with StopSignals() as stop:
        try:
            with stop.interrupting():
                from llava_st_ros.ros.model_loading import load_model
                from llava_st_ros.ros.node_process import run
        except KeyboardInterrupt:
            return 0
        return run(args, load or load_model, stop)
