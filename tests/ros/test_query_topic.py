"""Bounds and bursts: what is rejected, lost, failing or late is reported."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile

from llava_st_ros import msg, srv
from llava_st_ros.records import QueryFailure, QueryPace
from llava_st_ros.ros.diagnostics import RecentMaximum
from llava_st_ros.ros.query_health import failure_reasons, pace_reasons
from llava_st_ros.ros.query_topic import SequenceGaps
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros
SECOND = 10**9
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def list_ids(client: ClientNode) -> list[str]:
    request = srv.ListQueries.Request()
    return [q.id for q in client.call(srv.ListQueries, "grounding/list_queries", request).queries]


def model_messages(arrays: list[DiagnosticArray]) -> list[str]:
    return [status.message for array in list(arrays) for status in array.status[:1]]


def test_a_burst_on_the_topic_arrives_completely_up_to_the_bound(
    client: ClientNode, start_node
) -> None:
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    node = start_node(max_queries=150, log_period=30.0)
    publisher = client.create_publisher(msg.Query, "grounding/query", QoSProfile(depth=500))
    client.poll(publisher.get_subscription_count, "the node's subscription")
    for number in range(400):
        publisher.publish(msg.Query(id=f"m{number}", text="the red box"))
    topic = node._query_services.topic
    client.poll(lambda: topic.counts.added + topic.counts.rejected == 400, "400 messages")
    assert list_ids(client) == [f"m{number}" for number in range(150)]
    assert (topic.counts.rejected, topic.counts.lost) == (250, 0)
    reason = "there are 150 standing queries; max_queries is 150; remove one, or raise max_queries"
    client.wait_log("rejected a query from ~/query", reason)
    client.wait(
        lambda: [m for m in model_messages(diagnostics) if f"rejected: {reason}" in m],
        "the rejected queries in /diagnostics",
    )
    # The service's response has the reason; replacing a query is possible.
    request = srv.AddQuery.Request(query=msg.Query(id="more", text="the red box"))
    response = client.call(srv.AddQuery, "grounding/add_query", request)
    assert (response.success, response.message) == (False, reason)
    request.query.id = "m7"
    assert client.call(srv.AddQuery, "grounding/add_query", request).success


def test_a_failing_query_is_reported_in_diagnostics_and_others_are_answered(
    client: ClientNode, start_node, backend
) -> None:
    prefill = backend.prefill

    def checked(embeddings: Any, cache: Any) -> Any:
        words = backend.tokenizer.decode([token for token, _ in embeddings])
        if "cursed" in words:
            raise MemoryError("out of memory")
        return prefill(embeddings, cache)

    backend.prefill = checked
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node(
        queries=[
            '{"id": "good", "text": "the red box", "task": "REC", "period": 0.05}',
            '{"id": "bad", "text": "the cursed box", "task": "REC", "period": 0.05}',
        ]
    )
    camera, stamps = client.camera("image"), iter(range(10**12, 10**13, 10**8))

    def publish_image() -> None:
        camera.publish(image_message(red_box_image(10, 10, 30, 30), next(stamps)))

    def is_reported() -> bool:
        named = "query 'bad' failed "
        end = "on camera 'camera': MemoryError: out of memory; next try in "
        return any(named in m and end in m for m in model_messages(diagnostics))

    client.publish_until(publish_image, is_reported, "the failing query in /diagnostics")
    assert {a.query.id for a in answers} == {"good"}
    levels = {s.level for array in diagnostics for s in array.status[:1] if "bad" in s.message}
    assert levels == {WARN}
    client.wait_log("query 'bad' failed on camera 'camera'", "MemoryError: out of memory")


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
