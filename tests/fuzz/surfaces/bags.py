"""Damaged recordings: each message is read correctly, or its loss is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fuzz.mutations import mutate_bytes, mutate_json, truncate
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.errors import FrameError
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.bags import Bag
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import Frame

MESSAGES = 12
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


class Bags(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._bags: dict[str, tuple[Path, str]] = {}
        for name, plugin in STORAGES.items():
            bag = folder / f"original-{name}"
            _write(bag, plugin)
            (storage,) = [p.name for p in bag.iterdir() if p.suffix in (".mcap", ".db3")]
            self._bags[name] = bag, storage

    def make(self, rng: np.random.Generator) -> Case:
        name = sorted(self._bags)[int(rng.integers(len(self._bags)))]
        bag, storage = self._bags[name]
        kind = int(rng.integers(5))
        if kind == 0:
            metadata = yaml.safe_load((bag / "metadata.yaml").read_bytes())
            values, step = mutate_json(rng, metadata)
            content = json.dumps(values).encode()
            return Case((name, "metadata.yaml", content), f"{name}, metadata {step}")
        file = "metadata.yaml" if kind == 1 else storage
        change = truncate if kind == 2 else mutate_bytes
        content, step = change(rng, (bag / file).read_bytes())
        return Case((name, file, content), f"{name}, {file}: {step}")

    def check(self, data: Any) -> None:
        name, file, content = data
        original, _ = self._bags[name]
        bag = self.folder / "bag"
        shutil.rmtree(bag, ignore_errors=True)
        shutil.copytree(original, bag)
        (bag / file).write_bytes(content)
        source = BagSource(bag)
        frames = list(source)
        is_reported = source.dropped or source.notes
        if len(frames) < MESSAGES and not is_reported:
            raise WrongAcceptanceError(
                f"{len(frames)} of {MESSAGES} messages, and no loss is reported"
            )
        if len(frames) > MESSAGES:
            raise WrongAcceptanceError(f"{len(frames)} of {MESSAGES} messages")
        _compare_random_access(bag, frames)


def _compare_random_access(bag: Path, frames: list[Frame]) -> None:
    """Check that the frames are the same when they are read in another order."""
    expected: dict[int, np.ndarray] = {}
    for frame in frames:
        expected.setdefault(frame.stamp, frame.image)
    indexed = BagFrames(Bag(bag))
    indexed.read_index()
    for number in reversed(range(len(indexed.stamps))):
        stamp = indexed.stamps[number]
        try:
            image = indexed.image(number)
        except FrameError:  # its stamp is readable, its image is not
            continue
        if stamp not in expected or not np.array_equal(image, expected.pop(stamp)):
            raise WrongAcceptanceError(f"another image at {stamp} by random access")


def _write(path: Path, plugin: StoragePlugin) -> None:
    types = get_typestore(Stores.ROS2_JAZZY)
    header, time = types.types["std_msgs/msg/Header"], types.types["builtin_interfaces/msg/Time"]
    message_type = types.types["sensor_msgs/msg/CompressedImage"]
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    with Writer(path, version=9 if plugin is StoragePlugin.MCAP else 8, storage_plugin=plugin) as w:
        connection = w.add_connection(
            "/camera/image/compressed", message_type.__msgtype__, typestore=types
        )
        for index in range(MESSAGES):
            stamp = (1_700_000_000 + index) * 10**9
            jpeg = cv2.imencode(".jpg", np.roll(image, 2 * index, 1))[1].ravel()
            message = message_type(
                header=header(stamp=time(sec=stamp // 10**9, nanosec=0), frame_id="cam"),
                format="jpeg",
                data=jpeg,
            )
            w.write(connection, stamp, types.serialize_cdr(message, message_type.__msgtype__))


SURFACE = Bags
