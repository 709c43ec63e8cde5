"""Frame numbers of other tools and the header stamps of a recording."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RecordedFrames:
    """The frames of a topic in the order of recording, as a tool numbers them that plays it.

    Args:
        stamps: The header stamp (ns) of each frame, None for a message without one. Of frames with
            one stamp only the first can be annotated.

    Attributes:
        stamps: As above, None for repeated stamps too.
    """

    stamps: Sequence[int | None]
    _numbers: Mapping[int, int] = field(init=False, repr=False, compare=False)
    _sorted: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers: dict[int, int] = {}
        stamps = list(self.stamps)
        for number, stamp in enumerate(stamps):
            if stamp in numbers:
                stamps[number] = None
            elif stamp is not None:
                numbers[stamp] = number
        object.__setattr__(self, "stamps", tuple(stamps))
        object.__setattr__(self, "_numbers", numbers)
        object.__setattr__(self, "_sorted", tuple(sorted(numbers)))

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def unusable(self) -> int:
        """How many frames cannot be annotated: without a stamp, or with that of another frame."""
        return len(self.stamps) - len(self._numbers)

    def number(self, stamp: int) -> int | None:
        """Return the number from 0 on of the frame with a stamp (ns), None if there is none.

        >>> frames = RecordedFrames([50, 70, None, 70, 60])
        >>> [frames.number(stamp) for stamp in (50, 60, 65, 70)], frames.unusable
        ([0, 4, None, 1], 2)
        """
        return self._numbers.get(stamp)

    def is_within(self, stamp: int) -> bool:
        """Whether a stamp (ns) is in the time of the recording."""
        return 0 < bisect_left(self._sorted, stamp) < len(self._sorted) or stamp in self._numbers
