"""Which stamps of a camera are plausible, and when its clock has jumped.

The stamps are the only clock of a stream, so one wrong stamp must not move it. A frame whose stamp
does not continue the stream is held. If the next frames return to the stream, it was a single wrong
stamp and the frame is dropped; if they continue the held one, the clock has jumped (a bag is played
again, a simulation restarts, a driver changes its time source), and a new stream starts with the
held frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from llava_st_ros.records import NANOSECONDS, Frame, to_nanoseconds

CONFIRMATIONS = 5  # consecutive frames that agree with each other: their clock is accepted
RECENT = 32  # accepted frames that are compared with a new one
RATE_SECONDS = 1.0  # the shortest time from which the rate of the stamps is measured
FAST = 1.5  # stamps that advance faster than arrivals by this factor are of a fast clock
SLACK = 3.0  # multiple of a fast clock's rate that is still plausible
INTERVALS = 1.5  # multiple of the usual interval that is always plausible


@dataclass(frozen=True)
class ClockJump:
    """A jump of a camera's clock: the stamps (ns) of the frames before and after it."""

    before: int
    after: int

    def __str__(self) -> str:
        seconds = (self.after - self.before) / NANOSECONDS
        direction = "ahead" if seconds > 0 else "back"
        return (
            f"{abs(seconds):.3f} s {direction}, from {self.before / NANOSECONDS:.3f} "
            f"to {self.after / NANOSECONDS:.3f} s"
        )


@dataclass(frozen=True)
class Admission:
    """What a new frame leads to.

    Attributes:
        frames: The frames that join the stream now, in order of arrival.
        jump: The clock has jumped before these frames: they start a new stream.
        dropped: Held frames that are given up, since their stamps were wrong.
    """

    frames: tuple[Frame, ...] = ()
    jump: ClockJump | None = None
    dropped: int = 0


class StreamClock:
    """The clock of one camera. Not thread-safe.

    A stamp continues the stream if it is at most ``reset_seconds`` before the newest one and not
    later than the frame's arrival explains: compared with any of the recent frames, its stamp may
    have advanced by the time between the arrivals plus ``reset_seconds``. Where stamps run faster
    than arrivals (simulated time, a bag played fast), the measured rate counts. The interval of the
    frames is always plausible, and without a time of arrival every later stamp is: a camera may
    pause.

    A new clock is accepted after as many consecutive frames as the present one has, at most
    CONFIRMATIONS.

    Args:
        reset_seconds: A stamp that jumps back by more than this does not continue the stream.
    """

    def __init__(self, reset_seconds: float) -> None:
        self._tolerance = to_nanoseconds(reset_seconds)
        self._newest: Frame | None = None
        self._recent: deque[tuple[int, int | None]] = deque(maxlen=RECENT)  # stamps and arrivals
        self._held: list[Frame] = []

    @property
    def held(self) -> tuple[Frame, ...]:
        """The frames whose stamps do not continue the stream, until it is known why."""
        return tuple(self._held)

    def admit(self, frame: Frame) -> Admission:
        """Decide about a new frame."""
        if self._newest is None or self._continues(frame, self._newest, self._recent):
            dropped = self._release()
            self._accept(frame)
            return Admission((frame,), dropped=len(dropped))
        dropped = []
        if self._held and not self._agrees(frame):
            dropped = self._release()
        self._held.append(frame)
        if len(self._held) < min(CONFIRMATIONS, len(self._recent) + 1):
            return Admission(dropped=len(dropped))
        frames = self._release()
        jump = None
        if not self._is_pace(frames):
            jump = ClockJump(self._newest.stamp, frames[0].stamp)
            self.clear()
        for admitted in frames:
            self._accept(admitted)
        return Admission(tuple(frames), jump, len(dropped))

    def clear(self) -> None:
        """Forget everything: the next frame starts the clock."""
        self._newest = None
        self._recent.clear()
        self._held.clear()

    def _accept(self, frame: Frame) -> None:
        if self._newest is None or frame.stamp > self._newest.stamp:
            self._newest = frame
        self._recent.append((frame.stamp, frame.arrival))

    def _release(self) -> list[Frame]:
        frames, self._held = self._held, []
        return frames

    def _continues(
        self, frame: Frame, newest: Frame, recent: Sequence[tuple[int, int | None]]
    ) -> bool:
        if newest.stamp - frame.stamp > self._tolerance:
            return False
        step = frame.stamp - newest.stamp
        if frame.arrival is None or step <= self._tolerance:
            return True
        if step <= self._tolerance + INTERVALS * _usual_interval(recent):
            return True
        if len(recent) > 1 and {arrival for _, arrival in recent} == {frame.arrival}:
            return True  # a recording without times of arrival
        rate = _rate(recent)
        return any(
            arrival is None
            or frame.stamp - stamp <= self._tolerance + rate * (frame.arrival - arrival)
            for stamp, arrival in recent
        )

    def _agrees(self, frame: Frame) -> bool:
        """Whether a frame continues the held ones, as their stream or at their pace."""
        held = [(other.stamp, other.arrival) for other in self._held]
        newest = max(self._held, key=lambda other: other.stamp)
        return self._continues(frame, newest, held) or self._is_pace([*self._held, frame])

    def _is_pace(self, frames: Sequence[Frame]) -> bool:
        """Whether the steps to and between these frames are even: the stream is fast, not wrong."""
        assert self._newest is not None
        times = [(f.stamp, f.arrival) for f in (self._newest, *frames)]
        paces = []
        for (stamp, arrival), (next_stamp, next_arrival) in pairwise(times):
            if arrival is None or next_arrival is None or next_stamp <= stamp:
                return False
            paces.append((next_stamp - stamp) / max(1, next_arrival - arrival))
        return max(paces) <= SLACK * min(paces)


def _usual_interval(recent: Sequence[tuple[int, int | None]]) -> float:
    steps = [b - a for (a, _), (b, _) in pairwise(recent)]
    return max(0.0, median(steps)) if steps else 0.0


def _rate(recent: Sequence[tuple[int, int | None]]) -> float:
    """Return how far stamps may advance with the arrivals; 1 unless they are of a fast clock."""
    known = [(stamp, arrival) for stamp, arrival in recent if arrival is not None]
    if len(known) < 2:
        return 1.0
    (first, start), (last, end) = known[0], known[-1]
    if end - start < RATE_SECONDS * NANOSECONDS:
        return 1.0
    rate = (last - first) / (end - start)
    return SLACK * rate if rate > FAST else 1.0
