"""The demo end to end with a small bag: real processes, real DDS, a random checkpoint."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.annotations.annotation_file import annotation_path, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.evaluation.results import read_results
from llava_st_ros.records import NANOSECONDS, Box, Span, Task
from support.paths import ROOT

pytest.importorskip("rclpy", reason="needs ROS 2: run under scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs this package's messages: make messages")

pytestmark = [pytest.mark.ros, pytest.mark.slow]

START, STEP, FRAMES = 1_700_000_000 * NANOSECONDS, NANOSECONDS // 10, 30


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a red square that crosses the image, with its ground truth."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/CompressedImage"
    image, header, time = (
        store.types[name] for name in (kind, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    folder = tmp_path_factory.mktemp("bag") / "bag"
    boxes: dict[int, Box] = {}
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/camera/image/compressed", kind, typestore=store)
        for i in range(FRAMES):
            stamp = START + i * STEP
            pixels = np.full((96, 128, 3), 90, np.uint8)
            pixels[40:60, 3 * i : 3 * i + 20] = (40, 40, 220)
            boxes[stamp] = Box(3 * i / 128, 40 / 96, (3 * i + 20) / 128, 60 / 96)
            data = cv2.imencode(".jpg", pixels)[1].ravel()
            at = time(stamp // NANOSECONDS, stamp % NANOSECONDS)
            message = image(header(at, "camera_optical"), "jpeg", data)
            writer.write(topic, stamp, store.serialize_cdr(message, kind))
    topic_name, span = "/camera/image/compressed", Span(START + 5 * STEP, START + 20 * STEP)
    item = AnnotatedObject("o", "the square", topic_name, boxes, frozenset(boxes))
    queries = tuple(
        AnnotatedQuery(f"q{i}", text, Task.STVG, topic_name, (span,), ("o",))
        for i, text in enumerate(("the red square moves", "a box", "the ball rolls"))
    )
    camera = AnnotatedCamera(topic_name, 128, 96)
    write_annotations(annotation_path(folder), GroundTruth((camera,), (item,), queries))
    return folder


def demo(bag: Path, out: Path, model: Path) -> subprocess.Popen[str]:
    options = {"--bag": bag, "--out": out, "--model": model}
    options["--history"] = "0.0"  # the bag is shorter than a window
    return subprocess.Popen(
        [sys.executable, "-m", "demo.run", *itertools.chain(*options.items())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive_processes(out: Path) -> list[str]:
    """Processes of this run that are alive: all have the run's log folder in the environment."""
    marked = f"ROS_LOG_DIR={(out / 'logs').resolve()}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marked in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:  # ended in the meantime, or of another user
            continue
    return found


@pytest.mark.parametrize("model", ["random_checkpoint", "random_engine"])
def test_demo_writes_tracks_images_and_scores(bag, tmp_path, model, request) -> None:
    run = demo(bag, tmp_path, request.getfixturevalue(model))
    output, errors = run.communicate(timeout=180)
    assert run.returncode == 0, output + errors
    assert "played 30 of 30 frames" in output
    results = read_results(tmp_path)
    assert results.about["frames"] == FRAMES
    assert [case.id for case in results.cases] == ["q0", "q1", "q2"]
    answers = results.latency["stamp_to_answer"]
    assert len(answers) >= 6 and all(0 < seconds < 60 for seconds in answers)
    rows = {row.metric: row for row in results.rows if row.task == "stream"}
    scored = [case.values["final_viou"] for case in results.cases]
    assert rows["final vIoU"].value == pytest.approx(sum(scored) / 3)
    assert {"live HOTA", "missed events", "Timeliness-F1 @5"} <= rows.keys()
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert f"report: {tmp_path / 'report.html'}" in output
    assert f"{rows['final vIoU'].value:.3f}" in output

    tracks = [json.loads(line) for line in (tmp_path / "tracks.jsonl").open()]
    assert {track["query_id"] for track in tracks} == {"q0", "q1", "q2"}
    stamps = {START + i * STEP for i in range(FRAMES)}
    for track in tracks:
        assert {row["stamp"] for row in track["tube"]} <= stamps  # unchanged, to the nanosecond
        assert track["frame_id"] == "camera_optical"
        assert (track["image_width"], track["image_height"]) == (128, 96)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").open()]
    assert events
    assert {event["start"] for event in events} | {event["end"] for event in events} <= stamps

    video = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).shape[2] == 3
    assert alive_processes(tmp_path) == []


def test_failed_node_is_reported_and_all_processes_end(bag, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    run = demo(bag, tmp_path / "out", tmp_path / "model")
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 1, output + errors
    assert errors.startswith("demo: the node")
    assert len(errors.strip().splitlines()) == 1
    assert alive_processes(tmp_path / "out") == []


def test_interrupted_demo_ends_all_processes(bag, tmp_path, random_checkpoint) -> None:
    run = demo(bag, tmp_path, random_checkpoint)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("played"):
            break
    assert len(alive_processes(tmp_path)) == 3  # proves that alive_processes finds them
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert alive_processes(tmp_path) == []


def test_missing_bag_is_reported_in_one_line(tmp_path, random_checkpoint) -> None:
    run = demo(tmp_path / "absent", tmp_path / "out", random_checkpoint)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2
    assert errors.startswith("demo: no bag at")
