"""``llava-st watch``, ``ask`` and ``query`` with a real node over DDS."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray

from llava_st_ros import msg, srv
from llava_st_ros.cli.__main__ import main
from llava_st_ros.cli.following import follow
from llava_st_ros.errors import BackendError
from llava_st_ros.records import Query
from llava_st_ros.ros import node_client, qos
from llava_st_ros.ros.node_client import NodeClient
from llava_st_ros.ros.question import Question
from support.paths import RED_BOX_NODE, ROOT
from support.red_box_backend import STEP_X, STEP_Y, red_box_image
from support.ros_client import TIMEOUT, ClientNode, image_message

pytestmark = pytest.mark.ros
BOX = [10 * STEP_X, 10 * STEP_Y, 30 * STEP_X, 30 * STEP_Y]
COMMAND = (sys.executable, "-m", "llava_st_ros.cli")
HUNG_NODE = ROOT / "tests" / "faults" / "hung_node.py"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one node: do not wait for others."""
    monkeypatch.setattr(node_client, "SETTLE_S", 0.0)


class Camera:
    """A camera that shows a red box, 0.1 s apart by stamp."""

    def __init__(self, client: ClientNode) -> None:
        self._client, self._publisher = client, client.camera("image")
        self._statuses = client.collect(DiagnosticArray, "/diagnostics")
        self.stamp = 10**12

    def publish(self) -> None:
        self.stamp += 10**8
        self._publisher.publish(image_message(red_box_image(10, 10, 30, 30), self.stamp))

    def wait_received(self) -> None:
        def is_received() -> bool:
            values = [v for a in self._statuses for s in a.status for v in s.values]
            return any(v.key == "received" and v.value != "0" for v in values)

        self._client.publish_until(self.publish, is_received, "a frame in the node")


