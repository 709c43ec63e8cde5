"""Bags with answers that are known: the figures are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.annotations.annotation_file import (
    annotation_path,
    read_annotations,
    write_annotations,
)
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.config import GrounderConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, BagOutcome, evaluate_bag
from llava_st_ros.records import NANOSECONDS, Box, Span, Task
from support.red_box_backend import HEIGHT, STEP_X, STEP_Y, WIDTH, red_box_backend, red_box_image

START, STEP, FRAMES = 1_700_000_000 * NANOSECONDS, NANOSECONDS // 5, 31  # 6 s
TOPIC = "/camera"


def write_bag(
    path: Path, storage: StoragePlugin, *, compressed: bool, halved_from: int = FRAMES
) -> Path:
    """A red rectangle moves right by a step of the raster with each frame.

    From frame ``halved_from`` on, the images have half the width and height.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
    image, header, time = (
        store.types[name] for name in (kind, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    boxes: dict[int, Box] = {}
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection(TOPIC, kind, typestore=store)
        for number in range(FRAMES):
            stamp = START + number * STEP
            pixels = red_box_image(number, 20, number + 30, 60)
            corners = (number * STEP_X, 20 * STEP_Y, (number + 30) * STEP_X, 60 * STEP_Y)
            boxes[stamp] = Box.from_pixels(corners, WIDTH, HEIGHT)
            head = header(time(stamp // NANOSECONDS, stamp % NANOSECONDS), "optical")
            if number >= halved_from:
                pixels = cv2.resize(pixels, (WIDTH // 2, HEIGHT // 2))
            if compressed:
                message = image(head, "png", cv2.imencode(".png", pixels[..., ::-1])[1].ravel())
            else:
                message = image(head, HEIGHT, WIDTH, "rgb8", 0, WIDTH * 3, pixels.ravel())
            writer.write(connection, stamp, store.serialize_cdr(message, kind))
    queries = (
        AnnotatedQuery(
            "all", "the red box", Task.REC, TOPIC, (Span(START, START + 30 * STEP),), ("o",)
        ),
        # Of 31 frames that the track covers, 16 are within the span.
        AnnotatedQuery(
            "half", "the box", Task.REC, TOPIC, (Span(START, START + 15 * STEP),), ("o",)
        ),
        AnnotatedQuery("none", "the dog", Task.REC, TOPIC),
    )
    item = AnnotatedObject("o", "box", TOPIC, boxes, frozenset(boxes))
    truth = GroundTruth((AnnotatedCamera(TOPIC, WIDTH, HEIGHT),), (item,), queries)
    write_annotations(annotation_path(path), truth)
    return path


def evaluate(path: Path, latency: str = "", track_rate: float = 60.0) -> BagOutcome:
    backend = red_box_backend()
    config = GrounderConfig(no_match_threshold=1.0)  # it is never "no match"
    job = BagJob(
        path.name,
        path,
        annotation_path(path),
        config=config,
        latency=latency,
        track_rate=track_rate,
    )
    return evaluate_bag(job, backend, backend.tokenizer)


def test_carried_boxes_are_known_at_each_frame_and_repeat(tmp_path: Path) -> None:
    """Three queries of 0.5 s each: the box has moved by up to a quarter of its width meanwhile."""
    path = write_bag(tmp_path / "bag", StoragePlugin.MCAP, compressed=False)
    held, carried, again = (evaluate(path, "0.5", rate).cases[0] for rate in (0.0, 60.0, 60.0))
    assert carried.values["live_siou"] == pytest.approx(1.0, abs=0.02)
    assert held.values["live_siou"] < 0.8
    assert carried.values["final_viou"] == held.values["final_viou"]
    assert again == carried


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("compressed", [False, True])
def test_known_answers(tmp_path: Path, storage: StoragePlugin, compressed: bool) -> None:
    path = write_bag(tmp_path / "bag", storage, compressed=compressed)
    outcome = evaluate(path)
    assert (outcome.frames, outcome.seconds) == (FRAMES, pytest.approx(6.0))
    assert outcome.dropped == outcome.failures == ()
    every, half, none = outcome.cases
    assert [case.id for case in outcome.cases] == [
        f"bag/camera/{name}" for name in ("all", "half", "none")
    ]
    # The box moves linearly, and so does the track between the answers of each second.
    assert every.values["final_viou"] == pytest.approx(1.0, abs=1e-3)
    assert half.values["final_viou"] == pytest.approx(16 / 31, abs=1e-3)
    assert half.values["final_tiou"] == pytest.approx(16 / 31)
    # Two corners of the box, at the image's edge at first, are too few to carry it to four frames.
    assert none.counts["silent_ticks"][0] == 4
    # Answers at 0, 1, ..., 6 s, of three queries, and once more at the end of the bag.
    assert len(outcome.ledger) % 3 == 0 and len(outcome.ledger) // 3 in (7, 8)
    again = evaluate(path)
    assert (again.cases, again.ledger) == (outcome.cases, outcome.ledger)


def test_images_of_another_size_and_boxes_without_a_frame_are_named(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", StoragePlugin.MCAP, compressed=True, halved_from=20)
    truth = read_annotations(annotation_path(path))
    (item,) = truth.objects
    boxes = {**item.boxes, START + 1: item.boxes[START]}
    truth = replace(truth, objects=(replace(item, boxes=boxes),))
    write_annotations(annotation_path(path), truth)
    outcome = evaluate(path)
    sizes = f"{WIDTH // 2} x {HEIGHT // 2}, not {WIDTH} x {HEIGHT} as annotated"
    assert sum(f"11 frames are {sizes}" in line for line in outcome.dropped) == 1
    assert any("1 of 32 boxes have the stamp of no frame" in line for line in outcome.dropped)
    assert outcome.cases[0].values["final_viou"] > 0.9


def test_answers_that_take_time(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", StoragePlugin.MCAP, compressed=True)
    outcome = evaluate(path, latency="0.5")
    assert set(outcome.latency["answer"]) == {0.5}
    # Three queries keep the worker busy for longer than their period.
    assert any("due evaluations missed, worker busy" in line for line in outcome.dropped)
    assert outcome.cases[0].values["live_viou"] < evaluate(path).cases[0].values["live_viou"]
    assert evaluate(path, latency="0.5").cases == outcome.cases
