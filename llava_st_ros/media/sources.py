"""Recorded footage as frames: video files, image folders, single images, bags.

A source can be iterated more than once and gives the same frames each time. ``length`` is the
expected number of frames for a progress bar, None where the container does not say. Frames that
can't be decoded are left out and counted in ``dropped`` (``problem`` is the last one's error);
DataError is raised where nothing can be read at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from llava_st_ros.errors import ConfigError, DataError, FrameError
from llava_st_ros.media.bags import Bag, ImageMessage
from llava_st_ros.media.image_decoding import decode_compressed, decode_raw
from llava_st_ros.records import NANOSECONDS, Frame

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Source(Protocol):
    """Frames with rising stamps, in nanoseconds: of the header for a bag, else from 0."""

    name: str
    length: int | None
    dropped: int
    problem: str

    def __iter__(self) -> Iterator[Frame]: ...


class VideoSource:
    """A video file, through OpenCV; stamps are the container's times of presentation."""

    def __init__(self, path: str | Path, camera: str = "camera") -> None:
        self.path, self.camera, self.name = Path(path), camera, str(path)
        self.dropped, self.problem = 0, ""
        capture = self._open()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        if not self.path.is_file():
            raise DataError(f"no file {self.path}; expected a video file")
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise DataError(
                f"{self.path}, which OpenCV can't open as a video"
                "; expected a video of a common format",
                "convert it, for example to MP4",
            )
        return capture

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        step = round(NANOSECONDS / (rate if 0 < rate < 1000 else 30.0))
        last = -1
        try:
            while True:
                whole, image = capture.read()
                if not whole:
                    break
                stamp = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if stamp <= last:  # some containers give no times: fall back on the rate
                    stamp = last + step
                last = stamp
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp, self.camera, self.camera)
        finally:
            capture.release()
        if last < 0:
            raise DataError(f"no frame in {self.path}; expected at least one")


class ImageFolderSource:
    """The images of a folder, sorted by name, ``fps`` of them a second."""

    def __init__(self, folder: str | Path, fps: float = 10.0, camera: str = "camera") -> None:
        self.folder, self.camera, self.name = Path(folder), camera, str(folder)
        self.dropped, self.problem = 0, ""
        if not self.folder.is_dir():
            raise DataError(f"no folder {self.folder}; expected a folder of images")
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps {fps}; expected a rate in (0, 1000] images per second")
        self._step = NANOSECONDS / fps
        self._paths = sorted(
            path for path in self.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        )
        self.length: int | None = len(self._paths)
        if not self._paths:
            raise DataError(
                f"no image in {self.folder}"
                f"; expected files named {', '.join('*' + s for s in IMAGE_SUFFIXES)}",
            )

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, given = 0, 0
        for index, path in enumerate(self._paths):
            try:
                image = decode_compressed(_bytes(path))
            except FrameError as error:
                self.dropped, self.problem = self.dropped + 1, f"{path.name}: {error}"
                continue
            given += 1
            yield Frame(image, round(index * self._step), self.camera, self.camera)
        _require_some(given, self)


class ImageSource:
    """A single image file, with stamp 0."""

    def __init__(self, path: str | Path, camera: str = "camera") -> None:
        self.path, self.camera, self.name = Path(path), camera, str(path)
        self.length: int | None = 1
        self.dropped, self.problem = 0, ""
        if not self.path.is_file():
            raise DataError(f"no file {self.path}; expected an image file")

    def __iter__(self) -> Iterator[Frame]:
        try:
            image = decode_compressed(_bytes(self.path))
        except FrameError as error:
            raise DataError(f"{self.path}: {error}") from error
        yield Frame(image, 0, self.camera, self.camera)


class BagSource:
    """An image topic of a rosbag2 recording; stamps and frame_id are the messages' own."""

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self.bag = Bag(path)
        self.topic = self.bag.image_topic(topic)
        self.name = f"{path} {self.topic.name}"
        self.length: int | None = self.topic.messages
        self.dropped, self.problem = 0, ""

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, given = 0, 0
        for message in self.bag.images(self.topic):
            try:
                frame = Frame(
                    decode(message), message.stamp, self.topic.name.strip("/"), message.frame_id
                )
            except FrameError as error:
                self.dropped, self.problem = self.dropped + 1, str(error)
                continue
            given += 1
            yield frame
        _require_some(given, self)


def decode(image: ImageMessage) -> np.ndarray:
    """The pixels of a bag's message: RGB uint8 [H, W, 3]; FrameError where they can't be read."""
    message = image.message
    if image.type.endswith("CompressedImage"):
        return decode_compressed(message.data, message.format)
    return decode_raw(message.encoding, message.height, message.width, message.step, message.data)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: {error.strerror}; expected a readable file") from error


def _require_some(given: int, source: Source) -> None:
    if not given:
        reason = f" ({source.dropped} unreadable, the last: {source.problem})"
        raise DataError(
            f"no frame in {source.name}{reason if source.dropped else ''}; expected at least one",
        )
