"""Recorded footage as frames: video files, image folders, single images and bags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Recorded footage, which can be iterated repeatedly and gives the same frames each time.

    Stamps increase; they are header stamps for a bag and start at 0 otherwise. Frames that cannot
    be decoded are dropped. DataError is raised if there is no readable frame at all.

    Attributes:
        name: Name for reports.
        length: Expected number of frames, None if unknown.
        dropped: Number of frames dropped so far in the current iteration.
        problem: Error of the last dropped frame.
        notes: What is missing, reinterpreted or unusual in the footage, one line each; complete
            after an iteration.
    """

    name: str
    length: int | None
    dropped: int
    problem: str

    @property
    def notes(self) -> Sequence[str]: ...

    def __iter__(self) -> Iterator[Frame]: ...


class VideoSource:
    """A video file, read by OpenCV. Stamps are the container's presentation times."""

    def __init__(self, path: str | Path, camera: str = "camera") -> None:
        self.path, self.camera, self.name = Path(path), camera, str(path)
        self.dropped, self.problem = 0, ""
        self.notes: list[str] = []
        capture = self._open()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        if not self.path.is_file():
            raise DataError(f"no file at {self.path}; expected a video file")
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise DataError(
                f"OpenCV cannot open {self.path} as a video", "convert it, for example to MP4"
            )
        return capture

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        step = round(NANOSECONDS / (rate if 0 < rate < 1000 else 30.0))
        last = -1
        try:
            while True:
                success, image = capture.read()
                if not success:
                    break
                stamp = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if stamp <= last:  # the container has no times: use the frame rate
                    stamp = last + step
                last = stamp
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp, self.camera, self.camera)
        finally:
            capture.release()
        if last < 0:
            raise DataError(f"{self.path} contains no frames")


class ImageFolderSource:
    """The images of a folder, sorted by name, at ``fps`` frames per second."""

    def __init__(self, folder: str | Path, fps: float = 10.0, camera: str = "camera") -> None:
        self.folder, self.camera, self.name = Path(folder), camera, str(folder)
        self.dropped, self.problem = 0, ""
        self.notes: list[str] = []
        if not self.folder.is_dir():
            raise DataError(f"no folder at {self.folder}")
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps is {fps}; expected a value in (0, 1000]")
        self._step = NANOSECONDS / fps
        self._paths = sorted(
            path for path in self.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        )
        self.length: int | None = len(self._paths)
        if not self._paths:
            raise DataError(
                f"{self.folder} contains no images"
                f" ({', '.join('*' + suffix for suffix in IMAGE_SUFFIXES)})"
            )

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, frames = 0, 0
        for index, path in enumerate(self._paths):
            try:
                image = decode_compressed(_read_bytes(path), upright=True)
            except FrameError as error:
                self.dropped, self.problem = self.dropped + 1, f"{path.name}: {error}"
                continue
            frames += 1
            yield Frame(image, round(index * self._step), self.camera, self.camera)
        _require_frames(frames, self)


class ImageSource:
    """A single image file, with stamp 0."""

    def __init__(self, path: str | Path, camera: str = "camera") -> None:
        self.path, self.camera, self.name = Path(path), camera, str(path)
        self.length: int | None = 1
        self.dropped, self.problem = 0, ""
        self.notes: list[str] = []
        if not self.path.is_file():
            raise DataError(f"no file at {self.path}; expected an image file")

    def __iter__(self) -> Iterator[Frame]:
        try:
            image = decode_compressed(_read_bytes(self.path), upright=True)
        except FrameError as error:
            raise DataError(f"{self.path}: {error}") from error
        yield Frame(image, 0, self.camera, self.camera)


class BagSource:
    """An image topic of a rosbag2 recording, with the messages' stamps and frame ids.

    Stamps are the headers', and a message without one is dropped as by the node; or, if the
    topic's first messages have none, the times of recording for all of them.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self.bag = Bag(path)
        self.topic = self.bag.image_topic(topic)
        self.name = f"{path} {self.topic.name}"
        self.length: int | None = self.topic.messages
        self.dropped, self.problem = 0, ""

    @property
    def notes(self) -> list[str]:
        """The bag's notes."""
        return self.bag.notes

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, frames, messages = 0, 0, 0
        camera = self.topic.name.strip("/")
        for message in self.bag.images(self.topic):
            messages += 1
            try:
                stamp = message.stamp  # before the image is decoded in vain
                frame = Frame(
                    decode(message), stamp, camera, message.frame_id, arrival=message.recorded
                )
            except FrameError as error:
                self.dropped, self.problem = self.dropped + 1, str(error)
                continue
            frames += 1
            yield frame
        if messages < self.topic.messages:
            self.dropped += self.topic.messages - messages
            self.problem = self.notes[-1]
        _require_frames(frames, self)


def decode(image: ImageMessage) -> np.ndarray:
    """Decode a bag's message to RGB uint8 [H, W, 3]. Raises FrameError."""
    message = image.message
    if image.type.endswith("CompressedImage"):
        return decode_compressed(message.data, message.format)
    return decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        is_bigendian=bool(message.is_bigendian),
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror}") from error


def _require_frames(frames: int, source: Source) -> None:
    if not frames:
        reason = f" ({source.dropped} unreadable; last error: {source.problem})"
        raise DataError(f"no frame in {source.name}{reason if source.dropped else ''}")
