"""Bounds and bursts: what is rejected, lost, failing or late is reported."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticStatus

from llava_st_ros.records import QueryFailure, QueryPace
from llava_st_ros.ros.diagnostics import RecentMaximum
from llava_st_ros.ros.query_health import failure_reasons, pace_reasons
from llava_st_ros.ros.query_topic import SequenceGaps

pytestmark = pytest.mark.ros
SECOND = 10**9
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def test_failing_queries_are_named_with_the_time_of_the_next_try() -> None:
    failures = [QueryFailure(f"q{i}", "c", "RuntimeError: x", 2, 7 * SECOND) for i in range(5)]
    assert not list(failure_reasons([], {}, 5))
    (reason,) = failure_reasons(failures[:1], {"c": 4 * SECOND}, 5)
    assert reason.level == WARN
    assert reason.text == (
        "query 'q0' failed 2 times on camera 'c': RuntimeError: x; next try in 3.0 s"
    )
    (reason,) = failure_reasons(failures, {}, 5)
    assert reason.level == ERROR  # nothing is answered
    assert reason.text.endswith("; 2 more fail")


def test_ticks_that_outlast_the_periods_are_a_warning() -> None:
    late = QueryPace("a", "c", 0.2, 1.75)
    later = QueryPace("b", "c", 0.1, 1.75)
    slow = QueryPace("d", "c", 5.0, 5.0)
    (reason,) = pace_reasons([late, later, slow], 1.7)
    assert reason.level == WARN
    assert "a tick takes up to 1.70 s" in reason.text
    assert "query 'b' is evaluated every 1.75 s instead of every 0.10 s" in reason.text
    assert "1 more are late" in reason.text
    # A camera that sends images more rarely than a query asks is not the ticks' fault.
    assert not list(pace_reasons([late], 0.01))
    assert not list(pace_reasons([slow], 1.7))
    assert not list(pace_reasons([QueryPace("a", "c", 0.2, 0.21)], 0.3))


def test_the_longest_of_the_recent_ticks_counts() -> None:
    now = [0.0]
    recent = RecentMaximum(10.0, lambda: now[0])
    assert recent.value == 0.0
    for at, seconds, longest in ((0, 1.0, 1.0), (4, 3.0, 3.0), (8, 2.0, 3.0), (15, 0.5, 2.0)):
        now[0] = at
        recent.add(seconds)
        assert recent.value == longest
    now[0] = 30.0
    assert recent.value == 0.0


def test_gaps_in_the_numbers_of_one_publisher_are_lost_messages() -> None:
    gaps = SequenceGaps()
    numbers = [(5, 1), (6, 1), (9, 1), (1, 1), (2, 1), (40, 2), (3, 2), (41, 1), (None, 1), (50, 1)]
    assert [gaps.missing_before(*pair) for pair in numbers] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
