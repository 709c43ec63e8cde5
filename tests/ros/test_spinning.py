"""The end of spinning: callbacks first, whatever they do; then nodes may go."""

from __future__ import annotations

import signal
import threading

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from peer import PATIENCE
from rclpy.context import Context
from rclpy.node import Node

from llava_st_ros.ros.spinning import Spinner

pytestmark = pytest.mark.ros


class SlowNode(Node):
    """Its callback does not end before it may."""

    def __init__(self, context: Context) -> None:
        super().__init__("slow", context=context)
        self.entered, self.go_on, self.done = (threading.Event() for _ in range(3))
        self.create_timer(0.001, self.work)

    def work(self) -> None:
        self.entered.set()
        if self.go_on.wait(PATIENCE):
            self.get_logger().info("the node is still whole")
            self.done.set()


def close_waits(node: SlowNode, spinner: Spinner) -> None:
    closer = threading.Thread(target=spinner.close)
    closer.start()
    closer.join(0.5)  # time enough to end too early
    assert closer.is_alive()
    node.go_on.set()
    closer.join(PATIENCE)
    assert not closer.is_alive() and node.done.is_set()
    node.destroy_node()


def test_close_waits_for_the_callback_that_runs(context: Context) -> None:
    node, spinner = SlowNode(context), Spinner(context, 2)
    spinner.add(node)
    assert node.entered.wait(PATIENCE)
    close_waits(node, spinner)


@pytest.mark.parametrize("in_main", [True, False])
def test_a_signal_ends_the_wait_and_close_still_waits(context: Context, in_main: bool) -> None:
    """Whichever thread takes the signal: then its handler runs in the main one a little later."""

    class InterruptedWaitError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise InterruptedWaitError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        node, spinner = SlowNode(context), Spinner(context, 2)
        spinner.add(node)
        assert node.entered.wait(PATIENCE)

        def send() -> None:
            taker = threading.main_thread() if in_main else threading.current_thread()
            assert taker.ident is not None
            signal.pthread_kill(taker.ident, signal.SIGUSR1)

        sender = threading.Timer(0.3, send)  # by then the wait has begun
        sender.start()
        with pytest.raises(InterruptedWaitError):
            spinner.wait()
        assert spinner._thread.is_alive()  # an interrupted join would take it for ended
    finally:
        signal.signal(signal.SIGUSR1, before)
    close_waits(node, spinner)


def test_what_a_callback_raises_ends_the_wait_and_comes_out_of_close(context: Context) -> None:
    node = Node("broken", context=context)

    def broken() -> None:
        raise ValueError("of the callback")

    node.create_timer(0.001, broken)
    spinner = Spinner(context, 2)
    spinner.add(node)
    spinner.wait()
    with pytest.raises(ValueError, match="of the callback"):
        spinner.close()
    node.destroy_node()


def test_the_wait_ends_with_the_context(context: Context) -> None:
    spinner = Spinner(context, 2)
    context.shutdown()
    spinner.wait()
    spinner.close()
