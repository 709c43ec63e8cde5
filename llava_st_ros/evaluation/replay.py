"""Replays recorded footage through the Grounder, with the frames' stamps as the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Grounding, Query, QueryFailure, Tick


@dataclass
class ReplayResult:
    """The output of a replay.

    Attributes:
        recording: The final tracks and events.
        groundings: Every answer, in order.
        stamps: The stamps of the frames (ns).
        failures: The evaluations that raised an exception, in order.
    """

    recording: Recording = field(default_factory=Recording)
    groundings: list[Grounding] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    failures: list[QueryFailure] = field(default_factory=list)

    def failures_by_query(self) -> dict[str, list[QueryFailure]]:
        """Return the failures of each query that has any."""
        grouped: dict[str, list[QueryFailure]] = {}
        for failure in self.failures:
            grouped.setdefault(failure.query_id, []).append(failure)
        return grouped

    def check_complete(self) -> None:
        """Raise BackendError if an evaluation failed, so that no score is made of the others."""
        for failure in self.failures:
            raise BackendError(
                f"{len(self.failures)} evaluations failed, the first of query "
                f"{failure.query_id!r}: {failure.error}"
            )

    def add(self, tick: Tick) -> None:
        """Add the results of one tick."""
        self.groundings.extend(tick.groundings)
        self.failures.extend(tick.failures)
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
) -> ReplayResult:
    """Push every frame and evaluate each standing query whenever it is due by the frames' stamps.

    Queries are first evaluated when the footage covers a full window, or at its end if it is
    shorter, and last evaluated at its end, where ongoing events end too.

    Args:
        grounder: Runs the model. The queries are added to it, and removed at the end.
        frames: The footage, with increasing stamps.
        queries: The standing queries.
        window_seconds: The grounder's ``StreamConfig.window_seconds``.
        on_frame: Called after each frame.

    Raises:
        BackendError: Evaluations of a query failed and none gave an answer.
    """
    for query in queries:
        grounder.add_query(query)
    result = ReplayResult()
    window = round(window_seconds * NANOSECONDS)
    for frame in frames:
        grounder.push(frame)
        result.stamps.append(frame.stamp)
        if frame.stamp - result.stamps[0] >= window:
            result.add(grounder.tick(frame.stamp))
        on_frame()
    if result.stamps:
        longest_period = max((query.period for query in queries), default=0.0)
        # Late enough that every query is due again and sees the last frames.
        end = result.stamps[-1] + round(longest_period * NANOSECONDS)
        result.add(grounder.tick(end))
        for query in queries:
            if query in grounder.queries:  # not expired
                grounder.remove_query(query.id)
        result.add(grounder.tick(end))
    _check_answered(result)
    return result


def _check_answered(result: ReplayResult) -> None:
    answered = {grounding.query.id for grounding in result.groundings}
    for failure in result.failures:
        if failure.query_id not in answered:
            raise BackendError(f"query {failure.query_id!r} was never answered: {failure.error}")