def test_queries_are_added_listed_and_removed(
    client: ClientNode, start_node, capsys: pytest.CaptureFixture[str]
) -> None:
    start_node(cameras=["front=image"], default_period=2.5)
    assert main(["query", "add", "the red cup", "--id", "cup", "--camera", "front"]) == 0
    assert capsys.readouterr().out == "cup\n"
    added = ["--task", "stvg", "--period", "0.5", "--expiry", "60", "--node", "grounding"]
    assert main(["query", "add", "the cup falls", *added]) == 0
    assert capsys.readouterr().out == "q1\n"
    assert main(["query", "list", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert listed == [
        {
            "id": "cup",
            "text": "the red cup",
            "task": "REC",
            "cameras": ["front"],
            "period": 2.5,
            "expiry": None,
        },
        {
            "id": "q1",
            "text": "the cup falls",
            "task": "STVG",
            "cameras": [],
            "period": 0.5,
            "expiry": 60.0,
        },
    ]
    assert main(["query", "list"]) == 0
    assert "the cup falls" in capsys.readouterr().out
    assert main(["query", "remove", "cup", "nope", "q1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no standing query 'nope'" in line
    assert main(["query", "list"]) == 0
    assert capsys.readouterr().out == "/grounding has no standing queries\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["query", "add", "x", "--camera", "nope"], "rejects the query: camera 'nope' is unknown"),
        (["query", "add", "x", "--period", "-1"], "period of query 'q1' is -1.0"),
        (["query", "add", "x", "--span", "0", "1", "1"], "--span has 3 values"),
        (["query", "add", '{"words": 1}'], "unknown keys: words"),
        (["ask", "x", "--camera", "nope"], "has no answer: camera 'nope' is unknown"),
        (["ask", "x"], "has no answer: "),  # no frame has arrived
        (["query", "list", "--node", "/a/grounding"], "nodes that exist: /grounding"),
    ],
)
def test_what_is_rejected_is_one_line(
    start_node,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.setattr(node_client, "FIND_TIMEOUT_S", 1.0)
    start_node(cameras=["front=image"])
    assert main(arguments) == 2
    err = [row for row in capsys.readouterr().err.splitlines() if row.startswith("llava-st: ")]
    assert len(err) == 1 and line in err[0]


def test_a_question_is_answered(
    client: ClientNode, start_node, capsys: pytest.CaptureFixture[str]
) -> None:
    start_node(cameras=["front=image"])
    Camera(client).wait_received()
    assert main(["ask", "the red box", "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["boxes"][0]["box"] == pytest.approx(BOX, abs=0.01)
    assert answer["camera"] == "front" and "asked as REC" in captured.err
    assert main(["ask", "the red box", "--camera", "front"]) == 0
    head, where = capsys.readouterr().out.splitlines()
    assert head.startswith("camera front, 10") and "396x297 px" in head
    assert where.startswith("where: [40, 30, 120, 90] at 10")


def test_ctrl_c_cancels_the_question(client: ClientNode, start_node, backend) -> None:
    node = start_node(cameras=["front=image"])
    Camera(client).wait_received()
    backend.hold(0)
    with subprocess.Popen([*COMMAND, "ask", "the red box"], stderr=subprocess.PIPE) as asking:
        try:
            client.poll(lambda: node._worker.pending == 1, "the question")
            asking.send_signal(signal.SIGINT)
            _, err = asking.communicate(timeout=TIMEOUT)
        finally:
            asking.kill()
    assert asking.returncode == 130 and b"interrupted" in err
    backend.step()  # the next token: the cancellation is noticed there
    client.poll(lambda: node._worker.pending == 0, "the end of the question")


@pytest.mark.parametrize("arguments", [["ask", "x"], ["watch"], ["query", "list"]])
def test_without_a_node_is_one_line(
    domain: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setattr(node_client, "FIND_TIMEOUT_S", 0.1)
    assert main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"no grounding node answers on domain {domain} (ROS_DOMAIN_ID is {domain}, RMW" in line


@pytest.mark.parametrize(("number", "line"), [("300", "from 0 to 232"), ("x", "not an integral")])
def test_a_domain_that_does_not_exist_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: str, line: str
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", number)
    assert main(["query", "list"]) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_several_nodes_are_a_choice(
    client: ClientNode,
    start_node,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_client, "SETTLE_S", 0.5)
    start_node()
    client.create_service(srv.AddQuery, "/robot/add_query", lambda request, response: response)
    assert main(["query", "list"]) == 2
    line = capsys.readouterr().err
    assert "several grounding nodes: /client, /grounding; choose one with --node" in line
    assert main(["query", "list", "--node", "/grounding"]) == 0


def test_a_node_that_does_not_serve_is_one_line(
    client: ClientNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_service(srv.AddQuery, "/robot/add_query", lambda request, response: response)
    monkeypatch.setattr(node_client, "CALL_TIMEOUT_S", 0.1)
    assert main(["query", "list"]) == 2
    assert "/client has no service ~/list_queries after 0 s" in capsys.readouterr().err


class Watching:
    """Runs ``llava-st watch`` in this process until a condition ends it like Ctrl-C.

    Attributes:
        lines: Its lines on stdout.
        notes: Its lines on stderr, beside the node's log.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.lines: list[str] = []
        self.notes: list[str] = []

    def run(self, *arguments: str, step: Callable[[], bool]) -> int:
        """Call ``step`` after each message; the command ends when it returns True."""
        spin, deadline = NodeClient.spin, time.monotonic() + TIMEOUT

        def spin_and_step(client: NodeClient, seconds: float) -> None:
            spin(client, seconds)
            captured = self._capsys.readouterr()
            self.lines += captured.out.splitlines()
            self.notes += captured.err.splitlines()
            assert time.monotonic() < deadline, (self.lines, self.notes)
            if step():
                raise KeyboardInterrupt

        with self._monkeypatch.context() as patch:
            patch.setattr(NodeClient, "spin", spin_and_step)
            return main(["watch", *arguments])


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Watching:
    return Watching(monkeypatch, capsys)


def test_watch_prints_changes_as_lines_and_waits_for_the_node(
    client: ClientNode, start_node, watching: Watching
) -> None:
    node = start_node(active=False, cameras=["front=image"], queries=["the red box moves"])
    cameras: list[Camera] = []

    def step() -> bool:
        if not cameras and any("/grounding is not configured" in note for note in watching.notes):
            node.trigger_configure()
            node.trigger_activate()
            cameras.append(Camera(client))
        for camera in cameras:
            camera.publish()
        text = "\n".join(watching.lines)
        return "track 0 on front GROUNDED at [40, 30, 120, 90]" in text and "event 0" in text

    assert watching.run(step=step) == 0


def test_watch_prints_json_lines(client: ClientNode, start_node, watching: Watching) -> None:
    start_node(cameras=["front=image"], queries=["the red box moves"])
    camera = Camera(client)

    def step() -> bool:
        camera.publish()
        values = [json.loads(line) for line in watching.lines]
        return any(v.get("tracks") for v in values) and any(v["kind"] == "event" for v in values)

    assert watching.run("--json", step=step) == 0
    values = [json.loads(line) for line in watching.lines]
    assert {v["kind"] for v in values} == {"tracks", "event"}
    track = next(v for v in values if v.get("tracks"))["tracks"][0]
    assert track["box"] == pytest.approx(BOX, abs=0.01)
    assert track["state"] in ("GROUNDED", "PROPAGATED") and track["image"] == [396, 297]
    event = next(v for v in values if v["kind"] == "event")
    assert event["state"] in ("PROVISIONAL", "CONFIRMED") and event["camera"] == "front"


def test_watch_gets_every_event_of_a_burst(client: ClientNode, start_node) -> None:
    """As many as end at once when a camera falls silent that many queries follow."""
    start_node(cameras=["front=image"])
    publisher = client.create_publisher(msg.GroundedEvent, "events", qos.EVENTS)
    received: list[int] = []
    with NodeClient() as follower:
        assert follower.watch(print, lambda event: received.append(event["event_id"]))
        client.poll(publisher.get_subscription_count, "the subscription")
        for number in range(500):  # before the first one is handled
            publisher.publish(msg.GroundedEvent(event_id=number))
        deadline = time.monotonic() + TIMEOUT
        while len(received) < 500 and time.monotonic() < deadline:
            follower.spin(0.1)
    assert received == list(range(500))


@contextmanager
def killed_node(script: Path, *arguments: str) -> Iterator[None]:
    """A node in a process of its own that is killed at the end: nothing says goodbye."""
    parameters = ["cameras:=[front=image]", "history:=0.0", "queries:=[the red box moves]"]
    options = [part for parameter in parameters for part in ("-p", parameter)]
    command = [sys.executable, str(script), *arguments, "--ros-args", *options]
    with subprocess.Popen(command) as running:
        try:
            yield
        finally:
            running.kill()


def test_a_restart_between_two_looks_for_the_node_is_noticed(client: ClientNode) -> None:
    events: list[dict[str, Any]] = []
    known_at_end: list[int] = []
    is_restarted = False
    deadline = time.monotonic() + 2 * TIMEOUT

    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(killed_node(RED_BOX_NODE))
        camera = Camera(client)

        def turn() -> None:  # no look for the node falls into it
            nonlocal is_restarted
            assert time.monotonic() < deadline, (is_restarted, known_at_end, len(events))
            camera.publish()
            if events and not is_restarted:
                is_restarted = True
                first.close()
                client.logs.clear()
                stack.enter_context(killed_node(RED_BOX_NODE))
                client.wait_log("active: images")
            if known_at_end and len(events) > known_at_end[-1]:
                raise KeyboardInterrupt

        def end() -> None:
            known_at_end.append(len(events))

        follower = stack.enter_context(NodeClient())
        with pytest.raises(KeyboardInterrupt):
            follow(follower, lambda tracks: None, events.append, end, lambda note: None, turn)
    assert known_at_end


def test_another_publisher_of_the_topic_is_no_restart(client: ClientNode, start_node) -> None:
    start_node()
    with NodeClient() as follower:
        assert follower.watch(print, print)
        publishers = follower.publishers
        assert publishers
        client.create_publisher(msg.GroundedEvent, "events", qos.EVENTS)
        client.poll(lambda: follower._node.count_publishers("events") == 2, "the publisher")
        assert follower.publishers == publishers


def test_watch_warns_of_a_node_that_publishes_on_the_same_topics(
    client: ClientNode, start_node, watching: Watching
) -> None:
    start_node()
    client.create_publisher(msg.GroundedEvent, "events", qos.EVENTS)
    line = "/client publishes tracks or events on the topics of /grounding: what is shown is of"
    assert watching.run(step=lambda: any(line in note for note in watching.notes)) == 0


def test_a_question_to_a_node_that_restarts_fails(client: ClientNode) -> None:
    with ExitStack() as stack:
        with killed_node(HUNG_NODE, "prefill"):
            Camera(client).wait_received()
            asking = stack.enter_context(NodeClient())
            question = asking.start_question(Query("", "the red box"))
            client.poll(lambda: _is_accepted(asking, question), "the goal's acceptance")
        client.logs.clear()
        stack.enter_context(killed_node(RED_BOX_NODE))
        client.wait_log("active: images")

        def problem() -> str:
            asking.spin(0.1)
            try:
                assert question.poll() is None
                question.check_alive(asking.is_alive)
            except BackendError as error:
                return str(error)
            return ""

        ended = "/grounding has ended before it answered"
        assert client.poll(problem, "the end of the question") == ended
        question.close()


def _is_accepted(asking: NodeClient, question: Question) -> bool:
    asking.spin(0.1)
    question.poll()
    return question._result is not None


def test_watch_refreshes_a_table_on_a_terminal(client: ClientNode, start_node) -> None:
    start_node(cameras=["front=image"], queries=["the red box"])
    camera = Camera(client)
    primary, secondary = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    screen = bytearray()

    def read() -> None:
        try:
            while data := os.read(primary, 65536):
                screen.extend(data)
        except OSError:  # the terminal is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with subprocess.Popen(
        [*COMMAND, "watch"], stdin=secondary, stdout=secondary, stderr=secondary, env=environment
    ) as process:
        try:
            client.publish_until(
                camera.publish, lambda: b"[40, 30, 120, 90]" in screen, "the table"
            )
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)
        finally:
            process.kill()
            os.close(secondary)
            reader.join()
            os.close(primary)
    assert process.returncode == 0
    assert b"/grounding" in screen and b"Traceback" not in screen
    assert screen.endswith(b"\x1b[?25h\x1b[?1049l"), "the cursor and the screen are restored"
