"""The images and video frames of ST-Align records, sampled and resized for the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.errors import DataError
from llava_st_ros.files.array_files import map_array
from llava_st_ros.media.frame_sampling import sample_frames
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


def _sample(source: Source, record: Record, num_frames: int, size: int) -> SampledFrames:
    split = record.split
    sample = sample_frames(source, num_frames, partial(resize, height=size, width=size), crop=split)
    damage = source.damage if isinstance(source, VideoSource) else ""
    if source.dropped and not damage:
        damage = (
            f"{record.media}: frames that cannot be decoded: {source.dropped} ({source.problem})"
        )
    if damage:
        raise DataError(damage)
    if split and len(sample.stamps) <= split[1]:
        raise DataError(
            f"{record.media} has {len(sample.stamps)} frames; expected more than {split[1]}, the "
            "last frame of the record's split"
        )
    order = sorted(sample.images)
    images = np.stack([sample.images[index] for index in order])
    return SampledFrames(images, np.searchsorted(order, sample.indices), tuple(source.notes))


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
