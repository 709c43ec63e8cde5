"""What was published when: the input of every score of a stream."""

from __future__ import annotations

from dataclasses import dataclass

from llava_st_ros.records import Tick


@dataclass(frozen=True)
class PublishedTick:
    """The results of one tick on one camera, with the time at which subscribers had them.

    Attributes:
        at: Nanoseconds of header time: the stamp of the tick's newest frame plus the time that the
            answers took. When footage is replayed as fast as possible, nothing takes time.
        tick: The answers and events that were published, and all active tracks.
        stream: The number of the camera's stream (``ReplayResult.streams``).
    """

    at: int
    tick: Tick
    stream: int = 0
