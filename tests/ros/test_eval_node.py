"""``llava-st eval bag --node``: a real node process with the red-box backend, over DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from rosbags.rosbag2 import StoragePlugin, Writer

from llava_st_ros import srv
from llava_st_ros.annotations.annotation_file import annotation_path, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.evaluation.results import read_results
from llava_st_ros.records import NANOSECONDS, Box, Span, Task
from llava_st_ros.ros.node import GroundingNode
from support.bags import STORE
from support.paths import RED_BOX_NODE
from support.red_box_backend import HEIGHT, STEP_X, STEP_Y, WIDTH, red_box_image
from support.ros_client import TIMEOUT, ClientNode

pytestmark = pytest.mark.ros
TOPIC, KIND = "/front/image/compressed", "sensor_msgs/msg/CompressedImage"
START, STEP, FRAMES = 1_700_000_000 * NANOSECONDS, NANOSECONDS // 10, 30


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Three seconds of a red box that moves one raster step per frame, with its ground truth."""
    boxes = {}
    types = STORE.types
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection(TOPIC, KIND, typestore=STORE)
        for i in range(FRAMES):
            stamp, left = START + i * STEP, 5 + i
            image = cv2.cvtColor(red_box_image(left, 10, left + 40, 60), cv2.COLOR_RGB2BGR)
            time = types["builtin_interfaces/msg/Time"](*divmod(stamp, NANOSECONDS))
            header = types["std_msgs/msg/Header"](time, "optical")
            data = cv2.imencode(".png", image)[1].ravel()
            message = types[KIND](header, "png", data)
            writer.write(topic, stamp, STORE.serialize_cdr(message, KIND))
            boxes[stamp] = Box(
                left * STEP_X / WIDTH,
                10 * STEP_Y / HEIGHT,
                (left + 40) * STEP_X / WIDTH,
                60 * STEP_Y / HEIGHT,
            )
    item = AnnotatedObject("o", "the red box", TOPIC, boxes, frozenset(boxes))
    span = Span(min(boxes), max(boxes))
    queries = (
        AnnotatedQuery("red", "the red box", Task.REC, TOPIC, (span,), ("o",)),
        AnnotatedQuery("moves", "the red box moves", Task.STVG, TOPIC, (span,), ("o",)),
    )
    truth = GroundTruth((AnnotatedCamera(TOPIC, WIDTH, HEIGHT),), (item,), queries)
    write_annotations(annotation_path(tmp_path / "bag"), truth)
    return tmp_path / "bag"


def evaluate(bag: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llava_st_ros.cli", "eval", "bag", bag, *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False
    )


def test_running_node_is_scored_and_keeps_its_own_queries(
    client: ClientNode, bag: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, RED_BOX_NODE, "--ros-args", "-p", f"cameras:=['front={TOPIC}']"),
            *("-p", "queries:=[the ball]", "-p", "history:=0.0", "-p", "max_frame_rate:=0.0"),
        ]
    ) as node:
        try:
            client.wait_log(f"active: images from {TOPIC}")
            done = evaluate(bag, "--node", "--period", "0.2", "--out", tmp_path / "out")
            left = client.call(
                srv.ListQueries, "/grounding/list_queries", srv.ListQueries.Request()
            )
            node.terminate()
            node.wait(TIMEOUT)
        finally:
            node.kill()
    assert done.returncode == 0, done.stderr
    assert [query.text for query in left.queries] == ["the ball"]
    results = read_results(tmp_path / "out")
    assert (results.about["mode"], results.about["node"]) == ("bag, node", "/grounding")
    assert (results.about["model"], results.about["backend"]) == ("red-box", "red box")
    assert "model_sha256" not in results.about
    assert results.about["frames"] == FRAMES
    assert [case.id for case in results.cases] == [
        f"bag{TOPIC}/{name}" for name in ("red", "moves")
    ]
    for case in results.cases:  # exact detection: only the start, before a query is answered
        assert case.values["final_viou"] > 0.85, (case, results.dropped)
        assert case.values["live_viou"] > 0.6, (case, results.dropped)
    assert len(results.latency["stamp_to_answer"]) > 10
    assert "did not reach" not in " ".join(results.dropped)


def test_interrupted_evaluation_removes_its_queries(
    client: ClientNode, start_node: Callable[..., GroundingNode], bag: Path
) -> None:
    node = start_node(cameras=[f"front={TOPIC}"], queries=["the ball"])

    def texts() -> list[str]:
        request = srv.ListQueries.Request()
        listed = client.call(srv.ListQueries, "/grounding/list_queries", request)
        return [query.text for query in listed.queries]

    command = [sys.executable, "-m", "llava_st_ros.cli", "eval", "bag", str(bag), "--node"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            client.poll(lambda: len(texts()) == 3, "the queries of the evaluation")
            running.send_signal(signal.SIGINT)
            _, errors = running.communicate(timeout=TIMEOUT)
        finally:
            running.kill()
    assert running.returncode == 130, errors
    assert texts() == ["the ball"]
    assert node.image_topics == (TOPIC,)


def test_missing_node_is_one_line(domain: int, bag: Path) -> None:
    done = evaluate(bag, "--node", "other")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("playing")]
    assert len(lines) == 1 and "/other" in lines[0], done.stderr
    assert lines[0].endswith("grounding nodes that exist: none")


def test_arguments_of_a_model_are_rejected(bag: Path) -> None:
    done = evaluate(bag, "--node", "--workers", "2", "--history", "0.5")
    assert done.returncode == 2
    assert "--workers, --history cannot be used with --node" in done.stderr
