"""A model that never returns: it is reported, callers are released, the process ends in time."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from llava_st_ros import action
from llava_st_ros.ros.stop_signals import EXIT_ABANDONED
from support.red_box_backend import red_box_image
from support.ros_client import TIMEOUT, ClientNode, Goal, image_message

pytestmark = pytest.mark.ros
STOP_TIMEOUT = 0.5  # seconds
HUNG_NODE = Path(__file__).parent / "hung_node.py"


@contextmanager
def hung_node(place: str, *parameters: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [part for parameter in parameters for part in ("-p", parameter)]
    command = [sys.executable, str(HUNG_NODE), place, "--ros-args", "-p", "history:=0.0"]
    command += ["-p", f"stop_timeout:={STOP_TIMEOUT}", "-p", "max_frame_rate:=0.0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def stop(running: subprocess.Popen[str], signals: Sequence[signal.Signals]) -> str:
    """Send the signals 0.1 s apart; expect the process's end in time. Return its output."""
    started = time.monotonic()
    for number in signals:
        running.send_signal(number)
        time.sleep(0.1)
    output, _ = running.communicate(timeout=TIMEOUT)
    assert time.monotonic() - started < STOP_TIMEOUT + 1.0, output
    assert running.returncode == EXIT_ABANDONED, output
    assert "Traceback" not in output, output
    return output


def errors(diagnostics: list[DiagnosticArray]) -> list[str]:
    statuses = [status for array in diagnostics for status in array.status]
    return [s.message for s in statuses if s.level == DiagnosticStatus.ERROR]


def test_hung_tick_is_reported_and_the_process_ends_in_time(client: ClientNode) -> None:
    """Injected: a model that never returns from a frame, past watchdog_seconds; then signals.
    Published: nothing more of the model.
    Logged: ERROR with the step, the line of code and the duration; diagnostics ERROR; the
        last line names it, exit code 3 within stop_timeout + 1 s.
    """
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    with hung_node("encode_frame", "queries:=[the red box]", "watchdog_seconds:=0.2") as running:
        camera, stamps = client.camera("image"), itertools.count(10**12, 10**8)
        client.publish_until(
            lambda: camera.publish(image_message(red_box_image(10, 20, 30, 50), next(stamps))),
            lambda: errors(diagnostics),
            "an ERROR in the diagnostics",
        )
        assert "the inference is hung: no progress for" in errors(diagnostics)[0]
        assert "in encode_frame (hung_node.py:" in errors(diagnostics)[0]
        client.wait_log("the inference is hung: no progress for", "in encode_frame")
        output = stop(running, (signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    assert "an inference did not end within 0.5 s; still running: llava-st-worker at" in output


def test_hung_goal_is_aborted_at_the_shutdown_and_the_process_ends_in_time(
    client: ClientNode,
) -> None:
    """Injected: a model that never returns from the prompt of a goal while another goal waits;
        then SIGTERM.
    Published: both goals are aborted with the reason.
    Logged: the last line names the inference; exit code 3 in time.
    """
    with hung_node("prefill") as running:
        camera, stamps = client.camera("image"), itertools.count(10**12, 10**8)
        server = client.action(action.Ground, "grounding/ground")
        goal = None
        while goal is None:  # rejected until the node has received a frame
            camera.publish(image_message(red_box_image(10, 20, 30, 50), next(stamps)))
            sent = Goal(client, server, text="the red box", task="REC")
            goal = None if sent.is_done(within=0.5) else sent
        waiting = Goal(client, server, text="the red box", task="REC")
        stop(running, (signal.SIGTERM,))
    for aborted in (goal, waiting):
        assert "the node was deactivated" in aborted.result()[1].message


def test_process_ends_in_time_while_native_code_loads_the_model(domain: int) -> None:
    """Injected: native code that never returns while it loads a model; then SIGINT and SIGTERM.
    Published: nothing.
    Logged: the last line names the step; exit code 3 in time.
    """
    with hung_node("load") as running:
        assert running.stdout is not None
        while running.stdout.readline() != "loading\n":
            assert running.poll() is None
        time.sleep(0.2)  # Python prints before it calls the native code
        output = stop(running, (signal.SIGINT, signal.SIGTERM))
    assert "the node did not stop within 0.5 s; still running: MainThread at" in output
