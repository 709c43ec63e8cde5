"""Spinner waits for running callbacks before it closes, so that nodes can be destroyed."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

from llava_st_ros.ros import spinning
from llava_st_ros.ros.spinning import Spinner
from support.ros_client import TIMEOUT

pytestmark = pytest.mark.ros


class SlowNode(Node):
    """A node whose timer callback runs until ``proceed`` is set."""

    def __init__(self, context: Context) -> None:
        super().__init__("slow", context=context)
        self.entered, self.proceed, self.done = (threading.Event() for _ in range(3))
        self.create_timer(0.001, self.work)

    def work(self) -> None:
        self.entered.set()
        if self.proceed.wait(TIMEOUT):
            self.get_logger().info("the node still works")
            self.done.set()


def close_waits(node: SlowNode, spinner: Spinner) -> None:
    closer = threading.Thread(target=spinner.close)
    closer.start()
    closer.join(0.5)  # long enough for a wrong early return
    assert closer.is_alive()
    node.proceed.set()
    closer.join(TIMEOUT)
    assert not closer.is_alive() and node.done.is_set()
    node.destroy_node()


def test_close_waits_for_a_running_callback(context: Context) -> None:
    node, spinner = SlowNode(context), Spinner(context, 2)
    spinner.add(node)
    assert node.entered.wait(TIMEOUT)
    close_waits(node, spinner)


def test_a_callback_that_waits_for_a_thread_is_queued_once(context: Context, monkeypatch) -> None:
    queued: list[object] = []

    class Threads(ThreadPoolExecutor):
        def submit(self, *arguments: Any) -> Any:
            queued.append(arguments)
            return super().submit(*arguments)

    monkeypatch.setattr(spinning, "ThreadPoolExecutor", Threads)
    node, proceed, all_ran = Node("busy", context=context), threading.Event(), threading.Event()
    ran: set[int] = set()

    def work(number: int) -> None:
        assert proceed.wait(TIMEOUT)
        ran.add(number)
        if len(ran) == 3:
            all_ran.set()

    for number in range(3):  # one more than there are threads
        node.create_timer(0.001, partial(work, number), MutuallyExclusiveCallbackGroup())
    spinner = Spinner(context, 2)
    monkeypatch.undo()
    spinner.add(node)
    assert not proceed.wait(0.5)  # long enough for thousands of wrong submissions
    assert len(queued) == 3
    proceed.set()
    assert all_ran.wait(TIMEOUT)
    spinner.close()
    node.destroy_node()


@pytest.mark.parametrize("in_main", [True, False])
def test_signal_ends_wait_but_close_still_waits(context: Context, in_main: bool) -> None:
    """The signal may be delivered to any thread; its handler runs in the main one."""

    class InterruptedWaitError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise InterruptedWaitError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        node, spinner = SlowNode(context), Spinner(context, 2)
        spinner.add(node)
        assert node.entered.wait(TIMEOUT)

        def send() -> None:
            receiver = threading.main_thread() if in_main else threading.current_thread()
            assert receiver.ident is not None
            signal.pthread_kill(receiver.ident, signal.SIGUSR1)

        sender = threading.Timer(0.3, send)  # after the wait has started
        sender.start()
        with pytest.raises(InterruptedWaitError):
            spinner.wait()
        # After an interrupted join, is_alive would be False.
        (thread,) = (t for t in threading.enumerate() if t.name == "ros-spinner")
        assert thread.is_alive()
    finally:
        signal.signal(signal.SIGUSR1, before)
    close_waits(node, spinner)


def test_exception_of_a_callback_is_reported_and_spinning_continues(context: Context) -> None:
    node, calls, errors = Node("broken", context=context), [], []
    spun_on = threading.Event()

    def broken() -> None:
        calls.append(1)
        if len(calls) == 5:
            spun_on.set()
        raise ValueError("raised by the callback")

    def report(error: Exception) -> None:
        errors.append(error)
        raise RuntimeError("reporting failed, too")

    node.create_timer(0.001, broken)
    spinner = Spinner(context, 2, report)
    spinner.add(node)
    assert spun_on.wait(TIMEOUT)
    assert spinner.close(TIMEOUT)
    assert spinner.failure is None
    assert {str(error) for error in errors} == {"raised by the callback"}
    node.destroy_node()


def test_message_of_a_destroyed_subscription_is_not_an_error(context: Context) -> None:
    node, errors, spun_on = Node("destroyed", context=context), [], threading.Event()

    def destroyed() -> None:
        spun_on.set()
        raise InvalidHandle("the subscription is destroyed")

    timer = node.create_timer(0.001, destroyed)
    spinner = Spinner(context, 2, errors.append)
    spinner.add(node)
    assert spun_on.wait(TIMEOUT)
    node.destroy_timer(timer)
    assert spinner.close(TIMEOUT)
    assert (errors, spinner.failure) == ([], None)
    node.destroy_node()


def test_wait_ends_when_the_executor_itself_fails(context: Context, monkeypatch) -> None:
    def spin_once(*_: object, **__: object) -> None:
        raise RuntimeError("the wait set is broken")

    monkeypatch.setattr(spinning, "POLL", 0.001)
    monkeypatch.setattr(spinning.MultiThreadedExecutor, "spin_once", spin_once)
    spinner = Spinner(context, 2, lambda error: None)
    spinner.wait()
    assert "the wait set is broken" in str(spinner.failure)
    assert spinner.close(TIMEOUT)


def test_close_returns_after_its_timeout_while_a_callback_runs(context: Context) -> None:
    node, spinner = SlowNode(context), Spinner(context, 2)
    spinner.add(node)
    assert node.entered.wait(TIMEOUT)
    assert not spinner.close(0.05)
    close_waits(node, spinner)


def test_wait_ends_when_the_context_is_shut_down(context: Context) -> None:
    spinner = Spinner(context, 2)
    context.shutdown()
    spinner.wait()
    spinner.close()
