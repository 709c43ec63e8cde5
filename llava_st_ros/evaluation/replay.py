"""Recorded footage through the Grounder, as fast as it goes: the frames' stamps are the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Grounding, Query, Tick


@dataclass
class Replay:
    """What came of it: the answers in order, final tracks and events, the frames' stamps (ns)."""

    recording: Recording = field(default_factory=Recording)
    groundings: list[Grounding] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)

    def add(self, tick: Tick) -> None:
        self.groundings.extend(tick.groundings)
        for track in tick.tracks:
            self.recording.add_track(track)
        for event in tick.events:
            self.recording.add_event(event)


def replay(
    grounder: Grounder,
    frames: Iterable[Frame],
    queries: Sequence[Query],
    *,
    window_seconds: float,
    on_frame: Callable[[], None] = lambda: None,
) -> Replay:
    """Push every frame and ask every standing query whenever it is due in the footage's time.

    The first questions are asked when a whole window has been seen, or at the footage's end where
    it is shorter; the last ones at its end, where living events end too.
    """
    for query in queries:
        grounder.add_query(query)
    brought = Replay()
    full = round(window_seconds * NANOSECONDS)
    for frame in frames:
        grounder.push(frame)
        brought.stamps.append(frame.stamp)
        if frame.stamp - brought.stamps[0] >= full:
            brought.add(grounder.tick(frame.stamp))
        on_frame()
    if brought.stamps:
        longest = max((query.period for query in queries), default=0.0)
        end = brought.stamps[-1] + round(longest * NANOSECONDS)
        brought.add(grounder.tick(end))  # due again, so that the last frames are seen
        for query in queries:
            if query in grounder.queries:  # not expired
                grounder.remove_query(query.id)
        brought.add(grounder.tick(end))
    return brought
