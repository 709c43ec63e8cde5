"""The ROS examples with a running node: subscribe_to_tracks.py and add_query.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from llava_st_ros import srv
from support.paths import ROOT
from support.red_box_backend import red_box_image
from support.ros_client import TIMEOUT, ClientNode, image_message

pytestmark = pytest.mark.ros


def test_subscribe_to_tracks_prints_tracks_and_events(
    client: ClientNode, start_node: Callable[..., object]
) -> None:
    start_node(queries=['{"text": "the red box", "task": "STVG"}'], default_period=0.5)
    camera = client.camera("image")
    command = [sys.executable, str(ROOT / "examples" / "subscribe_to_tracks.py")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    stamp, lines = 10**12, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as example:
        assert example.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(iter(example.stdout.readline, "")))
        reader.start()

        def publish() -> None:
            nonlocal stamp
            stamp += 10**8
            camera.publish(image_message(red_box_image(10, 10, 30, 30), stamp))

        def has(text: str) -> bool:
            return any(line.startswith(text) for line in list(lines))

        try:
            client.publish_until(
                publish, lambda: has("track ") and has("event "), "a printed track and event"
            )
            example.send_signal(signal.SIGINT)
            assert example.wait(TIMEOUT) == 0
        finally:
            example.kill()
            reader.join(TIMEOUT)
    # Raster steps of 4 and 3 pixels.
    assert "track 0 GROUNDED on camera: [40,30 120,90] the red box\n" in lines
    assert any(line.startswith("event 0 ") and "the red box" in line for line in lines)


def test_add_query_prints_the_id_or_why_the_query_is_rejected(
    client: ClientNode, start_node: Callable[..., object]
) -> None:
    start_node()
    command = [sys.executable, str(ROOT / "examples" / "add_query.py")]

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=TIMEOUT
        )
        return done.returncode, done.stdout.strip()

    code, query_id = run("the red box is pushed")
    assert code == 0 and query_id
    code, reason = run("the red box", "--task", "WHO")
    assert code == 1 and "'WHO'" in reason
    request = srv.ListQueries.Request()
    (query,) = client.call(srv.ListQueries, "grounding/list_queries", request).queries
    assert (query.id, query.text) == (query_id, "the red box is pushed")
