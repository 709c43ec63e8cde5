"""When a tick is due: a worker ticks as soon as it is idle and frames have arrived."""

from __future__ import annotations

from llava_st_ros.records import Frame


class NewFrames:
    """The frames since the start of the last tick. They do not queue: one tick sees all of them.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Frame] = {}  # by camera
        self._has_arrived = False

    def __bool__(self) -> bool:
        """Whether a frame has arrived that no tick has seen."""
        return self._has_arrived

    @property
    def newest(self) -> dict[str, Frame]:
        """Each camera's newest frame, those of silent cameras too."""
        return dict(self._newest)

    def add(self, frame: Frame) -> None:
        """Add a frame that is its camera's newest one."""
        self._newest[frame.camera] = frame
        self._has_arrived = True

    def take(self) -> dict[str, Frame]:
        """Start a tick: return ``newest``."""
        self._has_arrived = False
        return self.newest

    def clear(self) -> None:
        """Forget all frames."""
        self._newest.clear()
        self._has_arrived = False
