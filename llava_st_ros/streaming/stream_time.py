"""The time of several cameras, each with a clock of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class _Camera:
    generation: int
    newest: int  # stamp, ns
    elapsed: int  # its own stream time, ns
    seen_at: int  # the stream time at its newest frame


class StreamTime:
    """What time it is on each camera, from stamps alone. Not thread-safe.

    The *stream time* is the time that has passed on the cameras since the start: it advances with
    the camera whose stamps advance furthest. Clocks may be set differently, and a clock that jumps
    starts a new generation, from which it is measured again. On a camera that sends no frames, time
    passes as on the others: its tracks end too. Nothing advances without frames, so that a paused
    simulation or a slowly played bag changes nothing; only a caller with a clock of its own may
    let more time pass.
    """

    def __init__(self) -> None:
        self._cameras: dict[str, _Camera] = {}
        self._elapsed = 0
        self._caller_now: int | None = None

    @property
    def elapsed(self) -> int:
        """The stream time in nanoseconds; it never decreases."""
        return self._elapsed

    def update(self, newest: Mapping[str, tuple[int, int]], now: int | None = None) -> None:
        """Advance to the newest frames.

        Args:
            newest: The generation and the newest stamp (ns) of each camera.
            now: The time of the caller (ns), of which only the difference to the last one counts.
        """
        start, advances = self._elapsed, dict[str, int | None]()
        for name, (generation, stamp) in newest.items():
            camera = self._cameras.get(name)
            if camera is None or camera.generation != generation:
                self._cameras[name] = _Camera(generation, stamp, start, start)
                advances[name] = None
            elif stamp > camera.newest:
                advances[name] = stamp - camera.newest
                camera.elapsed += stamp - camera.newest
                camera.newest = stamp
                self._elapsed = max(self._elapsed, camera.elapsed)
        passed = self._pass(now)
        self._elapsed = max(self._elapsed, start + passed)
        for name, advance in advances.items():
            # The newest frame is as old as the caller's time that the stamps do not explain.
            age = 0 if advance is None else max(0, passed - advance)
            self._cameras[name].seen_at = self._elapsed - age

    def now(self, camera: str) -> int:
        """Return the time (ns) on a camera's clock: its newest stamp, or later if it is silent."""
        state = self._cameras[camera]
        return state.newest + self._elapsed - state.seen_at

    def _pass(self, now: int | None) -> int:
        if now is None:
            return 0
        last, self._caller_now = self._caller_now, now
        return 0 if last is None else max(0, now - last)
