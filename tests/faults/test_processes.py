"""Hostile queries, services during transitions, and processes that are stopped or killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from llava_st_ros import msg, srv
from support.paths import RED_BOX_NODE
from support.red_box_backend import red_box_image
from support.ros_client import TIMEOUT, ClientNode, image_message

pytestmark = pytest.mark.ros
PARAMETERS = (
    """queries:=['{"id": "box", "text": "the red box", "task": "STVG", "period": 0.2}']""",
    "max_frame_rate:=0.0",
    "history:=0.0",
)
STOP_SECONDS = 2.0  # from a signal to the end of the process


@contextmanager
def node_process() -> Iterator[subprocess.Popen[str]]:
    arguments = [part for value in PARAMETERS for part in ("-p", value)]
    with subprocess.Popen(
        [sys.executable, str(RED_BOX_NODE), "--ros-args", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


class Camera:
    """Publishes a red box, 0.1 s later each time."""

    def __init__(self, client: ClientNode) -> None:
        self._publisher = client.camera("image")
        self._stamp = 10**12

    def publish_image(self) -> None:
        self._stamp += 10**8
        self._publisher.publish(image_message(red_box_image(10, 10, 30, 30), self._stamp))


def test_hostile_queries_are_rejected_or_answered_as_words(client: ClientNode, start_node) -> None:
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node()
    publisher = client.create_publisher(msg.Query, "grounding/query", 100)
    client.poll(publisher.get_subscription_count, "the node's subscription")
    rejected = {
        "empty": msg.Query(id="empty"),
        "huge": msg.Query(id="huge", text="x" * 2**20),
        "camera": msg.Query(id="camera", text="the red box", cameras=["nowhere"]),
        "id": msg.Query(id="a\nb", text="the red box"),
    }
    words = {
        "control": msg.Query(id="control", text="the\x07 red\r\n\x1b[31m box\x7f", task="REC"),
        "special": msg.Query(
            id="special", text="<image> <|im_end|> <TIME-001> the red box", task="REC"
        ),
    }
    for message in (*rejected.values(), *words.values()):
        publisher.publish(message)
        response = client.call(
            srv.AddQuery, "grounding/add_query", srv.AddQuery.Request(query=message)
        )
        if message.id in rejected or message is rejected["id"]:
            assert not response.success
            assert "\n" not in response.message and len(response.message) < 1300
    camera = Camera(client)
    listed = client.call(srv.ListQueries, "grounding/list_queries", srv.ListQueries.Request())
    accepted = {query.id for query in listed.queries}
    assert accepted <= words.keys()
    assert "special" in accepted
    client.publish_until(
        camera.publish_image, lambda: {a.query.id for a in list(answers)} == accepted, "answers"
    )
    assert not [line for line in client.log_lines() if "\x1b" in line or "\x07" in line]


def test_services_respond_during_transitions(client: ClientNode, start_node) -> None:
    node = start_node()
    failures: list[BaseException] = []
    stopped = threading.Event()

    def change() -> None:
        try:
            for _ in range(3):
                node.trigger_deactivate()
                node.trigger_cleanup()
                node.trigger_configure()
                node.trigger_activate()
        except BaseException as error:
            failures.append(error)
        finally:
            stopped.set()

    thread = threading.Thread(target=change)
    thread.start()
    query = msg.Query(id="box", text="the red box")
    calls = 0
    while not stopped.is_set() or not calls:
        for kind, name, request in (
            (srv.AddQuery, "add_query", srv.AddQuery.Request(query=query)),
            (srv.ListQueries, "list_queries", srv.ListQueries.Request()),
            (srv.Enable, "enable", srv.Enable.Request(enable=True)),
            (srv.RemoveQuery, "remove_query", srv.RemoveQuery.Request(id="box")),
        ):
            client.call(kind, f"grounding/{name}", request)  # fails without a response
            calls += 1
    thread.join(TIMEOUT)
    assert not failures
    assert not [line for line in client.log_lines() if "Traceback" in line or "failed" in line]
    response = client.call(srv.AddQuery, "grounding/add_query", srv.AddQuery.Request(query=query))
    assert response.success, response.message


def test_a_stopped_process_ends_in_time_and_says_that_everything_ends(client: ClientNode) -> None:
    events = client.collect(msg.GroundedEvent, "events")
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    with node_process() as running:
        camera = Camera(client)
        client.publish_until(
            camera.publish_image,
            lambda: any(e.state == e.CONFIRMED for e in events) and any(a.tracks for a in arrays),
            "a confirmed event and tracks",
        )
        started = time.monotonic()
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=TIMEOUT)
        assert time.monotonic() - started < STOP_SECONDS, output
        assert running.returncode == 0, output
    last = {event.event_id: event for event in events}
    client.wait(lambda: not list(arrays)[-1].tracks, "an empty array")
    client.wait(
        lambda: all(
            {e.event_id: e for e in list(events)}[i].reason == msg.GroundedEvent.REASON_DEACTIVATED
            for i in last
        ),
        "the end of the events",
    )


def test_a_node_works_after_another_was_killed(client: ClientNode) -> None:
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    for _ in range(2):
        with node_process() as running:
            arrays.clear()
            camera = Camera(client)
            client.publish_until(
                camera.publish_image, lambda: any(a.tracks for a in list(arrays)), "a track"
            )
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=TIMEOUT)
