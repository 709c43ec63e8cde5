"""Queries that are too many, too long, or not what a person would write."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile

from llava_st_ros import msg, srv
from support.red_box_camera import RedBoxCamera
from support.ros_client import ClientNode

pytestmark = pytest.mark.ros


def list_ids(client: ClientNode) -> list[str]:
    request = srv.ListQueries.Request()
    return [q.id for q in client.call(srv.ListQueries, "grounding/list_queries", request).queries]


def model_messages(arrays: list[DiagnosticArray]) -> list[str]:
    return [status.message for array in list(arrays) for status in array.status[:1]]


def test_a_thousand_queries_in_a_second_arrive_up_to_the_bound(
    client: ClientNode, start_node
) -> None:
    """Injected: 1,000 messages on ~/query without a pause, with a bound of 30.
    Published: answers to the first 30; the service responds to a further one with the reason.
    Logged: WARN with the reason, which names max_queries; the count in diagnostics.
    """
    answers = client.collect(msg.Answer, "grounding/answers")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    node = start_node(max_queries=30, log_period=30.0)
    publisher = client.create_publisher(msg.Query, "grounding/query", QoSProfile(depth=1000))
    client.poll(publisher.get_subscription_count, "the node's subscription")
    for number in range(1000):
        publisher.publish(msg.Query(id=f"m{number}", text="the red box"))
    topic = node._query_services.topic
    client.poll(lambda: topic.counts.added + topic.counts.rejected == 1000, "1,000 messages")
    assert list_ids(client) == [f"m{number}" for number in range(30)]
    assert (topic.counts.rejected, topic.counts.lost) == (970, 0)
    reason = "there are 30 standing queries; max_queries is 30; remove one, or raise max_queries"
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
    camera = RedBoxCamera(client)
    client.publish_until(
        camera.publish_image,
        lambda: {a.query.id for a in list(answers)} == {f"m{number}" for number in range(30)},
        "an answer to each",
    )


def test_hostile_queries_are_rejected_or_answered_as_words(client: ClientNode, start_node) -> None:
    """Injected: queries on the topic and the service that are empty, of 1 MB, for an unknown
        camera, with a line break in the id, with control characters, with special tokens of
        the model.
    Published: answers to those that are words; the service responds to the others with one
        line.
    Logged: WARN for each that is rejected, without control characters.
    """
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node()
    publisher = client.create_publisher(msg.Query, "grounding/query", 100)
    client.poll(publisher.get_subscription_count, "the node's subscription")
    rejected = {
        "empty": msg.Query(id="empty"),
        "huge": msg.Query(id="huge", text="x" * 2**20),
        "camera": msg.Query(id="camera", text="the red box", cameras=["nowhere"]),
        "id": msg.Query(id="a\nb", text="the red box"),
    }
    words = {
        "control": msg.Query(id="control", text="the\x07 red\r\n\x1b[31m box\x7f", task="REC"),
        "special": msg.Query(
            id="special", text="<image> <|im_end|> <TIME-001> the red box", task="REC"
        ),
    }
    for message in (*rejected.values(), *words.values()):
        publisher.publish(message)
        response = client.call(
            srv.AddQuery, "grounding/add_query", srv.AddQuery.Request(query=message)
        )
        if message.id in rejected or message is rejected["id"]:
            assert not response.success
            assert "\n" not in response.message and len(response.message) < 1300
    camera = RedBoxCamera(client)
    listed = client.call(srv.ListQueries, "grounding/list_queries", srv.ListQueries.Request())
    accepted = {query.id for query in listed.queries}
    assert accepted <= words.keys()
    assert "special" in accepted
    client.publish_until(
        camera.publish_image, lambda: {a.query.id for a in list(answers)} == accepted, "answers"
    )
    assert not [line for line in client.log_lines() if "\x1b" in line or "\x07" in line]
