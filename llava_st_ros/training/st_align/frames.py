"""The images and video frames of ST-Align records, sampled and resized for the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.errors import DataError
from llava_st_ros.files.array_files import map_array
from llava_st_ros.media.sources import ImageFolderSource, ImageSource, Source, VideoSource
from llava_st_ros.records import Frame, Modality
from llava_st_ros.training.st_align.format import Record


@dataclass(frozen=True)
class SampledFrames:
    """The frames of a window, each stored once: a video shorter than the window repeats frames.

    Attributes:
        images: RGB, uint8 [n, S, S, 3].
        indices: int64 [F]: frame i of the window is ``images[indices[i]]``; [0] for an image.
        notes: What is unusual in the media, one line each.
    """

    images: np.ndarray
    indices: np.ndarray
    notes: tuple[str, ...] = ()


def read_frames(record: Record, num_frames: int, size: int) -> SampledFrames:
    """Read a record's image, or ``num_frames`` of its video's frames, resized to ``size`` px.

    A video is a video file, a folder of images or a ``.npy`` array (uint8 [F, H, W, 3]). A video
    file must contain what its container announces: the window would be stretched over the rest.

    Raises:
        DataError: The media are missing, damaged or shorter than the record's split.
        FrameError: An image cannot be decoded.
    """
    path = Path(record.media)
    if record.modality is Modality.IMAGE:
        (frame,) = ImageSource(path)
        return SampledFrames(resize(frame.image, size, size)[None], np.zeros(1, np.int64))
    source: Source
    if path.suffix == ".npy":
        source = _ArraySource(path)
    else:
        source = ImageFolderSource(path) if path.is_dir() else VideoSource(path)
    return _sample(source, record, num_frames, size)


def frame_indices(first: int, last: int, num_frames: int) -> list[int]:
    """Spread a window evenly over frames first..last of a video, as the published code does.

    Halves are rounded to even, as by Python's ``round``.
    """
    steps = max(1, num_frames - 1)
    return [first + round(i / steps * (last - first)) for i in range(num_frames)]


def _sample(source: Source, record: Record, num_frames: int, size: int) -> SampledFrames:
    """Sample a window. If the container's frame count is wrong, sample again with the real one."""
    split = record.split
    length = source.length or 0
    for _ in range(2):
        first, last = split or (0, max(0, length - 1))
        indices = frame_indices(first, last, num_frames)
        selected, images_by_index, count = set(indices), {}, 0
        for frame in source:
            if count in selected:
                images_by_index[count] = resize(frame.image, size, size)
            count += 1
            if split and count > last:
                break
        damage = source.damage if isinstance(source, VideoSource) else ""
        if source.dropped and not damage:
            damage = (
                f"{record.media}: frames that cannot be decoded: {source.dropped} "
                f"({source.problem})"
            )
        if damage:
            raise DataError(damage)
        if split and count <= last:
            raise DataError(
                f"{record.media} has {count} frames; expected more than {last}, the last frame of "
                "the record's split"
            )
        if split or count == length:
            break
        length = count
    order = sorted(images_by_index)
    images = np.stack([images_by_index[index] for index in order])
    return SampledFrames(images, np.searchsorted(order, indices), tuple(source.notes))


class _ArraySource:
    """The frames of a .npy file as a Source; frame i has stamp i."""

    def __init__(self, path: Path) -> None:
        frames = map_array(path, DataError)
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise DataError(
                f"{path} is {frames.dtype} {list(frames.shape)}; expected uint8 [F, H, W, 3]"
            )
        self._frames, self.name = frames, str(path)
        self.length: int | None = len(frames)
        self.dropped, self.problem = 0, ""
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self._frames):
            yield Frame(image, index)
