"""Print the memory and time of the offline evaluation of a long bag.

scripts/with_ros python -m benchmarks.long_bag [--minutes 30] [--rate 15] [--period 10]
    [--model DIR] [--latency L] [--max-gigabytes 1.0]

The bag is written to a temporary folder: JPEG images of 640 x 480 pixels with a moving red box, one
query for its box and one that is never true. The memory is the peak of the process's resident set
above that after the model was loaded. The exit code is 1 if it is above ``--max-gigabytes``.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.annotations.annotation_file import annotation_path, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag
from llava_st_ros.records import NANOSECONDS, Box, Span, Task

WIDTH, HEIGHT, SIDE, STEPS = 640, 480, 80, 100
START, TOPIC = 1_700_000_000 * NANOSECONDS, "/camera/image/compressed"


def position(number: int) -> int:
    """Return the left edge of the box in a frame, in pixels."""
    return number % STEPS * (WIDTH - SIDE) // STEPS


def write_bag(path: Path, frames: int, rate: float) -> None:
    """Write the bag and its annotations."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    kind = types["sensor_msgs/msg/CompressedImage"]
    background = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)  # small files
    images = []
    for number in range(STEPS):
        image = background.copy()
        image[200 : 200 + SIDE, position(number) : position(number) + SIDE] = (10, 10, 230)
        images.append(cv2.imencode(".jpg", image)[1])
    boxes = {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, kind.__msgtype__, typestore=store)
        for number in range(frames):
            stamp = START + round(number * NANOSECONDS / rate)
            at = types["builtin_interfaces/msg/Time"](stamp // NANOSECONDS, stamp % NANOSECONDS)
            header = types["std_msgs/msg/Header"](at, "camera")
            message = kind(header=header, format="jpeg", data=images[number % STEPS])
            writer.write(connection, stamp, store.serialize_cdr(message, kind.__msgtype__))
            left = position(number)
            box = (left, 200, left + SIDE, 200 + SIDE)
            boxes[stamp] = Box.from_pixels(box, WIDTH, HEIGHT)
    span = Span(START, max(boxes))
    red = AnnotatedObject("red-box", "red box", TOPIC, boxes, frozenset(boxes))
    queries = (
        AnnotatedQuery("red", "the red box", Task.REC, TOPIC, (span,), ("red-box",)),
        AnnotatedQuery("dog", "the dog barks", Task.STVG, TOPIC),
    )
    camera = AnnotatedCamera(TOPIC, WIDTH, HEIGHT)
    write_annotations(annotation_path(path), GroundTruth((camera,), (red,), queries))


def peak_bytes() -> int:
    """Return the peak of the resident set until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=15.0, help="frames per second")
    parser.add_argument("--period", type=float, default=10.0, help="seconds between evaluations")
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--latency", default="", help="as of llava-st eval bag")
    parser.add_argument("--max-gigabytes", type=float, default=1.0)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "long"
        write_bag(bag, round(options.minutes * 60 * options.rate), options.rate)
        size = sum(path.stat().st_size for path in bag.iterdir())
        backend, tokenizer = load_backend(options.model or default_model(), threads=2)
        config = GrounderConfig(StreamConfig(history=HISTORY))
        job = BagJob(
            "long",
            bag,
            annotation_path(bag),
            config=config,
            period=options.period,
            latency=options.latency,
        )
        before, start = peak_bytes(), time.perf_counter()
        outcome = evaluate_bag(job, backend, tokenizer)
        seconds, used = time.perf_counter() - start, (peak_bytes() - before) / 1e9
    print(
        f"{outcome.frames} frames, {outcome.seconds / 60:.1f} min, bag of {size / 1e6:.0f} MB, "
        f"{len(outcome.ledger)} answers in {seconds:.1f} s"
    )
    print(
        f"memory: {before / 1e9:.3f} GB with the model, {used:.3f} GB above it at most "
        f"(at most {options.max_gigabytes:g} GB is expected)"
    )
    return int(used > options.max_gigabytes)


if __name__ == "__main__":
    sys.exit(main())
