"""``llava-st view`` with a real node over DDS and a real browser."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from llava_st_ros import msg, srv
from llava_st_ros.cli.__main__ import main
from llava_st_ros.cli.view_actions import ViewActions
from llava_st_ros.live_view.live_state import LiveState
from llava_st_ros.ros import node_client, qos
from llava_st_ros.ros.conversions import header
from llava_st_ros.ros.node_client import NodeClient
from support.chromium import open_page
from support.paths import RED_BOX_NODE
from support.red_box_backend import STEP_X, red_box_image
from support.ros_client import TIMEOUT, ClientNode, compressed_message, image_message

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from rclpy.context import Context

pytestmark = pytest.mark.ros
COMMAND = (sys.executable, "-m", "llava_st_ros.cli", "view", "--no-browser")
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
TENTH = 100_000_000
STEPS = 2  # by which the box moves from image to image
# What is drawn for each camera, and where the red of the box starts in the picture.
DRAWN = """() => [...document.querySelectorAll("figure")].map((figure) => {
  const canvas = figure.querySelector("canvas"), box = figure.querySelector(".box");
  if (!box || !canvas.dataset.stamp) return null;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let left = canvas.width;
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i] > 125 && pixels[i + 2] < 85) left = Math.min(left, (i / 4) % canvas.width);
  return {stamp: Number(canvas.dataset.stamp), left, box: Number(box.getAttribute("x")),
          state: box.getAttribute("class"), label: figure.querySelector("text").textContent};
})"""


@contextmanager
def viewing(*arguments: str, end: signal.Signals = signal.SIGINT) -> Iterator[str]:
    """Run the command; yields the address, and checks that it ends well."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None and running.stderr is not None
            line = running.stdout.readline()
            assert line.startswith("open http://127.0.0.1:"), running.stderr.read()
            yield line.split()[1]
            running.send_signal(end)
            _, err = running.communicate(timeout=TIMEOUT)
            assert running.returncode == 0, err
            assert "Traceback" not in err and "failed" not in err, err
        finally:
            running.kill()


class Camera:
    """A camera whose box moves from image to image; images are 0.1 s apart by stamp."""

    def __init__(self, client: ClientNode, topic: str, *, compressed: bool = False) -> None:
        self._publisher = client.camera(topic, compressed=compressed)
        self._convert = compressed_message if compressed else image_message
        self._count = 0

    def publish(self) -> None:
        self._count += 1
        left = 5 + STEPS * self._count % 60
        image = red_box_image(left, 10, left + 20, 40)
        self._publisher.publish(self._convert(image, 10**12 + self._count * TENTH))


