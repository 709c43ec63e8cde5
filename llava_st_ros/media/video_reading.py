"""One pass over a video: frames with the container's own times, and every loss counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from llava_st_ros.errors import reason_of
from llava_st_ros.records import NANOSECONDS

TOLERANCE = 3  # frames by which a container's count or duration may be wrong

_DEFAULT_RATE = Fraction(30)
_MAX_RATE = 1000
_MAX_DEMUXER_ERRORS = 10  # in a row, after which the rest of the file is given up
# Containers that store a duration. In others, it is estimated from the data that are there.
_STORED_DURATION = {"mov", "mp4", "matroska", "webm", "flv", "asf"}
# Containers with edit lists: their frame count includes frames that are not to be shown.
_EDIT_LISTS = {"mov", "mp4"}
# A damaged header may be taken for another format, which announces nothing.
_CONTAINERS = {".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".mp4": "mp4", ".mov": "mov"}
_INVISIBLE_FRAMES = {"vp8"}  # codecs whose packets may be for reference only
_EVEN_SHARE = 0.9  # of intervals, above which frames count as evenly spaced
_DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")

# Damage that a decoder conceals is reported in FFmpeg's log only. PyAV is silent by default.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)


class VideoReading:
    """One pass over a video file: (image, stamp) of each frame, and the counts of what went wrong.

    Args:
        path: The file.
        container: PyAV's open container.
        stream: Its video stream.
        stored_packets: Counts the packets of the stream, those that an edit list leaves out
            included. Called at the end, and only if packets seem to be absent.

    Attributes:
        dropped: Frames that could not be decoded, or lack a part.
        problem: Why the last of them was dropped.
        concealed: Frames that the decoder returned although their data are damaged.
    """

    def __init__(
        self, path: Path, container: Any, stream: Any, stored_packets: Callable[[], int]
    ) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._stored_packets = stored_packets
        self._reformatter = VideoReformatter()  # kept: a new one for each frame takes longer
        self._formats = set(container.format.name.split(","))
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or _DEFAULT_RATE
        self._step = round(NANOSECONDS / (rate if 0 < rate <= _MAX_RATE else _DEFAULT_RATE))
        self._damaged: set[int] = set()  # presentation times of packets that lack bytes
        self._last: int | None = None
        self._packets = self._hidden = self._untimed = 0
        self._end: dict[int, Fraction] = {}  # last time of each stream, in seconds
        self._demuxer_errors: list[str] = []
        self._first_concealed = ""
        self._unapplied_rotation = 0
        self._short = 0  # frames by which the data end before the announced time, tolerated
        self._left_out = 0  # frames that an edit list hides
        self._skipped = 0  # frames that the container counts, at times that have no frame
        self._silent = 0  # packets without a frame, and without an error
        self._intervals: Counter[int] = Counter()
        self._longest = (0, 0)  # the longest interval and its start
        self.dropped, self.problem, self.concealed = 0, "", 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for packet in demux(self._container, self._demuxer_errors):
            self._note_end(packet)
            if packet.stream.index != self._stream.index:
                continue
            is_flush = packet.dts is None and not packet.size
            if not is_flush:
                self._packets += 1
                self._hidden += packet.is_discard
                if not packet.size:  # "show the last frame again", which the decoder cannot see
                    self._hidden += 1
                    continue
                if packet.is_corrupt and packet.pts is not None:
                    self._damaged.add(packet.pts)
            for frame in self._decode(packet):
                if frame.is_corrupt or frame.pts in self._damaged:
                    self._drop("a part of the frame is missing", frame)
                    continue
                yield self._rotated(frame), self._stamp(frame)

    def _note_end(self, packet: Any) -> None:
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None and packet.time_base:
            index = packet.stream.index
            end = (time + (packet.duration or 0)) * packet.time_base
            if not packet.duration and index == self._stream.index:
                end += Fraction(self._step, NANOSECONDS)
            self._end[index] = max(end, self._end.get(index, end))

    def _decode(self, packet: Any) -> Sequence[Any]:
        with av.logging.Capture() as log:
            try:
                frames: list[Any] = packet.decode()
            except av.error.EOFError:
                return ()
            except (av.error.FFmpegError, ValueError, MemoryError) as error:
                self._drop(reason(log, error), packet)
                return ()
        messages = _messages(log)
        if messages and not packet.is_corrupt:
            self.concealed += 1
            self._first_concealed = self._first_concealed or f"{_at(packet)}: {messages[0]}"
        return frames

    def _drop(self, problem: str, at: Any) -> None:
        self.dropped += 1
        self.problem = f"{_at(at)}: {problem}"

    def _stamp(self, frame: Any) -> int:
        last = self._last
        stamp = None
        if frame.pts is not None and frame.time_base:
            stamp = round(frame.pts * frame.time_base * NANOSECONDS)
        if stamp is None or (last is not None and stamp <= last):
            self._untimed += 1
            stamp = 0 if last is None else last + self._step
        elif last is not None:
            self._intervals[round((stamp - last) / 1e7)] += 1  # in units of 10 ms
            self._longest = max(self._longest, (stamp - last, last))
        self._last = stamp
        return stamp

    def _rotated(self, frame: Any) -> np.ndarray:
        image = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        turns, rest = divmod(round(frame.rotation), 90)
        if rest:
            self._unapplied_rotation = frame.rotation
            return image
        return np.ascontiguousarray(np.rot90(image, turns)) if turns % 4 else image

    def missing(self, frames: int) -> int:
        """The number of frames that are announced and absent, after ``frames`` were returned."""
        self._silent = max(0, self._packets - self._hidden - frames - self.dropped)
        lost = 0
        if self.dropped or self.concealed or self._demuxer_errors:
            # A decoder returns nothing until the next frame that it can predict from.
            lost, self._silent = self._silent, 0
        absent = max(0, self._stream.frames - self._packets)
        if self._formats & _EDIT_LISTS:
            left_out = absent + self._hidden
            absent = max(0, self._stream.frames - self._stored_packets()) if absent else 0
            self._left_out = left_out - absent
            absent = absent or self._missing_seconds_in_frames()
        elif self._stream.frames:
            span = self._span()
            if span <= self._stream.frames + 1:  # else times and count are not of one recording
                counted, absent = absent, min(absent, max(0, self._stream.frames - span))
                self._skipped = counted - absent
        else:
            absent = self._missing_seconds_in_frames()
        return lost + absent

    def _span(self) -> int:
        """The time from the start to the end of the data, in frames.

        An AVI counts frames that were skipped in recording, which the reader does not return.
        """
        start = (self._stream.start_time or 0) * self._stream.time_base
        end = self._end.get(self._stream.index, start)
        return round((end - start) * NANOSECONDS / self._step)

    def _missing_seconds_in_frames(self) -> int:
        expected = self._expected_end()
        if expected is None:
            return 0
        end, announced = expected
        frames = round((announced - end) * NANOSECONDS / self._step)
        if frames > TOLERANCE:
            return frames
        self._short = max(0, frames)
        return 0

    def _expected_end(self) -> tuple[Fraction, Fraction] | None:
        """The time at which the data end and the one that the container announces, in seconds."""
        stream = self._stream
        own = self._end.get(stream.index, Fraction(0))
        if not self._formats & _STORED_DURATION:
            return None
        if stream.duration is not None:
            return own, ((stream.start_time or 0) + stream.duration) * stream.time_base
        for key, value in stream.metadata.items():
            match = _DURATION_TAG.match(value) if key.upper().startswith("DURATION") else None
            if match:
                hours, minutes, seconds = (Fraction(part) for part in match.groups())
                return own, 3600 * hours + 60 * minutes + seconds
        if self._container.duration is None:
            return None
        # The duration of the longest stream, which may be another one.
        end = max(self._end.values(), default=Fraction(0))
        return end, Fraction(self._container.duration, av.time_base)

    def shortfall(self, frames: int, missing: int) -> str:
        """A line about missing frames."""
        announced = frames + missing + self.dropped
        end = float(self._end.get(self._stream.index, 0))
        return (
            f"{self._path} is truncated or damaged: {missing} of {announced} frames are "
            f"missing; {frames} were read, and the data end at {end:.2f} s"
        )

    def defects(self) -> list[str]:
        """Lines about damage, in the container and in frames."""
        lines = []
        if self._demuxer_errors:
            more = len(self._demuxer_errors) - 1
            lines.append(
                f"{self._path} is damaged: {self._demuxer_errors[0]}"
                + f" (and {more} more errors)" * (more > 0)
            )
        if self.concealed:
            lines.append(
                f"damaged frames that the decoder concealed: {self.concealed}, the first at "
                f"{self._first_concealed}; later ones may show it, up to the next key frame"
            )
        return lines

    def remarks(self) -> list[str]:
        """Lines about what is unusual but complete."""
        lines = []
        suffix = self._path.suffix.lower()
        if _CONTAINERS.get(suffix, suffix) not in {suffix, *self._formats}:
            lines.append(f"the file is read as {self._container.format.long_name}, not {suffix}")
        if self._left_out:
            lines.append(
                f"the container's edit list leaves out {self._left_out} of {self._stream.frames} "
                "frames"
            )
        if self._short:
            lines.append(
                f"the data end about {self._short} frames before the duration that the container "
                "announces"
            )
        if self._untimed:
            lines.append(
                f"frames whose time is absent or does not increase: {self._untimed}; they follow "
                f"the frame before them by {self._step / NANOSECONDS:.4f} s"
            )
        if self._silent and self._stream.codec_context.name not in _INVISIBLE_FRAMES:
            lines.append(f"parts of the video stream that gave no frame: {self._silent}")
        gaps = self._gaps()
        if self._skipped and not gaps:
            lines.append(
                f"the container counts {self._stream.frames} frames; {self._skipped} of them were "
                "skipped in recording, or are lost"
            )
        lines += gaps
        if self._unapplied_rotation:
            lines.append(f"a rotation by {self._unapplied_rotation} degrees was not applied")
        return lines

    def _gaps(self) -> list[str]:
        """A line about gaps between frames that are otherwise evenly spaced."""
        total = sum(self._intervals.values())
        usual = max(self._intervals, key=lambda i: self._intervals[i], default=0)
        # Neighbors: 1/30 s is 3 or 4 units in a container that counts milliseconds.
        even = sum(self._intervals[usual + offset] for offset in (-1, 0, 1))
        gaps = sum(n for i, n in self._intervals.items() if i > 1.5 * usual and i > usual + 1)
        if not gaps or even < _EVEN_SHARE * total:
            return []
        length, start = (value / NANOSECONDS for value in self._longest)
        return [
            f"gaps between frames that are {usual / 100:.2f} s apart: {gaps}, the longest of "
            f"{length:.2f} s after {start:.2f} s"
        ]


def demux(container: Any, problems: list[str]) -> Iterator[Any]:
    """Yield the packets of all streams, past errors in the container, which go to ``problems``."""
    packets, errors = container.demux(), 0
    while True:
        with av.logging.Capture() as log:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, MemoryError) as error:
                problems.append(reason(log, error))
                errors += 1
                if errors >= _MAX_DEMUXER_ERRORS:
                    return
                packets = container.demux()
                continue
        problems += _messages(log)
        if packet is None:
            return
        errors = 0
        yield packet


def _at(item: Any) -> str:
    """Where a packet or a frame is."""
    time = item.dts if item.pts is None else item.pts
    return "the end" if time is None else f"{float(time * item.time_base):.2f} s"


def _messages(log: Sequence[tuple[int, str, str]]) -> list[str]:
    return [" ".join(text.split()) for level, _, text in log if level <= av.logging.ERROR]


def reason(log: Sequence[tuple[int, str, str]], error: Exception) -> str:
    """Return the first message of FFmpeg's log, or what the error says without one."""
    messages = _messages(log)
    return messages[0] if messages else reason_of(error)
