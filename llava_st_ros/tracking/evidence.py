"""Evidence over time: what all answers of a query on one camera say about each moment.

The windows of successive answers overlap, so that a moment is seen by several answers. Time is
divided into slots of the window's frame interval. Each answer votes in every slot of its window:
its probability of a match in the slots of its span, 0 in the others. A vote weighs less near the
edges of the window, where the model sees little of what comes before or after. The probability of
a slot is the weighted mean of its votes, its box the weighted median of the voters' boxes.

The mean of calibrated probabilities is itself calibrated if the answers are right and wrong
together, as answers of one model to overlapping windows mostly are; a product of their odds would
count the same error once per answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from llava_st_ros.records import Box, BoxTube, Grounding, Span, to_nanoseconds
from llava_st_ros.streaming.frame_buffer import frame_interval

EDGE_SHARE = 0.3  # of the window at each end, where votes weigh less
EDGE_WEIGHT = 0.2  # at the very edge; 1 inside
MAX_VOTES = 64  # per slot; those of the oldest windows are dropped


@dataclass(frozen=True)
class Sighting:
    """What one answer says about its window.

    Attributes:
        window: Stamps of the frames (ns), not decreasing.
        probability: That something in the window matches, in [0, 1].
        span: When the match is; None if there is none.
        tube: Where the match is; empty if there are no boxes.
        confidence: Of the match.
    """

    window: tuple[int, ...]
    probability: float
    span: Span | None = None
    tube: BoxTube = field(default_factory=BoxTube)
    confidence: float = 0.0

    @classmethod
    def of(cls, grounding: Grounding, min_confidence: float = 0.0) -> Sighting:
        """Return what an answer says; one below ``min_confidence`` says that nothing matches.

        The match that the model finds most probable counts with its probability, also if the
        answer is "no match".
        """
        probability = grounding.match_probability
        if probability is None:  # the model had no choice
            probability = 0.0 if grounding.answer.no_match else 1.0
        span, tube, confidence = grounding.span, grounding.tube, grounding.confidence
        if grounding.answer.no_match:
            candidate = grounding.candidate
            if candidate is None:
                return cls(grounding.window, 0.0)
            span, tube, confidence = candidate.span, candidate.tube, candidate.confidence
        if confidence < min_confidence:
            return cls(grounding.window, 0.0)
        return cls(grounding.window, probability, span, tube, confidence)


@dataclass(frozen=True)
class Vote:
    """The vote of one answer in one slot.

    Attributes:
        newest: Newest stamp of the answer's window (ns).
        stamp: Of the answer's frame in the slot (ns).
        weight: Greater than 0.
        probability: That the match is going on in the slot, in [0, 1].
        box: Where; None if the answer has no box there.
    """

    newest: int
    stamp: int
    weight: float
    probability: float
    box: Box | None

    @property
    def sort_key(self) -> tuple:
        """Orders votes, newest windows last, whatever the order in which they were added."""
        box = self.box or Box(0, 0, 0, 0)
        has_box = self.box is not None
        return (self.newest, self.stamp, self.weight, self.probability, has_box, box)


@dataclass(frozen=True)
class Slot:
    """The evidence about one slot: at least one vote, in the order of ``Vote.sort_key``."""

    votes: tuple[Vote, ...]

    @cached_property
    def stamp(self) -> int:
        """The stamp (ns) of most of the weight: that of the frame that most answers saw."""
        weights: dict[int, list[float]] = {}
        for vote in self.votes:
            weights.setdefault(vote.stamp, []).append(vote.weight)
        return min(weights, key=lambda stamp: (-math.fsum(weights[stamp]), stamp))

    @cached_property
    def probability(self) -> float:
        """The probability that the match is going on in this slot."""
        total = math.fsum(vote.weight for vote in self.votes)
        return math.fsum(vote.weight * vote.probability for vote in self.votes) / total

    @cached_property
    def box(self) -> Box | None:
        """The weighted median of the boxes in the frame of ``stamp``; None without a box."""
        voters = [v for v in self.votes if v.box is not None and v.probability > 0.0]
        voters = [v for v in voters if v.stamp == self.stamp]
        if not voters:
            return None
        weights = [vote.weight * vote.probability for vote in voters]
        corners = zip(*((v.box.x1, v.box.y1, v.box.x2, v.box.y2) for v in voters if v.box))
        return Box(*(weighted_median(values, weights) for values in corners))


class Evidence:
    """The evidence of one query on one camera, in one stream.

    Slots are kept for two windows before the newest stamp, since an event may have begun before the
    newest window. At most ``MAX_VOTES`` votes per slot are kept.

    Args:
        window_seconds: Length of a window.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._memory = to_nanoseconds(2 * window_seconds)
        self._votes: dict[int, list[Vote]] = {}
        self._slots: dict[int, Slot] = {}  # of ``_votes``, where they have not changed
        self._window: tuple[int, int] | None = None

    @property
    def window(self) -> tuple[int, int] | None:
        """Oldest and newest stamp (ns) of the newest window; None before the first answer."""
        return self._window

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots with evidence, in order of time."""
        for number, votes in self._votes.items():
            if number not in self._slots:
                self._slots[number] = Slot(tuple(votes))
        return tuple(self._slots[number] for number in sorted(self._slots))

    def add(self, sighting: Sighting) -> None:
        """Add an answer. Answers with equal windows may come in any order."""
        window, span = sighting.window, sighting.span
        interval = frame_interval(self._window_seconds, len(window))
        boxes = sighting.tube.as_dict()
        for stamp, weight in edge_weights(window).items():
            inside = span is not None and span.start <= stamp <= span.end
            probability = sighting.probability if inside else 0.0
            number = stamp // interval
            votes = self._votes.setdefault(number, [])
            votes.append(
                Vote(window[-1], stamp, weight, probability, boxes.get(stamp) if inside else None)
            )
            votes.sort(key=lambda vote: vote.sort_key)
            del votes[:-MAX_VOTES]
            self._slots.pop(number, None)
        ends = window[0], window[-1]
        if self._window is None or ends[::-1] > self._window[::-1]:
            self._window = ends
        kept = (self._window[1] - self._memory) // interval
        for number in [number for number in self._votes if number < kept]:
            del self._votes[number]
            self._slots.pop(number, None)

    def clear(self) -> None:
        """Forget everything, after a stream reset."""
        self._votes.clear()
        self._slots.clear()
        self._window = None


def edge_weights(window: Sequence[int]) -> dict[int, float]:
    """Return the weight of an answer's vote for each stamp of its window.

    It rises from EDGE_WEIGHT at either end of the window's time to 1 at EDGE_SHARE of it. A window
    of one frame has the weight 1.

    >>> weights = edge_weights([0, 15, 50, 100, 100])
    >>> {stamp: round(weight, 6) for stamp, weight in weights.items()}
    {0: 0.2, 15: 0.6, 50: 1.0, 100: 0.2}
    """
    first, length = window[0], window[-1] - window[0]
    if length == 0:
        return {first: 1.0}
    weights = {}
    for stamp in window:
        share = min(stamp - first, first + length - stamp) / length
        weights[stamp] = EDGE_WEIGHT + (1.0 - EDGE_WEIGHT) * min(1.0, share / EDGE_SHARE)
    return weights


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the smallest value at which half of the weight is reached.

    >>> weighted_median([3.0, 1.0, 2.0], [1.0, 1.0, 1.0]), weighted_median([1.0, 9.0], [1.0, 3.0])
    (2.0, 9.0)
    """
    ordered = sorted(zip(values, weights))
    half = math.fsum(weights) / 2
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= half:
            return value
    return ordered[-1][0]