@contextmanager
def streaming(*cameras: Camera) -> Iterator[None]:
    """The cameras publish until the end of the block, however long a page takes."""
    is_over = threading.Event()

    def publish() -> None:
        while not is_over.wait(0.02):
            for camera in cameras:
                camera.publish()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_a_node_is_watched_and_asked(
    client: ClientNode, start_node: Callable, chromium: Browser
) -> None:
    start_node(
        cameras=["front=image", "rear=other/compressed"],
        default_period=0.5,
        queries=['{"text": "the red box", "task": "STVG", "id": "box"}'],
    )
    cameras = [Camera(client, "image"), Camera(client, "other/compressed", compressed=True)]

    with (
        viewing("--port", "0", "--rate", "30") as url,
        open_page(chromium, url, expected_errors=("400",)) as page,
    ):
        page.get_by_role("heading", name="/grounding").wait_for()
        page.get_by_text("No image yet from /image").wait_for()
        with streaming(*cameras):
            check_boxes_are_on_their_images(client, page)
            page.locator("#events tr", has_text="CONFIRMED").first.wait_for()
            page.locator("#timeline .CONFIRMED").first.wait_for()

            # A second page, opened late, has everything at once.
            with open_page(chromium, url) as late:
                late.locator("#queries li", has_text="the red box").wait_for()
                late.locator("#events tr", has_text="the red box").first.wait_for()
                client.poll(lambda: all(late.evaluate(DRAWN)), "the pictures in the second page")

            page.get_by_label("What to look for").fill(HOSTILE)
            page.get_by_text("Options").first.click()
            page.locator("#add-id").fill("<b>id</b>")
            page.keyboard.press("Enter")
            page.get_by_text("added as <b>id</b>").wait_for()
            page.locator("#events tr", has_text=HOSTILE[:20]).first.wait_for()
            page.locator("figure tr", has_text=HOSTILE[:20]).first.wait_for()
            assert page.title() == "/grounding - llava-st view"
            assert page.locator("img, b").count() == 0

            page.get_by_label("What to look for").fill("another box")
            page.locator("#add-id").fill("x" * 200)
            page.locator("#add-camera").select_option("rear")
            page.get_by_role("button", name="Add query").click()
            page.get_by_text("added as xxx").wait_for()
            page.get_by_role("button", name="Remove query <b>id</b>").click()
            page.get_by_text("removed <b>id</b>").wait_for()
            page.locator("#queries li", has_text=HOSTILE).wait_for(state="detached")
            page.locator("#events tr", has_text="ENDED (query removed)").first.wait_for()
            page.get_by_label("What to look for").fill("word\0")
            page.get_by_role("button", name="Add query").click()
            page.get_by_text("contains U+0000, which cannot be sent").wait_for()

            page.locator("#ask-text").fill("the red box")
            page.keyboard.press("Enter")
            page.locator("#answers li[data-state=ANSWERED]").wait_for()
            assert "where: [" in page.locator("#answers").inner_text()

        # The cameras go silent.
        page.get_by_text(re.compile(r"No image for \d")).first.wait_for()
        page.locator("#events tr", has_text="ENDED (camera silent)").first.wait_for()


def check_boxes_are_on_their_images(client: ClientNode, page: Page) -> None:
    """Each box is on the image that it was carried to, or its label says that it is older."""
    stamps = set()

    def is_seen() -> bool:
        drawn = page.evaluate(DRAWN)
        if len(drawn) < 2 or None in drawn:
            return False
        for one in drawn:
            if "PROPAGATED" in one["state"]:
                label = re.fullmatch(
                    r"the red box [01]\.\d\d propagated(, 0\.\d s old)?", one["label"]
                )
                assert label, one["label"]
                if not label[1]:  # otherwise its tracks came late, on a busy machine
                    assert abs(one["left"] - one["box"]) < STEPS * STEP_X - 1, one
                    stamps.add(one["stamp"])
        return len(stamps) > 8

    client.poll(is_seen, "boxes that are carried")


def test_a_question_is_canceled(
    client: ClientNode, start_node: Callable, backend: Any, chromium: Browser
) -> None:
    node = start_node(cameras=["front=image"])
    cameras = [Camera(client, "image")]
    with viewing("--port", "0") as url, open_page(chromium, url) as page, streaming(*cameras):
        page.get_by_text("Live").wait_for()
        page.locator("canvas[data-stamp]").wait_for()
        backend.hold(1)
        page.locator("#ask-text").fill("the red box")
        page.get_by_role("button", name="Ask", exact=True).click()
        client.poll(lambda: node._worker.pending == 1, "the question")
        page.get_by_text("is being answered").wait_for()
        page.locator("#ask-text").fill("another box")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("#answers li[data-state=WAITING]").wait_for()
        page.get_by_role("button", name="Cancel question the red box").click()
        page.locator("#answers li[data-state=CANCELED]").wait_for()
        backend.step()  # the next token: the cancellation is noticed there
        client.poll(lambda: node._worker.pending <= 1, "the end of the question")
        backend.resume()
        page.locator("#answers li[data-state=ANSWERED]").wait_for()


