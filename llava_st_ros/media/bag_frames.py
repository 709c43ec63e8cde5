"""Random access to the frames of a bag's image topic, without the images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock

import numpy as np

from llava_st_ros.errors import DataError, FrameError
from llava_st_ros.media.bags import Bag, ImageMessage
from llava_st_ros.media.bags.bag import MessageLocation
from llava_st_ros.media.image_decoding import decode_message


class BagFrames:
    """The frames of one image topic, in the order of their stamps.

    ``read_index`` reads every message once and keeps its stamp and location, about 300 bytes a
    frame. ``image`` then reads the block that contains a frame: one row of an SQLite file, one
    chunk of an MCAP file. Methods may be called from several threads.

    Args:
        bag: The recording.
        topic: Name of the image topic; None for the only one.
        lock: Held while ``bag`` is read; the frames of several topics of one bag share it.

    Attributes:
        topic: The image topic.
        stamps: Header stamps (ns) of the frames, strictly increasing; empty before ``read_index``.
        dropped: Number of messages without a usable stamp, or that could not be read.
        repeated: Number of frames left out because another frame has the same stamp.
        problem: Why the last message was dropped.

    Raises:
        DataError: The bag has no such topic.
    """

    def __init__(self, bag: Bag, topic: str | None = None, lock: Lock | None = None) -> None:
        self._bag = bag
        self.topic = bag.image_topic(topic)
        self.stamps: tuple[int, ...] = ()
        self.dropped, self.repeated, self.problem = 0, 0, ""
        self._locations: list[MessageLocation] = []
        self._lock = lock or Lock()  # a bag is read by one thread at a time

    @property
    def notes(self) -> list[str]:
        """What is missing, damaged or reinterpreted in the bag, one line each."""
        return self._bag.notes

    def read_index(self, on_message: Callable[[], None] = lambda: None) -> None:
        """List the frames. ``on_message`` is called after each message.

        Raises:
            DataError: No message has a stamp.
        """
        found: dict[int, MessageLocation] = {}
        dropped = repeated = read = 0
        for message in self._messages():
            read += 1
            try:
                stamp = message.stamp
            except FrameError as error:
                dropped, self.problem = dropped + 1, str(error)
            else:
                repeated += stamp in found
                found.setdefault(stamp, message.location)
            on_message()
        if read < self.topic.messages:
            dropped += self.topic.messages - read
            self.problem = self.notes[-1]
        self.dropped, self.repeated = dropped, repeated
        if not found:
            reason = f" ({dropped} unreadable; last error: {self.problem})" if dropped else ""
            raise DataError(f"no frame on {self.topic.name} in {self._bag.path}{reason}")
        self.stamps = tuple(sorted(found))
        self._locations = [found[stamp] for stamp in self.stamps]

    def image(self, number: int) -> np.ndarray:
        """Decode the frame ``stamps[number]``: RGB uint8 [H, W, 3].

        Raises:
            FrameError: It cannot be read or decoded.
            IndexError: There is no such frame.
        """
        location = self._locations[number]
        with self._lock:
            message = self._bag.image_at(self.topic, location)
        return decode_message(message.message)

    def _messages(self) -> Iterator[ImageMessage]:
        messages = self._bag.images(self.topic)
        try:
            while True:
                with self._lock:
                    message = next(messages, None)
                if message is None:
                    return
                yield message
        finally:
            with self._lock:
                messages.close()
