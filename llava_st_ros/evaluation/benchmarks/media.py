"""The videos and images of benchmark samples, sampled as the model's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.benchmarks.folders import FolderIndex
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkQuery, MomentTruth, VideoTruth
from llava_st_ros.media.frame_sampling import FrameSample, sample_frames
from llava_st_ros.media.sources import ImageFolderSource, ImageSource, Source, VideoSource
from llava_st_ros.records import NANOSECONDS, Modality

FOLDER_FPS = 24.0  # of frames as images whose rate is not annotated: that of Charades_v1_rgb
# Containers and annotations count a few frames differently.
MISSING_FRAMES, MISSING_SHARE = 2, 0.01
SHAPE_TOLERANCE = 1.02  # of the ratio of width and height, which sizes in whole pixels change


@dataclass(frozen=True)
class Clip:
    """The frames that the model sees.

    Attributes:
        path: The video or image.
        images: RGB uint8 [S, S, 3], at the model's image size; short footage repeats images.
        frames: The number of each image in the video, from 0.
        stamps: The stamps (ns) of the video's frames up to the last of these, as of its container.
        notes: What is damaged or missing in the media, one line each.
    """

    path: Path
    images: tuple[np.ndarray, ...]
    frames: tuple[int, ...]
    stamps: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """The stamp (ns) of the first frame."""
        return self.stamps[0]

    def stamp(self, frame: int) -> int:
        """Return the stamp (ns) of a frame; after the last one the mean interval continues."""
        last = len(self.stamps) - 1
        if frame <= last:
            return self.stamps[max(0, frame)]
        return self.stamps[last] + (frame - last) * self.interval

    @property
    def interval(self) -> int:
        """The mean interval (ns) between frames; 0 for an image."""
        return round((self.stamps[-1] - self.start) / max(1, len(self.stamps) - 1))

    @property
    def fps(self) -> float:
        """The mean number of frames per second; 0 for an image."""
        return NANOSECONDS / self.interval if self.interval else 0.0

    @property
    def duration(self) -> int:
        """The time (ns) up to the end of the last frame, if the complete video was read."""
        return self.stamps[-1] - self.start + self.interval


class BenchmarkMedia:
    """Reads the media of samples below a folder. The latest clip is kept for the next sample.

    Args:
        folder: The media folder.
        num_frames: Frames in the model's window.
        size: The model's image size.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path, num_frames: int, size: int) -> None:
        self.index = FolderIndex(folder)
        self._num_frames = num_frames
        self._size = size
        self._latest: tuple[object, Clip] | None = None

    def clip(self, sample: BenchmarkQuery) -> Clip:
        """Return the sample's frames; the same object while the clip is the same.

        Raises:
            DataError: There is no such file, it is unreadable, or it lacks frames of the sample.
            FrameError: An image cannot be decoded.
        """
        key = clip_key(sample)
        if self._latest is None or self._latest[0] != key:
            self._latest = (key, self._read(sample, key[1]))
        return self._latest[1]

    def _read(self, sample: BenchmarkQuery, crop: tuple[int, int] | None) -> Clip:
        path = self.index.find(sample.media)
        if path is None:
            raise DataError(f"no {sample.media[0]} below {self.index.folder}")
        notes = []
        if path.name in self.index.ambiguous:
            notes.append(f"several files below {self.index.folder} have the name of {path}")
        resizer = _Resizer(self._size)
        if sample.query.task.modality is Modality.IMAGE:
            (frame,) = ImageSource(path)
            clip = Clip(path, (resizer(frame.image),), (0,), (0,))
        else:
            fps = sample.truth.fps if isinstance(sample.truth, VideoTruth) else None
            folder = path.is_dir()
            source = ImageFolderSource(path, fps or FOLDER_FPS) if folder else VideoSource(path)
            clip = _clip(path, source, sample_frames(source, self._num_frames, resizer, crop))
        if not isinstance(sample.truth, MomentTruth):
            annotated = sample.truth.width, sample.truth.height
            notes += _shape_notes(path, annotated, resizer.found)
        return replace(clip, notes=(*clip.notes, *notes))


class _Resizer:
    """Resizes images for the model, and keeps the size that the latest one had."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.found = (0, 0)  # width and height

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.found = image.shape[1], image.shape[0]
        return resize(image, self._size, self._size)


def _shape_notes(path: Path, annotated: tuple[int, int], found: tuple[int, int]) -> list[str]:
    """Note frames that are not shaped as annotated: rotated, cropped or another recording."""
    ratio = (found[0] * annotated[1]) / (found[1] * annotated[0])
    if 1 / SHAPE_TOLERANCE <= ratio <= SHAPE_TOLERANCE:
        return []
    return [
        f"{path} has frames of {found[0]}x{found[1]}, but its boxes are annotated on "
        f"{annotated[0]}x{annotated[1]}"
    ]


def require_some_media(folder: Path, samples: Sequence[BenchmarkQuery]) -> None:
    """Check that the media of any sample exist.

    Raises:
        DataError: There is no such folder, or it has none of them.
    """
    index = FolderIndex(folder)
    if not any(index.find(sample.media) for sample in samples):
        raise DataError(
            f"{folder} has the media of none of the {len(samples)} samples; the first would be "
            f"{samples[0].media[0]}"
        )


def clip_key(sample: BenchmarkQuery) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """Return the sample's media and its first and last frame in them; None for all frames.

    Samples of the same clip have the same key.
    """
    truth = sample.truth
    if not isinstance(truth, VideoTruth):
        return sample.media, None
    complete = None if truth.frames is None else (0, truth.frames - 1)
    return sample.media, truth.crop or complete


def _clip(path: Path, source: Source, sample: FrameSample) -> Clip:
    count = len(sample.stamps)
    missing = sample.indices[-1] - (count - 1)
    if not sample.images or missing > max(MISSING_FRAMES, MISSING_SHARE * count):
        raise DataError(
            f"{path} has {count} frames, but the sample needs frame {sample.indices[-1]}",
            "is it the original video, at its frame rate?",
        )
    notes = [f"{path}: {note}" for note in source.notes]
    if missing > 0:
        notes.append(f"{path} lacks the last {missing} frames of the sample")
    if source.dropped:
        notes.append(
            f"{path}: frames that cannot be decoded, after which frames are numbered too low: "
            f"{source.dropped} ({source.problem})"
        )
    last = max(sample.images)
    return Clip(
        path,
        tuple(sample.images[min(index, last)] for index in sample.indices),
        sample.indices,
        sample.stamps,
        tuple(notes),
    )
