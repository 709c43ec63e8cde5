"""Frames of recordings by stamp."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from llava_st_ros.evaluation.frame_readers import MissingFrame, NoFrames, RecordedFrames
from llava_st_ros.records import NANOSECONDS
from support.bags import START, STEP, TOPIC, image_message, images, pixels, write_recording


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_the_nearest_frames_are_read(tmp_path: Path, plugin: StoragePlugin) -> None:
    bag = write_recording(tmp_path / "bag", plugin, images(10))
    stamps = [START, START + 3 * STEP + 1000, START + 5 * STEP - 1000, START + 9 * STEP]
    found = RecordedFrames().read(str(bag), TOPIC, stamps, 320)
    assert list(found) == stamps
    for stamp, index in zip(stamps, (0, 3, 5, 9)):
        np.testing.assert_array_equal(found[stamp], pixels(index))


def test_frames_whose_stamps_are_not_in_order_are_found(tmp_path: Path) -> None:
    messages = [(START + i, image_message(i)) for i in (4, 0, 2, 1, 3)]
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, messages)
    wanted = [START + 2 * STEP, START + 4 * STEP]
    found = RecordedFrames().read(str(bag), "", wanted, 320)
    np.testing.assert_array_equal(found[wanted[0]], pixels(2))
    np.testing.assert_array_equal(found[wanted[1]], pixels(4))


def test_a_frame_too_far_away_is_missing(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(2))
    late = START + STEP + NANOSECONDS // 2
    found = RecordedFrames().read(str(bag), TOPIC, [late, late + 1], 320)
    assert isinstance(found[late], np.ndarray)
    assert found[late + 1] == MissingFrame("no frame within 0.5 s")


def test_images_are_reduced_to_the_width(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(1))
    image = RecordedFrames().read(str(bag), TOPIC, [START], 4)[START]
    assert isinstance(image, np.ndarray) and image.shape == (3, 4, 3)


def test_footage_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(1))
    (tmp_path / "broken.mcap").write_bytes(b"nothing")
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    reader = RecordedFrames((tmp_path,))
    for source, topic, words in (
        ("bag", "/other", "bag has no topic /other"),
        ("broken.mcap", "", "broken.mcap"),
        ("broken.mp4", "", "broken.mp4"),
        ("absent", "", "absent was not found"),
        ("a\0b", "", "was not found"),
        ("x" * 5000, "", "was not found"),
        ("", "", "was not found"),
    ):
        missing = reader.read(source, topic, [1], 320)[1]
        assert isinstance(missing, MissingFrame) and words in missing.reason, source
    assert NoFrames("why").read("bag", "", [1, 2], 320)[2] == MissingFrame("why")


def test_a_recording_that_was_moved_is_found_by_its_name(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(1))
    reader = RecordedFrames((tmp_path / "none", tmp_path))
    assert reader.find("/robot/recordings/bag") == bag
    assert reader.find("/robot/recordings/other") is None


def test_frames_of_a_video_are_read(tmp_path: Path) -> None:
    from llava_st_ros.media.overlay import VideoWriter

    with VideoWriter(tmp_path / "film.mp4", 10.0) as writer:
        for level in (0, 60, 120, 180, 240):
            writer.write(np.full((64, 96, 3), level, np.uint8))
    found = RecordedFrames((tmp_path,)).read("film.mp4", "", [0, 3 * NANOSECONDS // 10], 48)
    first, fourth = found.values()
    assert isinstance(first, np.ndarray) and isinstance(fourth, np.ndarray)
    assert first.shape == (32, 48, 3) and first.mean() < 20
    assert 160 < fourth.mean() < 200


def test_an_image_file_has_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert cv2.imwrite(str(path), image[..., ::-1])
    found = RecordedFrames().read(str(path), "", [0], 320)
    np.testing.assert_array_equal(found[0], image)
