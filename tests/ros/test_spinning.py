"""The end of spinning: callbacks first, whatever they do; then nodes may go."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from peer import PATIENCE
from rclpy.context import Context
from rclpy.node import Node

from llava_st_ros.ros.spinning import Spinner

pytestmark = pytest.mark.ros


def test_close_waits_for_the_callback_that_runs(context: Context) -> None:
    node = Node("slow", context=context)
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        if go_on.wait(PATIENCE):
            node.get_logger().info("the node is still whole")
            done.set()

    node.create_timer(0.001, slow)
    spinner = Spinner(context, 2)
    spinner.add(node)
    assert entered.wait(PATIENCE)
    closer = threading.Thread(target=spinner.close)
    closer.start()
    closer.join(0.5)  # time enough to end too early
    assert closer.is_alive()
    go_on.set()
    closer.join(PATIENCE)
    assert not closer.is_alive() and done.is_set()
    node.destroy_node()


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
