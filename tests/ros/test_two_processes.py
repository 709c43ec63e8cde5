"""The node as a separate process: raw and compressed images in, tracks in source pixels out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage

from llava_st_ros import msg, srv
from llava_st_ros.records import EventState
from llava_st_ros.ros.conversions import stamp_from_msg
from support.paths import RED_BOX_NODE
from support.red_box_backend import HEIGHT, STEP_X, STEP_Y, WIDTH, red_box_image
from support.ros_client import TIMEOUT, ClientNode, compressed_message, image_message

pytestmark = pytest.mark.ros
HERE = Path(__file__).parent
SCRIPTS = HERE.parent.parent / "scripts"
NOHUP = f"""
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
runpy.run_path({str(RED_BOX_NODE)!r}, run_name='__main__')
"""
TENTH = 100_000_000
START = 1_000 * 10 * TENTH + 123_456_789  # not a round number: no nanosecond may be lost


@contextmanager
def process(
    *command: str | Path, signals: Sequence[signal.Signals] = (signal.SIGINT,)
) -> Iterator[subprocess.Popen[str]]:
    """Run a node in a separate process and end it with ``signals``, by default as Ctrl-C does."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stderr=subprocess.STDOUT, stdout=subprocess.PIPE,
        text=True,
    ) as running:  # fmt: skip
        try:
            yield running
            for number in signals:
                running.send_signal(number)
            output, _ = running.communicate(timeout=TIMEOUT)
            assert running.returncode == 0, output
            assert "Traceback" not in output, output
        finally:
            running.kill()


class Cameras:
    """Two cameras that show the same moving red box, 0.1 s per frame."""

    def __init__(self, client: ClientNode) -> None:
        self.front = client.camera("/front/image_raw")
        self.wrist = client.camera("/wrist/image_raw/compressed", compressed=True)
        self.boxes: dict[int, tuple[int, int, int, int]] = {}  # stamp -> pixels

    def publish_image(self) -> None:
        i = len(self.boxes)
        stamp, left, top = START + i * TENTH, 5 + i % 60, 10 + i % 40
        corners = (left, top, left + 30, top + 40)
        self.boxes[stamp] = tuple(c * s for c, s in zip(corners, (STEP_X, STEP_Y) * 2))
        image = red_box_image(*corners)
        self.front.publish(image_message(image, stamp, "front_optical", encoding="bgr8"))
        self.wrist.publish(compressed_message(image, stamp, "wrist_optical"))


def other_clocks(diagnostics: list[DiagnosticArray]) -> set[str]:
    values = [v for array in list(diagnostics) for status in array.status for v in status.values]
    return {v.value for v in values if v.key == "cameras with stamps of another clock"}


