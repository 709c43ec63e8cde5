"""Recorded footage as frames: video files, image folders, single images and bags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from llava_st_ros.errors import ConfigError, DataError, FrameError
from llava_st_ros.files.limits import IMAGE_BYTES
from llava_st_ros.files.raw import read_bytes
from llava_st_ros.media.bags import Bag
from llava_st_ros.media.image_decoding import decode_compressed, decode_message
from llava_st_ros.media.image_sequence import natural_order
from llava_st_ros.media.video import VideoSource as VideoSource
from llava_st_ros.records import NANOSECONDS, Frame

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Source(Protocol):
    """Recorded footage, which can be iterated repeatedly and gives the same frames each time.

    Stamps are those of a bag's messages, which step back where the recording's clock did; the
    container's times for a video, and times from 0 on for images, both of which increase. Frames
    that cannot be decoded are dropped. DataError is raised if there is no readable frame at all.

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


class ImageFolderSource:
    """The images of a folder at ``fps`` frames per second, in the natural order of their names.

    Hidden files are ignored. Images are turned upright by their EXIF orientation.
    """

    def __init__(self, folder: str | Path, fps: float = 10.0, camera: str = "camera") -> None:
        self.folder, self.camera, self.name = Path(folder), camera, str(folder)
        self.dropped, self.problem = 0, ""
        if not self.folder.is_dir():
            raise DataError(f"no folder at {self.folder}")
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps is {fps}; expected a value in (0, 1000]")
        self._step = NANOSECONDS / fps
        found = {
            path.name: path
            for path in self.folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        }
        sequence = natural_order(list(found))
        self._paths = [found[name] for name in sequence.names]
        self.notes = list(sequence.notes)
        self._order_notes = sequence.notes
        self.length: int | None = len(self._paths)
        if not self._paths:
            raise DataError(
                f"{self.folder} contains no images"
                f" ({', '.join('*' + suffix for suffix in IMAGE_SUFFIXES)})"
            )

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, frames = 0, 0
        sizes: Counter[tuple[int, int]] = Counter()
        for index, path in enumerate(self._paths):
            try:
                image = decode_compressed(_read_bytes(path), upright=True)
            except FrameError as error:
                self.dropped, self.problem = self.dropped + 1, f"{path.name}: {error}"
                continue
            frames += 1
            sizes[image.shape[1], image.shape[0]] += 1
            yield Frame(image, round(index * self._step), self.camera, self.camera)
        self.notes = [*self._order_notes, *_size_notes(sizes)]
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
                image = decode_message(message.message)
                frame = Frame(image, stamp, camera, message.frame_id, arrival=message.recorded)
            except FrameError as error:
                self.dropped, self.problem = self.dropped + 1, str(error)
                continue
            frames += 1
            yield frame
        if messages < self.topic.messages:
            self.dropped += self.topic.messages - messages
            self.problem = self.notes[-1]
        _require_frames(frames, self)


def _size_notes(sizes: Counter[tuple[int, int]]) -> list[str]:
    if len(sizes) < 2:
        return []
    common = ", ".join(f"{count} of {w}x{h}" for (w, h), count in sizes.most_common(3))
    return [f"images of {len(sizes)} sizes: {common}" + ", ..." * (len(sizes) > 3)]


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():  # a pipe would be waited for, and /dev/zero has no end
        raise FrameError(f"{path} is not a file")
    return read_bytes(path, FrameError, max_bytes=IMAGE_BYTES)


def _require_frames(frames: int, source: Source) -> None:
    if not frames:
        reason = f" ({source.dropped} unreadable; last error: {source.problem})"
        raise DataError(f"no frame in {source.name}{reason if source.dropped else ''}")
