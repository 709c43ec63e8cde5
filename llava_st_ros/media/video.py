"""Video files as frames, read by PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
from av.format import ContainerFormat

from llava_st_ros.errors import DataError
from llava_st_ros.media.image_decoding import MAX_PIXELS
from llava_st_ros.media.video_reading import TOLERANCE, VideoReading, demux, reason
from llava_st_ros.records import Frame

# Lists of other files, some of them on a network, which FFmpeg would read or wait for without end.
_LISTS = {"concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest"}
# Terminal output and character graphics, for which FFmpeg takes any text.
_TEXTS = {"adf", "bintext", "idf", "tty", "xbin"}


class VideoSource:
    """A video file.

    Stamps are the container's presentation times, which need not start at 0. Frames are rotated
    as the container says. Nothing ends the reading before the end of the file: a frame that
    cannot be decoded is dropped and counted, and what was read is compared with what the
    container announces, by count or by duration.

    Args:
        path: The file. A name with a colon is a file too.
        camera: Camera and frame id of the frames.

    Attributes:
        concealed: Frames that the decoder returned although their data are damaged.
        missing: Frames that the container announces and that were not in the file.
        defects: What is lost or damaged, one line each; complete after an iteration.

    Raises:
        DataError: The file is not a video, or none of its frames can be decoded.
    """

    def __init__(self, path: str | Path, camera: str = "camera") -> None:
        self.path, self.camera, self.name = Path(path), camera, str(path)
        self._reset()
        with self._open() as (container, stream):
            self.length = stream.frames or _estimated_frames(container, stream)

    def _reset(self) -> None:
        self.dropped, self.problem = 0, ""
        self.concealed, self.missing = 0, 0
        self.defects: list[str] = []
        self._remarks: list[str] = []

    @property
    def notes(self) -> list[str]:
        """The defects, and what is unusual."""
        return [*self.defects, *self._remarks]

    @property
    def damage(self) -> str:
        """Why the footage is not what the container announces; empty if only a few frames lack.

        For training, in which a window stretched over what remains would teach wrong times.
        """
        if self.dropped:
            return f"{self.path}: frames that cannot be decoded: {self.dropped} ({self.problem})"
        tolerated = 1 if 0 < self.missing <= TOLERANCE else 0
        return next(iter(self.defects[tolerated:]), "")

    def stored_packets(self) -> int:
        """Count the packets of the video stream, those that an edit list leaves out included."""
        with self._open({"ignore_editlist": "1"}) as (container, stream):
            packets = demux(container, [])
            return sum(1 for p in packets if p.size and p.stream.index == stream.index)

    @contextmanager
    def _open(self, options: dict[str, str] | None = None) -> Iterator[tuple[Any, Any]]:
        if not self.path.is_file():
            if self.path.is_dir():
                raise DataError(
                    f"{self.path} is a folder; expected a video file", "use --images or --bag"
                )
            raise DataError(f"no file at {self.path}; expected a video file")
        with av.logging.Capture() as log:
            try:
                # The prefix: the part of a name before a colon is not a protocol.
                container = av.open(
                    f"file:{self.path}",
                    metadata_errors="replace",
                    options={"format_whitelist": _video_formats(), **(options or {})},
                )
            except (av.error.FFmpegError, ValueError, OSError, MemoryError) as error:
                why = reason(log, error)
                if "not on whitelist" in why:
                    why = "it is text, or a list of other files"
                raise DataError(
                    f"{self.path} cannot be opened as a video: {why}",
                    "convert it, for example to MP4",
                ) from error
        with container:
            yield container, self._stream(container)

    def _stream(self, container: Any) -> Any:
        stream = container.streams.best("video")
        if stream is None:
            raise DataError(f"{self.path} has no video stream; expected a video file")
        context = stream.codec_context
        if context is None:
            raise DataError(f"no decoder for the video stream of {self.path}", "convert it to MP4")
        if context.width * context.height > MAX_PIXELS:
            raise DataError(
                f"{self.path} has frames of {context.width}x{context.height} pixels; expected at "
                f"most {MAX_PIXELS / 1e6:g} million"
            )
        # One thread, so that an error belongs to the packet that caused it.
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        if context.codec.intra_only:
            # Each frame is independent: a damaged one is lost alone, and not shown half gray.
            context.options = {**context.options, "err_detect": "explode"}
        return stream

    def __iter__(self) -> Iterator[Frame]:
        self._reset()
        frames = 0
        with self._open() as (container, stream):
            reading = VideoReading(self.path, container, stream, self.stored_packets)
            try:
                for image, stamp in reading:
                    frames += 1
                    self.dropped, self.problem = reading.dropped, reading.problem
                    yield Frame(image, stamp, self.camera, self.camera)
            finally:
                self.dropped, self.problem = reading.dropped, reading.problem
                self.concealed = reading.concealed
                self.defects = reading.defects()
            self.missing = reading.missing(frames)
            if self.missing:
                self.defects.insert(0, reading.shortfall(frames, self.missing))
            self._remarks = reading.remarks()
        if not frames:
            reason = f" ({self.dropped} unreadable; last error: {self.problem})"
            raise DataError(f"{self.path} contains no frames{reason if self.dropped else ''}")


def _estimated_frames(container: Any, stream: Any) -> int | None:
    rate = stream.average_rate or stream.guessed_rate
    if stream.duration:
        seconds = stream.duration * stream.time_base
    elif container.duration:
        seconds = Fraction(container.duration, av.time_base)
    else:
        return None
    return round(seconds * rate) if rate else None


@lru_cache(maxsize=1)
def _video_formats() -> str:
    """FFmpeg's names of all formats but ``_LISTS`` and ``_TEXTS``, separated by commas."""
    names: set[str] = set()
    for name in av.formats_available:
        with contextlib.suppress(ValueError):  # a format that is only written
            names.update(ContainerFormat(name, "r").name.split(","))
    return ",".join(sorted(names - _LISTS - _TEXTS))
