"""A camera of the bag as the page shows it: indexed in the background, frames as JPEG."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Thread

from llava_st_ros.errors import FrameError, one_line
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.jpeg_encoding import encode_jpeg

CACHE_BYTES = 48 << 20  # of encoded frames of one camera
QUALITY = 92  # of the JPEGs
_FIRST = 100  # frames, of which one must be decodable: the camera's size is that of the first


@dataclass(frozen=True)
class Recording:
    """What is known of a camera after indexing.

    Attributes:
        stamps: Header stamps (ns), strictly increasing.
        width: Width of the first readable frame in pixels.
        height: Its height.
        losses: What is missing or unusual in the recording, one line each.
    """

    stamps: tuple[int, ...]
    width: int
    height: int
    losses: tuple[str, ...]


@dataclass
class Progress:
    """The state of indexing: ``recording`` or ``problem`` is set when it has ended."""

    read: int = 0
    total: int = 0
    recording: Recording | None = None
    problem: str = ""


class RecordedCamera:
    """An image topic of a bag. Methods may be called from several threads.

    Args:
        frames: Its frames, not indexed yet.
        on_loss: Called with a line for everything that is missing or unusual in the recording.

    Attributes:
        topic: Name of the topic.
        progress: How far the recording is indexed.
    """

    def __init__(self, frames: BagFrames, on_loss: Callable[[str], None]) -> None:
        self._frames = frames
        self._on_loss = on_loss
        self.topic = self._frames.topic.name
        self.progress = Progress(total=self._frames.topic.messages)
        self._start_lock, self._frame_lock = Lock(), Lock()
        self._thread: Thread | None = None
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0

    def start(self) -> None:
        """Index the recording in the background, once."""
        with self._start_lock:
            if self._thread is None:
                self._thread = Thread(target=self._index, name="index", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Index the recording and return when that has ended."""
        self.start()
        assert self._thread is not None
        self._thread.join()

    def jpeg(self, number: int) -> bytes:
        """Return frame ``number`` of the recording as JPEG.

        Raises:
            FrameError: There is no such frame, or it cannot be read or decoded.
        """
        with self._frame_lock:  # also bounds the memory: one frame is decoded at a time
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            recording = self.progress.recording
            if recording is None or not 0 <= number < len(recording.stamps):
                raise FrameError(f"there is no frame {number}")
            data = encode_jpeg(self._frames.image(number), QUALITY)
            self._cache[number] = data
            self._cached_bytes += len(data)
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])
            return data

    def _index(self) -> None:
        progress = self.progress
        try:
            self._frames.read_index(self._count)
            recording = self._recording()
        except Exception as error:  # nobody else would show it
            progress.problem = one_line(error)
            self._on_loss(progress.problem)
            return
        for line in recording.losses:
            self._on_loss(line)
        progress.recording = recording

    def _count(self) -> None:
        self.progress.read += 1

    def _recording(self) -> Recording:
        frames, problem = self._frames, ""
        for number in range(min(_FIRST, len(frames.stamps))):
            try:
                height, width, _ = frames.image(number).shape
            except FrameError as error:
                problem = problem or str(error)
                continue
            return Recording(frames.stamps, width, height, self._losses())
        raise FrameError(f"the first {number + 1} frames cannot be decoded: {problem}")

    def _losses(self) -> tuple[str, ...]:
        frames, losses = self._frames, list(self._frames.notes)
        if frames.dropped:
            losses.append(
                f"{frames.dropped} of {frames.topic.messages} messages on {self.topic} cannot be"
                f" read; last error: {frames.problem}"
            )
        if frames.repeated:
            losses.append(
                f"{frames.repeated} frames on {self.topic} repeat the stamp of another one and are"
                " not shown"
            )
        return tuple(dict.fromkeys(losses))
