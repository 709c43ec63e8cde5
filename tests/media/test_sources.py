"""Sources: video files, folders, bags of both storages, and corrupt files."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.media.sources import (
    BagSource,
    ImageFolderSource,
    ImageSource,
    VideoSource,
)
from llava_st_ros.records import NANOSECONDS
from support.bags import STORE


def picture(index: int) -> np.ndarray:
    """RGB [48, 64, 3], plain except for a square whose position encodes the index."""
    image = np.full((48, 64, 3), (30, 90, 150), np.uint8)
    image[8:24, 8 * index : 8 * index + 8] = (220, 40, 40)
    return image


def write_bag(path: Path, plugin: StoragePlugin, *, truncated: tuple[int, ...] = ()) -> Path:
    """Three raw bgr8 images with padded rows on /raw, three JPEGs on /camera/compressed."""
    types, time = STORE.types, STORE.types["builtin_interfaces/msg/Time"]
    header = types["std_msgs/msg/Header"]
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        raw = writer.add_connection("/raw", "sensor_msgs/msg/Image", typestore=STORE)
        small = writer.add_connection(
            "/camera/compressed", "sensor_msgs/msg/CompressedImage", typestore=STORE
        )
        text = writer.add_connection("/note", "std_msgs/msg/String", typestore=STORE)
        note = types["std_msgs/msg/String"]("x")
        writer.write(text, 1, STORE.serialize_cdr(note, "std_msgs/msg/String"))
        for i in range(3):
            recorded = (100 + i) * NANOSECONDS
            padded = np.zeros((48, 64 * 3 + 4), np.uint8)
            padded[:, :-4] = picture(i)[..., ::-1].reshape(48, -1)
            image = types["sensor_msgs/msg/Image"](
                header(time(50, i * 100), "cam_optical"), 48, 64, "bgr8", 0, 196, padded.ravel()
            )
            writer.write(raw, recorded, STORE.serialize_cdr(image, "sensor_msgs/msg/Image"))
            data = cv2.imencode(".jpg", picture(i)[..., ::-1])[1].ravel()
            if i in truncated:
                data = data[:-40]
            jpeg = types["sensor_msgs/msg/CompressedImage"](
                header(time(0, 0), "cam_optical"), "jpeg", data
            )
            writer.write(
                small, recorded, STORE.serialize_cdr(jpeg, "sensor_msgs/msg/CompressedImage")
            )
    return path


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_bag_yields_images_with_header_stamps(tmp_path: Path, plugin) -> None:
    source = BagSource(write_bag(tmp_path / "bag", plugin), "raw")  # the leading slash is optional
    frames = list(source)
    assert source.length == len(frames) == 3
    assert [f.stamp for f in frames] == [50 * NANOSECONDS + i * 100 for i in range(3)]
    assert {f.frame_id for f in frames} == {"cam_optical"}
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(i))
    assert [f.stamp for f in source] == [f.stamp for f in frames]  # it can be read again


def test_bag_images_are_decoded_by_encoding_and_byte_order(tmp_path: Path) -> None:
    time, header = STORE.types["builtin_interfaces/msg/Time"], STORE.types["std_msgs/msg/Header"]
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (6, 8), np.uint16)
    yuyv = rng.integers(0, 256, (6, 16), np.uint8)
    images = [("mono16", 16, True, values.astype(">u2")), ("yuv422_yuy2", 16, False, yuyv)]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/raw", "sensor_msgs/msg/Image", typestore=STORE)
        for stamp, (encoding, step, is_bigendian, data) in enumerate(images, start=1):
            message = STORE.types["sensor_msgs/msg/Image"](
                header(time(stamp, 0), ""), 6, 8, encoding, is_bigendian, step,
                data.view(np.uint8).ravel(),
            )  # fmt: skip
            writer.write(topic, stamp, STORE.serialize_cdr(message, "sensor_msgs/msg/Image"))
    gray, color = (frame.image for frame in BagSource(tmp_path / "bag"))
    np.testing.assert_array_equal(gray[..., 1], np.rint(values * (255 / 65535)).astype(np.uint8))
    np.testing.assert_array_equal(
        color, cv2.cvtColor(yuyv.reshape(6, 8, 2), cv2.COLOR_YUV2RGB_YUY2)
    )


def test_images_without_header_stamp_use_the_recording_time(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP, truncated=(1,))
    source = BagSource(bag, "/camera/compressed")
    frames = list(source)
    assert [f.stamp // NANOSECONDS for f in frames] == [100, 102]
    assert source.dropped == 1
    assert "truncated" in source.problem
    assert np.abs(frames[1].image.astype(int) - picture(2)).mean() < 6


def test_single_storage_file_is_a_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP)
    (file,) = bag.glob("*.mcap")
    assert len(list(BagSource(file, "/raw"))) == 3


def test_unknown_topic_error_lists_the_image_topics(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP)
    for name in ("/image", None, "/note"):
        with pytest.raises(DataError, match=r"/raw .*/camera/compressed.*--topic"):
            BagSource(bag, name)


def test_missing_bag_and_other_folders_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no bag at"):
        BagSource(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no .mcap or .db3 file; there is no file .*metadata.yaml"):
        BagSource(tmp_path)


def test_bag_with_only_truncated_images_has_no_frame(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP, truncated=(0, 1, 2))
    with pytest.raises(DataError, match=r"no frame in .*3 unreadable.*truncated"):
        list(BagSource(bag, "/camera/compressed"))


def test_image_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), picture(i)[..., ::-1])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "003.jpg").write_bytes(b"no image either")
    source = ImageFolderSource(tmp_path, fps=4)
    frames = list(source)
    assert [f.stamp for f in frames] == [0, NANOSECONDS // 4, NANOSECONDS // 2]
    np.testing.assert_array_equal(frames[2].image, picture(2))
    assert source.dropped == 1
    assert "003.jpg" in source.problem


def test_image_folder_order_gaps_and_sizes_are_noted(tmp_path: Path) -> None:
    for i in (1, 2, 3, 10):
        size = (64, 48) if i != 3 else (32, 24)
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((*size[::-1], 3), i * 20, np.uint8))
    (tmp_path / "._1.png").write_bytes(b"\0\5\x16\7")  # macOS stores attributes so
    source = ImageFolderSource(tmp_path)
    for _ in range(2):
        assert [int(frame.image[0, 0, 0]) for frame in source] == [20, 40, 60, 200]
        notes = " | ".join(source.notes)
        assert "numbers of different widths: images are ordered by number" in notes
        assert "6 numbers are missing, the first after 3.png" in notes
        assert "images of 2 sizes: 3 of 64x48, 1 of 32x24" in notes
        assert len(source.notes) == 3
    assert source.dropped == 0


def test_unreadable_files_are_rejected(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for make in (
        lambda: VideoSource(tmp_path / "absent.mp4"),
        lambda: VideoSource(text),
        lambda: ImageFolderSource(tmp_path / "absent"),
        lambda: ImageFolderSource(tmp_path),
        lambda: ImageSource(tmp_path / "absent.png"),
        lambda: list(ImageSource(text)),
    ):
        with pytest.raises(DataError) as caught:
            make()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="fps"):
        ImageFolderSource(tmp_path, fps=0)


def test_what_is_no_file_in_an_image_folder_is_dropped_and_not_waited_for(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), picture(1))
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    (tmp_path / "4.png").symlink_to("4.png")
    (tmp_path / "5.png").mkdir()
    source = ImageFolderSource(tmp_path)
    assert len(list(source)) == 1
    assert source.dropped == 4 and "5.png is not a file" in source.problem


def test_folder_in_place_of_a_file_is_rejected_with_the_expected_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a video file"):
        VideoSource(tmp_path)
    with pytest.raises(DataError, match="expected an image file"):
        ImageSource(tmp_path)
