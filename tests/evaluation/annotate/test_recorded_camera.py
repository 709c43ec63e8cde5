"""Cameras of a bag as the page shows them: their size, what is missing, frames as JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.errors import FrameError
from llava_st_ros.evaluation.annotate import recorded_camera
from llava_st_ros.evaluation.annotate.recorded_camera import RecordedCamera
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.bags import Bag
from support.bags import IMAGE, START, STEP, STORE, TOPIC, image_message, images, write_mcap


class CountedFrames(BagFrames):
    """Counts the frames that are decoded."""

    decoded = 0

    def image(self, number: int) -> np.ndarray:
        self.decoded += 1
        return super().image(number)


def short_message(index: int) -> bytes:
    """An image with fewer pixels than its height and width need."""
    stamp = START + index * STEP
    time = STORE.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    header = STORE.types["std_msgs/msg/Header"](time, "cam")
    image = STORE.types[IMAGE](header, 600, 8, "rgb8", 0, 24, np.zeros(48, np.uint8))
    return bytes(STORE.serialize_cdr(image, IMAGE))


def test_the_size_is_that_of_the_first_frame_that_can_be_decoded(tmp_path: Path) -> None:
    messages = [(START, short_message(0)), *images(3, 1), (START + 9 * STEP, image_message(2))]
    lines: list[str] = []
    camera = RecordedCamera(BagFrames(Bag(write_mcap(tmp_path / "a.mcap", messages))), lines.append)
    camera.wait()
    recording = camera.progress.recording
    assert recording is not None and (recording.width, recording.height) == (8, 6)
    assert (camera.progress.read, camera.progress.total) == (5, 5)
    repeated = f"1 frames on {TOPIC} repeat the stamp of another one and are not shown"
    assert lines == list(recording.losses) == [repeated]


def test_a_recording_without_a_frame_that_can_be_decoded_is_a_problem(tmp_path: Path) -> None:
    messages = [(START + n * STEP, short_message(n)) for n in range(2)]
    lines: list[str] = []
    camera = RecordedCamera(BagFrames(Bag(write_mcap(tmp_path / "a.mcap", messages))), lines.append)
    camera.wait()
    assert camera.progress.recording is None and lines == [camera.progress.problem]
    assert camera.progress.problem.startswith("the first 2 frames cannot be decoded: ")
    with pytest.raises(FrameError, match="there is no frame 0"):
        camera.jpeg(0)


def test_encoded_frames_are_cached_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = CountedFrames(Bag(write_mcap(tmp_path / "a.mcap", images(4))))
    camera = RecordedCamera(frames, print)
    camera.wait()
    frames.decoded = 0
    first = camera.jpeg(0)
    assert camera.jpeg(0) == first and frames.decoded == 1
    size = max(len(first), len(camera.jpeg(1)))
    monkeypatch.setattr(recorded_camera, "CACHE_BYTES", 3 * size)
    assert [camera.jpeg(number) for number in (2, 0)][1] == first and frames.decoded == 3
    camera.jpeg(3)  # in place of frame 1, which was not used for the longest time
    assert camera.jpeg(0) == first and frames.decoded == 4
    camera.jpeg(1)
    assert frames.decoded == 5
