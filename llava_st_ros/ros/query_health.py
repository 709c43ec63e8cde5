"""Standing queries in /diagnostics: those that fail, and those that are evaluated too rarely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from llava_st_ros.records import NANOSECONDS, Modality, Query, QueryFailure, QueryPace
from llava_st_ros.ros.diagnostics import Reason
from llava_st_ros.streaming.frame_buffer import StreamReport

MAX_NAMED = 3  # failing queries in one message
UNFILLED = 2.0  # times the history; it is not filled in that time
LATE = 1.2  # times the period; frames do not arrive exactly when a query is due


def failure_reasons(
    failures: Sequence[QueryFailure], newest: Mapping[str, int], queries: int
) -> Iterator[Reason]:
    """Yield the failing queries: an ERROR if there is no other query.

    Args:
        failures: The queries whose latest evaluation failed.
        newest: Each camera's newest stamp (ns).
        queries: The number of standing queries.
    """
    if not failures:
        return
    named = []
    for failure in failures[:MAX_NAMED]:
        wait = max(0, failure.retry_at - newest.get(failure.camera, failure.retry_at))
        named.append(
            f"query {failure.query_id!r} failed {failure.count} times on camera "
            f"{failure.camera!r}: {failure.error}; next try in {wait / NANOSECONDS:.1f} s"
        )
    if len(failures) > MAX_NAMED:
        named.append(f"{len(failures) - MAX_NAMED} more fail")
    all_fail = len({failure.query_id for failure in failures}) == queries
    yield Reason(DiagnosticStatus.ERROR if all_fail else DiagnosticStatus.WARN, "; ".join(named))


def history_reasons(
    queries: Iterable[Query], streams: Mapping[str, StreamReport]
) -> Iterator[Reason]:
    """Yield a WARN for each camera whose frames never fill the window of the video queries.

    Args:
        queries: The standing queries.
        streams: The report of each camera that has sent frames.
    """
    videos = [query for query in queries if query.task.modality is Modality.VIDEO]
    for camera, stream in streams.items():
        waiting = [q for q in videos if not q.cameras or camera in q.cameras]
        if not waiting or stream.unfilled <= UNFILLED * stream.required:
            continue
        covered, required = stream.covered / NANOSECONDS, stream.required / NANOSECONDS
        yield Reason(
            DiagnosticStatus.WARN,
            f"{len(waiting)} video queries are not evaluated on camera {camera!r}: its frames "
            f"cover {covered:.1f} of the {required:.1f} s that history asks for; send images more "
            "often, raise window_seconds or buffer_megabytes, or lower history",
        )


def pace_reasons(paces: Sequence[QueryPace], tick_seconds: float) -> Iterator[Reason]:
    """Yield a WARN if ticks take so long that queries are evaluated more rarely than asked.

    Args:
        paces: How often each query is evaluated.
        tick_seconds: Duration of the longest recent tick with answers.
    """
    late = [p for p in paces if p.reached > LATE * p.period and tick_seconds > p.period]
    if not late:
        return
    worst = max(late, key=lambda pace: pace.reached / pace.period)
    others = f"; {len(late) - 1} more are late" if len(late) > 1 else ""
    yield Reason(
        DiagnosticStatus.WARN,
        f"a tick takes up to {tick_seconds:.2f} s, longer than the periods asked: query "
        f"{worst.query_id!r} is evaluated every {worst.reached:.2f} s instead of every "
        f"{worst.period:.2f} s on camera {worst.camera!r}{others}; use fewer queries or longer "
        "periods",
    )