def test_tracks_have_the_stamp_frame_id_and_pixels_of_their_images(client: ClientNode) -> None:
    arrays = client.collect(msg.GroundedTrackArray, "/robot/tracks")
    answers = client.collect(msg.Answer, "/robot/grounding/answers")
    events = client.collect(msg.GroundedEvent, "/robot/events")
    overlays = client.collect(CompressedImage, "/robot/grounding/overlay/front/compressed", 1)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    with process(
        RED_BOX_NODE, "--ros-args", "-r", "__ns:=/robot",
        "-p", """queries:=['{"text": "the red box", "task": "STVG"}']""",
        "-p", "default_period:=0.5", "-p", "track_rate:=0.0",  # the model's boxes only
        "-p", "max_frame_rate:=0.0", "-p", "history:=0.0",
        "--params-file", HERE / "two_cameras.yaml",
    ):  # fmt: skip
        cameras = Cameras(client)

        def is_complete() -> bool:
            done = {t.camera for a in list(arrays) for t in a.tracks if len(t.tube) >= 8}
            return done == {"front", "wrist"} and bool(events) and bool(overlays)

        client.publish_until(
            cameras.publish_image, is_complete, "tracks of both cameras, events and an overlay"
        )
        client.wait(lambda: "front, wrist" in other_clocks(diagnostics), "cameras in 1970")

    tolerance = {"front": 0.01, "wrist": max(STEP_X, STEP_Y)}  # JPEG blurs the edges
    for array in arrays:
        for track in array.tracks:
            assert array.camera == track.camera
            assert track.header.frame_id == f"{track.camera}_optical"
            assert array.header.frame_id == track.header.frame_id
            assert (track.image_width, track.image_height) == (WIDTH, HEIGHT)
            assert (track.query_id, track.label) == ("q1", "the red box")
            assert track.state == msg.GroundedTrack.GROUNDED
            assert track.header.stamp == track.tube[-1].stamp
            assert stamp_from_msg(array.header.stamp) >= stamp_from_msg(track.header.stamp)
            assert track.box == track.tube[-1].box
            for grounded in track.tube:
                box = grounded.box
                expected = cameras.boxes[stamp_from_msg(grounded.stamp)]
                found = (box.x_min, box.y_min, box.x_max, box.y_max)
                assert found == pytest.approx(expected, abs=tolerance[track.camera])
    assert len({(t.camera, t.track_id) for a in arrays for t in a.tracks}) == 2
    for answer in answers:
        assert stamp_from_msg(answer.header.stamp) in cameras.boxes
        assert answer.header.stamp == answer.window_end
        assert answer.query.text == "the red box"
        assert "<HEIGHT-" in answer.text
        assert not answer.problems
    assert events[0].state == EventState.PROVISIONAL.value
    assert stamp_from_msg(events[0].start) in cameras.boxes
    for overlay in overlays:
        assert stamp_from_msg(overlay.header.stamp) in cameras.boxes
        assert overlay.header.frame_id == "front_optical"
        decoded = cv2.imdecode(np.frombuffer(overlay.data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("model", ["random_checkpoint", "random_engine"])
def test_llava_st_node_runs_a_model(
    client: ClientNode, model: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model)
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    answers = client.collect(msg.Answer, "grounding/answers")
    with process(
        "-m", "llava_st_ros.cli", "node", "--ros-args", "-p", f"model:={folder}",
        "-p", "queries:=[a ball]", "-p", "history:=0.0",
    ):  # fmt: skip
        camera, stamps = client.camera("image"), []

        def publish_image() -> None:
            stamps.append(START + len(stamps) * TENTH)
            camera.publish(image_message(red_box_image(10, 10, 40, 40), stamps[-1]))

        client.publish_until(publish_image, lambda: arrays and answers, "an answer")
    assert answers[0].query.text == "a ball"
    assert answers[0].camera == "camera"
    assert stamp_from_msg(answers[0].header.stamp) in stamps
    for grounded in answers[0].tube:
        assert stamp_from_msg(grounded.stamp) in stamps
        assert 0 <= grounded.box.x_min <= grounded.box.x_max <= WIDTH
        assert 0 <= grounded.box.y_min <= grounded.box.y_max <= HEIGHT


def non_blocking(path: str, flags: int) -> int:
    return os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC) | os.O_NONBLOCK)


def test_node_works_and_ends_while_nobody_reads_its_output(client: ClientNode) -> None:
    reader, writer = os.pipe()
    with subprocess.Popen([sys.executable, RED_BOX_NODE], stdout=writer, stderr=writer) as running:
        try:
            client.wait_log("active: images from /image")
            # Opened again: the node shares the flags of ``writer``.
            with open(f"/proc/self/fd/{writer}", "wb", 0, opener=non_blocking) as filler:
                while filler.write(b"filler"):
                    pass
            for text in ("the red box", "the ball"):  # each is logged
                request = srv.AddQuery.Request(query=msg.Query(text=text))
                assert client.call(srv.AddQuery, "grounding/add_query", request).success
                client.wait_log("added query", text)
            running.send_signal(signal.SIGINT)
            assert running.wait(TIMEOUT) == 0
        finally:
            running.kill()
            os.close(reader)
            os.close(writer)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("-p", "model:=/no/such/folder"), ("/no/such/folder",)),
        (("-p", "cameras:=['front=']"), ("cameras", "'front='")),
        (("-p", "min_confidence:=2.0"), ("min_confidence", "2.0")),
        (("-p", "queries:=['{\"text\": 3}']"), ("queries", "text is 3")),
    ],
)
def test_failed_start_prints_one_line_and_exits_with_2(
    domain: int, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    command = [sys.executable, str(SCRIPTS / "grounding_node"), "--ros-args", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    (line,) = (
        line for line in lines if "cannot configure" in line or line.startswith("grounding:")
    )
    for part in parts:
        assert part in line


def close_standard_files() -> None:
    for number in (0, 1, 2):
        os.close(number)


@pytest.mark.parametrize(
    "arguments", [("-m", "llava_st_ros.cli", "node"), (str(SCRIPTS / "grounding_node"),)]
)
def test_node_works_without_standard_files(client: ClientNode, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, preexec_fn=close_standard_files) as running:
        try:
            client.wait_log("active: images from /image")
            links = [os.readlink(f"/proc/{running.pid}/fd/{number}") for number in (0, 1, 2)]
            assert links == [os.devnull] * 3  # not a socket, into which the log would be written
            running.send_signal(signal.SIGTERM)
            assert running.wait(TIMEOUT) == 0
        finally:
            running.kill()


def test_nohup_is_respected(client: ClientNode) -> None:
    with process("-c", NOHUP, signals=(signal.SIGHUP, signal.SIGTERM)) as running:
        client.wait_log("active: images from /image")
        running.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.5)
