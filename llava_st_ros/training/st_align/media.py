"""The pictures and videos of ST-Align's records, sampled and resized as the model is given them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.errors import DataError
from llava_st_ros.media.sources import ImageFolderSource, ImageSource, Source, VideoSource
from llava_st_ros.records import Modality
from llava_st_ros.training.st_align.format import Record

_REMEDY = "repair the file or take the record out"


@dataclass(frozen=True)
class Media:
    """``images`` uint8 [n, S, S, 3], each once; ``places`` int64 [F] says which of them is frame i
    of the window, or [0] for a picture. A video shorter than the window repeats frames."""

    images: np.ndarray
    places: np.ndarray


def read_media(record: Record, num_frames: int, size: int) -> Media:
    """Raises DataError (or FrameError) where the file is missing, damaged or too short."""
    path = Path(record.media)
    if record.modality is Modality.IMAGE:
        (frame,) = ImageSource(path)
        return Media(resize(frame.image, size, size)[None], np.zeros(1, np.int64))
    if path.suffix == ".npy":
        return _sampled(_array(path), record, num_frames, size)
    source: Source = ImageFolderSource(path) if path.is_dir() else VideoSource(path)
    return _sampled(source, record, num_frames, size)


def frame_indices(first: int, last: int, num_frames: int) -> list[int]:
    """The frames of a window over frames first..last of a video, as published.

    Halves are rounded to even, as Python does.
    """
    steps = max(1, num_frames - 1)
    return [first + round(i / steps * (last - first)) for i in range(num_frames)]


def _sampled(source: Source | _Array, record: Record, num_frames: int, size: int) -> Media:
    """Containers may lie about their length: the frames are counted, and taken anew if so."""
    split = record.split
    length = source.length or 0
    for _ in range(2):
        first, last = split or (0, max(0, length - 1))
        indices = frame_indices(first, last, num_frames)
        wanted, kept, count = set(indices), {}, 0
        for image in _images(source):
            if count in wanted:
                kept[count] = resize(image, size, size)
            count += 1
            if split and count > last:
                break
        if source.dropped:
            raise DataError(
                f"{record.media}: {source.dropped} frames that can't be decoded ({source.problem})"
                "; expected whole frames",
                _REMEDY,
            )
        if split and count <= last:
            raise DataError(
                f"{record.media}: {count} frames; expected more than {last}, as its split says",
                _REMEDY,
            )
        if split or count == length:
            break
        length = count
    order = sorted(kept)
    images = np.stack([kept[index] for index in order])
    return Media(images, np.searchsorted(order, indices))


class _Array:
    """Frames of a .npy file, with what a Source says of itself."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.length = frames, len(frames)
        self.dropped, self.problem = 0, ""


def _images(source: Source | _Array) -> Iterator[np.ndarray]:
    if isinstance(source, _Array):
        yield from source.frames
    else:
        yield from (frame.image for frame in source)


def _array(path: Path) -> _Array:
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: {error}; expected frames as numpy saves them", _REMEDY) from error
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise DataError(
            f"{path}: {frames.dtype} {list(frames.shape)}; expected uint8 [F, H, W, 3]", _REMEDY
        )
    return _Array(frames)