@contextmanager
def running_node(text: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node with a standing query, in a process of its own."""
    query = json.dumps({"text": text, "task": "STVG"})
    parameters = (f"queries:=['{query}']", "default_period:=0.5", "history:=0.0")
    arguments = [part for parameter in parameters for part in ("-p", parameter)]
    command = [sys.executable, str(RED_BOX_NODE), "--ros-args", *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
            running.send_signal(signal.SIGINT)
            running.wait(TIMEOUT)
        finally:
            running.kill()


def test_the_page_outlives_the_command_and_the_node(client: ClientNode, chromium: Browser) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    allowed = ("ERR_CONNECTION", "ERR_EMPTY", "ERR_CONTENT_LENGTH")  # it ends at any moment

    def wait_event(page: Page) -> None:
        with streaming(camera):
            page.locator("#events tr").first.wait_for()

    with ExitStack() as stack:
        with running_node("the red box"):
            client.wait_log("active: images")
            camera = Camera(client, "image")
            with viewing("--port", port, end=signal.SIGTERM) as url:
                page = stack.enter_context(open_page(chromium, url, expected_errors=allowed))
                page.get_by_text("Live").wait_for()
                wait_event(page)
            page.get_by_text("Disconnected").wait_for()
            page.get_by_text("llava-st view does not answer; trying again").wait_for()
            stack.enter_context(viewing("--port", port))
            page.get_by_text("Live").wait_for()
            page.locator("#queries li", has_text="the red box").wait_for()
            wait_event(page)
        page.get_by_text("/grounding has ended or cannot be reached").wait_for()
        page.locator("#events tr").first.wait_for(state="detached")
        with running_node("another box"):
            page.get_by_text("Live").wait_for()
            page.locator("#queries li", has_text="another box").wait_for()
            wait_event(page)


def test_a_node_that_hangs_is_noticed_and_the_page_goes_on(
    client: ClientNode, chromium: Browser
) -> None:
    with running_node("the red box") as node:
        client.wait_log("active: images")
        camera = Camera(client, "image")
        with (
            viewing("--port", "0") as url,
            streaming(camera),
            open_page(chromium, url, expected_errors=("400",)) as page,
        ):
            page.locator("figure .box").first.wait_for()
            node.send_signal(signal.SIGSTOP)
            page.locator("#ask-text").fill("the red box")
            page.keyboard.press("Enter")
            page.get_by_text("/grounding has published no diagnostics for 5 s").wait_for()
            page.get_by_text("Problem").wait_for()
            # The loop of the command waits for nothing: pictures and commands go on.
            stamp = page.locator("canvas").get_attribute("data-stamp")
            page.locator(f"canvas:not([data-stamp='{stamp}'])").wait_for()
            page.get_by_role("button", name="Cancel question the red box").click(timeout=5_000)
            page.locator("#answers li[data-state=CANCELED]").wait_for(timeout=5_000)
            node.send_signal(signal.SIGCONT)
            page.get_by_text("Live").wait_for()


def test_a_second_node_on_the_same_topics_is_warned_about(
    client: ClientNode, start_node: Callable, chromium: Browser
) -> None:
    start_node()
    with viewing("--port", "0") as url, open_page(chromium, url) as page:
        page.get_by_text("Live").wait_for()
        second = client.create_publisher(msg.GroundedEvent, "events", qos.EVENTS)
        page.get_by_text(
            "/client publishes tracks or events on the topics of /grounding: what is shown is of "
            "both; use another namespace"
        ).wait_for()
        page.get_by_text("Problem").wait_for()
        client.destroy_publisher(second)
        page.get_by_text("Live").wait_for()


def test_a_node_that_never_lists_its_queries_holds_up_nothing(
    context: Context, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "CALL_TIMEOUT_S", 2.0)
    hung = Node("hung", context=context)  # nothing spins it, so its services never answer
    for kind, name in ((srv.AddQuery, "~/add_query"), (srv.ListQueries, "~/list_queries")):
        hung.create_service(kind, name, lambda request, response: response)
    with NodeClient("hung") as asking:
        state = LiveState(10.0)
        actions = ViewActions(asking, state)
        longest, problem, deadline = 0.0, "", time.monotonic() + TIMEOUT
        while problem != "/hung has not answered after 2 s":
            assert time.monotonic() < deadline, problem
            asking.spin(0.01)
            problem = state.update("", 0, 0.0).values["node"]["problem"]  # a page watches
            began = time.monotonic()
            actions.turn(began)
            longest = max(longest, time.monotonic() - began)
        assert longest < 1.0
    hung.destroy_node()


def hostile_node(client: ClientNode) -> Callable[[], None]:
    """Make the client a grounding node, and return what publishes long texts, all of them new."""

    def list_queries(request: Any, response: Any) -> Any:
        nan = float("nan")
        query = {"text": "w" * 50_000, "task": "REC", "period": nan}
        response.queries = [msg.Query(id=f"q{number}", **query) for number in range(200)]
        return response

    client.create_service(srv.AddQuery, "~/add_query", lambda request, response: response)
    client.create_service(srv.ListQueries, "~/list_queries", list_queries)
    client.create_subscription(Image, "/image", lambda image: None, qos_profile_sensor_data)
    images = client.create_publisher(Image, "/image", qos_profile_sensor_data)
    events = client.create_publisher(msg.GroundedEvent, "events", qos.EVENTS)
    tracks = client.create_publisher(msg.GroundedTrackArray, "tracks", qos.EVENTS)
    diagnostics = client.create_publisher(DiagnosticArray, "/diagnostics", 10)
    topic = [KeyValue(key="topic", value="/image")]
    numbers = itertools.count(1)

    def publish() -> None:
        number = next(numbers)
        stamp = header(10**18 + number * 2 * TENTH, "")
        statuses = [
            DiagnosticStatus(name=f"/client: {name}", message=f"{number} " * 10_000, values=topic)
            for name in ("model", "camera front")
        ]
        diagnostics.publish(DiagnosticArray(status=statuses))
        for event_id in range(5 * number, 5 * number + 5):
            text = f"{event_id} " + "w" * 50_000
            events.publish(msg.GroundedEvent(camera="front", event_id=event_id, text=text))
        label = f"{number} " + "w" * 100_000
        box = msg.Box(x_min=10.0, y_min=10.0, x_max=40.0, y_max=40.0)
        found = [
            msg.GroundedTrack(
                track_id=track_id, label=label, box=box, image_width=96, image_height=64,
                header=stamp,
            )
            for track_id in range(20)
        ]  # fmt: skip
        tracks.publish(msg.GroundedTrackArray(header=stamp, camera="front", tracks=found))
        images.publish(image_message(red_box_image(10, 10, 40, 40), 10**18 + number * 2 * TENTH))

    return publish


def test_a_node_that_publishes_too_much_leaves_the_page_usable(
    client: ClientNode, chromium: Browser
) -> None:
    """The page answers a script within 1 s while the node publishes five times per second."""
    publish, is_over = hostile_node(client), threading.Event()

    def run() -> None:
        while not is_over.wait(0.2):
            publish()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with viewing("--port", "0") as url, open_page(chromium, url) as page:
            page.locator("rect.box").first.wait_for()
            page.locator("#queries li").first.wait_for()
            stamps, longest, seconds = set[str | None](), 0.0, 10.0
            end = time.monotonic() + seconds
            while (began := time.monotonic()) < end:
                stamps.add(page.locator("canvas").get_attribute("data-stamp"))
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.02)
            print(f"answers within {longest:.2f} s, {len(stamps) / seconds:.1f} images/s")
            assert longest < 1.0
            assert len(stamps) > 0.6 * seconds
    finally:
        is_over.set()
        thread.join()


def test_without_a_node_or_a_port_is_one_line(
    domain: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "FIND_TIMEOUT_S", 0.1)
    assert main(["view", "--port", "0"]) == 2
    assert "no grounding node answers on domain" in capsys.readouterr().err.splitlines()[-1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, line in (
            (["--port", str(port)], f"port {port} of 127.0.0.1 cannot be used: Address already"),
            (["--port", "70000"], "--port is 70000; expected 0 to 65535"),
            (["--port", "0", "--host", "192.0.2.1"], "port 0 of 192.0.2.1 cannot be used: Cannot"),
            (["--port", "0", "--host", "no.such.host.invalid"], "cannot be used: "),
            (["--rate", "0"], "--rate is 0; expected 0.1 to 60"),
            (["--rate", "nan"], "--rate is nan; expected 0.1 to 60"),
        ):
            assert main(["view", *arguments]) == 2
            (error,) = capsys.readouterr().err.splitlines()
            assert line in error
