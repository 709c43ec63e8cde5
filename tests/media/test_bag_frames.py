"""Random access to the frames of recordings of every storage format."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from llava_st_ros.errors import DataError, FrameError
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.bags import Bag, ImageMessage
from llava_st_ros.media.bags.bag import MessageLocation, Topic
from support.bags import (
    IMAGE,
    START,
    STEP,
    STORE,
    TOPIC,
    image_message,
    images,
    join_recordings,
    pixels,
    storage_file,
    write_mcap,
    write_recording,
)

COUNT = 20


def split(path: Path) -> Path:
    parts = [
        write_recording(path.with_name(f"part{n}"), StoragePlugin.MCAP, images(COUNT // 2, n))
        for n in (0, COUNT // 2)
    ]
    return join_recordings(path, parts)


RECORDINGS = {
    "mcap": lambda path: write_recording(path, StoragePlugin.MCAP, images(COUNT)),
    "mcap, small chunks": lambda path: write_mcap(path, images(COUNT)),
    "mcap without chunks": lambda path: write_mcap(path, images(COUNT), use_chunking=False),
    "sqlite3": lambda path: write_recording(path, StoragePlugin.SQLITE3, images(COUNT)),
    "compressed messages": lambda path: write_recording(
        path, StoragePlugin.SQLITE3, images(COUNT), compression=CompressionMode.MESSAGE
    ),
    "compressed file": lambda path: write_recording(
        path, StoragePlugin.SQLITE3, images(COUNT), compression=CompressionMode.FILE
    ),
    "two parts": split,
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_frames_are_read_in_any_order(tmp_path: Path, name: str) -> None:
    frames = BagFrames(Bag(RECORDINGS[name](tmp_path / "bag.mcap")))
    assert frames.stamps == ()
    calls: list[int] = []
    frames.read_index(lambda: calls.append(1))
    assert frames.stamps == tuple(START + n * STEP for n in range(COUNT))
    assert len(calls) == COUNT
    order = [*range(COUNT)] * 2
    random.Random(0).shuffle(order)
    for number in order:
        np.testing.assert_array_equal(frames.image(number), pixels(number))


def test_frames_are_ordered_by_stamp_and_repeated_stamps_counted(tmp_path: Path) -> None:
    stamped = [(0, 0), (1, 2), (2, 1), (3, 1), (4, 3)]  # image and stamp in the order of recording
    messages = [
        (START + n * STEP, image_message(image, START + stamp * STEP))
        for n, (image, stamp) in enumerate(stamped)
    ]
    frames = BagFrames(Bag(write_mcap(tmp_path / "a.mcap", messages)))
    frames.read_index()
    assert frames.stamps == tuple(START + n * STEP for n in range(4))
    assert frames.repeated == 1 and frames.dropped == 0
    for number, image in enumerate((0, 2, 1, 4)):
        np.testing.assert_array_equal(frames.image(number), pixels(image))


def test_messages_without_stamp_and_damaged_ones_are_counted(tmp_path: Path) -> None:
    messages = [
        (START, image_message(0)),
        (START + 1, image_message(1, stamp=0)),
        (START + 2, b"\x00\x01\x00\x00nothing"),
        (START + 3, image_message(3)),
    ]
    frames = BagFrames(Bag(write_mcap(tmp_path / "a.mcap", messages)))
    frames.read_index()
    assert frames.stamps == (START, START + 3 * STEP)
    assert frames.dropped == 2 and "is not a sensor_msgs/msg/Image" in frames.problem


def test_a_truncated_recording_is_indexed_as_far_as_it_is_readable(tmp_path: Path) -> None:
    file = write_mcap(tmp_path / "a.mcap", images(COUNT))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    frames = BagFrames(Bag(file))
    frames.read_index()
    count = len(frames.stamps)
    assert 0 < count < COUNT
    np.testing.assert_array_equal(frames.image(count - 1), pixels(count - 1))
    assert any("is truncated" in note for note in frames.notes)


def test_messages_of_a_damaged_chunk_are_counted(tmp_path: Path) -> None:
    file = write_mcap(tmp_path / "a.mcap", images(COUNT))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    frames = BagFrames(Bag(file))
    frames.read_index()
    assert 0 < frames.dropped == COUNT - len(frames.stamps)
    assert frames.problem == frames.notes[-1] and "messages are lost" in frames.problem


def test_no_frame_is_an_error(tmp_path: Path) -> None:
    messages = [(START, b"\x00\x01\x00\x00nothing")]
    with pytest.raises(DataError, match=f"no frame on {TOPIC}"):
        BagFrames(Bag(write_mcap(tmp_path / "a.mcap", messages))).read_index()


def test_a_file_that_is_damaged_after_indexing_is_an_error_of_the_frame(tmp_path: Path) -> None:
    file = storage_file(RECORDINGS["mcap"](tmp_path / "bag"))
    frames = BagFrames(Bag(file))
    frames.read_index()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(FrameError, match="cannot be read again"):
        frames.image(3)


def test_topics_of_one_bag_are_read_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        left, right = (writer.add_connection(n, IMAGE, typestore=STORE) for n in ("/l", "/r"))
        for n in range(COUNT):
            writer.write(left, START + n * STEP, image_message(n))
            writer.write(right, START + n * STEP, image_message(n + COUNT, START + n * STEP))
    bag, lock = Bag(path), threading.Lock()
    cameras = [BagFrames(bag, topic, lock) for topic in ("/l", "/r")]
    indexing = [threading.Thread(target=camera.read_index) for camera in cameras]
    for thread in indexing:
        thread.start()
    for thread in indexing:
        thread.join()
    for n in range(COUNT):
        for first, camera in zip((0, COUNT), cameras):
            np.testing.assert_array_equal(camera.image(n), pixels(n + first))


def test_the_bag_is_read_under_the_lock(tmp_path: Path) -> None:
    lock, held = threading.Lock(), []

    class LockedBag(Bag):
        def images(self, topic: Topic) -> Generator[ImageMessage, None, None]:
            for message in super().images(topic):
                held.append(lock.locked())
                yield message

        def image_at(self, topic: Topic, location: MessageLocation) -> ImageMessage:
            held.append(lock.locked())
            return super().image_at(topic, location)

    frames = BagFrames(LockedBag(write_mcap(tmp_path / "a.mcap", images(COUNT))), lock=lock)
    frames.read_index()
    frames.image(0)
    assert held == [True] * (COUNT + 1) and not lock.locked()


def test_several_threads_read_frames(tmp_path: Path) -> None:
    frames = BagFrames(Bag(RECORDINGS["mcap, small chunks"](tmp_path / "a.mcap")))
    frames.read_index()
    wrong: list[int] = []

    def read(seed: int) -> None:
        for number in random.Random(seed).choices(range(COUNT), k=50):
            if not np.array_equal(frames.image(number), pixels(number)):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
