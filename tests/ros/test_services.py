"""Standing queries by service and topic, pausing, and parameter changes at run time."""

from __future__ import annotations

import gc
import weakref
from dataclasses import fields
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter

from llava_st_ros import action, msg, srv
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.qos import REQUESTS
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, Goal, image_message

pytestmark = pytest.mark.ros


def test_every_field_of_grounder_config_has_a_parameter() -> None:
    given = {
        "window_seconds": 7.5,
        "history": 0.3,
        "buffer_megabytes": 9,
        "reset_seconds": 2.5,
        "constrained": False,
        "max_new_tokens": 77,
        "no_match_threshold": 0.21,
        "max_queries": 13,
        "evidence_floor": 0.24,
        "evidence_on": 0.9,
        "evidence_off": 0.26,
        "confirmations": 3,
        "provisional_events": False,
        "min_confidence": 0.22,
        "association_iou": 0.23,
        "track_timeout": 4.5,
        "track_memory": 6.5,
        "event_gap": 1.5,
    }
    config, default = NodeParameters(**given).grounder_config, GrounderConfig()
    assert config.stream == StreamConfig(
        window_seconds=7.5, history=0.3, buffer_bytes=9 << 20, reset_seconds=2.5
    )
    names = [field.name for field in fields(GrounderConfig)]
    assert all(getattr(config, name) != getattr(default, name) for name in names)
    others = {getattr(config, name) for name in names if name != "stream"}
    assert others == {False, 77, 13, 0.21, 0.24, 0.9, 0.26, 3, 0.22, 0.23, 4.5, 6.5, 1.5}


class ImagePublisher:
    """Publishes images of a red box, 0.1 s apart by stamp."""

    def __init__(self, client: ClientNode) -> None:
        self._camera, self.stamp = client.camera("image"), 10**12

    def __call__(self) -> None:
        self.stamp += 10**8
        self._camera.publish(image_message(red_box_image(10, 10, 30, 30), self.stamp))


def add_query(client: ClientNode, **query: Any) -> srv.AddQuery.Response:
    request = srv.AddQuery.Request(query=msg.Query(**query))
    return client.call(srv.AddQuery, "grounding/add_query", request)


def list_queries(client: ClientNode) -> dict[str, msg.Query]:
    response = client.call(srv.ListQueries, "grounding/list_queries", srv.ListQueries.Request())
    return {query.id: query for query in response.queries}


def set_parameter(client: ClientNode, name: str, value: Any) -> tuple[bool, str]:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = client.call(SetParameters, "grounding/set_parameters", request).results
    return result.successful, result.reason


def test_queries_are_added_listed_answered_and_removed(client: ClientNode, start_node) -> None:
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node(queries=['{"id": "cup", "text": "the cup", "period": 2.5}'])
    assert set(list_queries(client)) == {"cup"}
    box = msg.Box(x_min=10.0, y_min=20.0, x_max=30.0, y_max=40.0)
    added = add_query(client, text="the red box", task="stvg", expiry=9.0, cameras=["camera"])
    assert (added.success, added.id, added.message) == (True, "q1", "")
    assert add_query(
        client, id="r", task="REG", box=[box], image_width=100, image_height=200
    ).success
    queries = list_queries(client)
    assert list(queries) == ["cup", "q1", "r"]
    assert (queries["cup"].period, queries["cup"].text) == (2.5, "the cup")
    assert (queries["q1"].task, queries["q1"].period, queries["q1"].expiry) == ("STVG", 1.0, 9.0)
    region = queries["r"].box[0]  # in pixels of a 1 x 1 image
    assert (region.x_min, region.y_max) == pytest.approx((0.1, 0.2))

    publish_image = ImagePublisher(client)
    ids = {"cup", "q1", "r"}
    client.publish_until(
        publish_image, lambda: {a.query.id for a in list(answers)} == ids, "three answers"
    )
    for query_id in ids:
        request = srv.RemoveQuery.Request(id=query_id)
        assert client.call(srv.RemoveQuery, "grounding/remove_query", request).success
    assert list_queries(client) == {}
    removed = client.call(
        srv.RemoveQuery, "grounding/remove_query", srv.RemoveQuery.Request(id="cup")
    )
    assert not removed.success
    assert "'cup'" in removed.message


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"text": "x" * 3000}, "3000 characters"),
        ({"text": " "}, "query has no text"),
        ({"text": "the box", "task": "WHO"}, "task 'WHO' is unknown; expected one of STVG"),
        (
            {"text": "the box", "cameras": ["rear"]},
            "camera 'rear' is unknown; expected one of camera",
        ),
        (
            {"text": "the box", "period": -1.0},
            "period of query 'q1' is -1.0; expected 0.01 to 86400 s",
        ),
        (
            {"text": "the box", "expiry": float("nan")},
            "the query's expiry is nan; an int or a NumPy number in a float field",
        ),
        ({"text": "the box", "task": "SVG"}, "span"),
        ({"text": "the box", "task": "SVG", "span": [0.8, 0.2]}, "span is (0.8, 0.2)"),
        ({"task": "REG", "box": [msg.Box(x_max=1.0, y_max=1.0)]}, "without image_width"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_invalid_query_is_rejected_with_a_reason(
    client: ClientNode, start_node, query: dict[str, Any], reason: str
) -> None:
    start_node()
    response = add_query(client, **query)
    assert not response.success
    assert reason in response.message
    assert "; " in response.message
    assert list_queries(client) == {}


def test_query_topic_adds_queries_and_logs_rejected_ones(client: ClientNode, start_node) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node()
    publisher = client.create_publisher(msg.Query, "grounding/query", 10)
    client.poll(publisher.get_subscription_count, "the node's subscription")
    publisher.publish(msg.Query(id="bad", text="the red box", task="WHO"))
    client.wait_log("rejected a query", "task 'WHO'")
    publisher.publish(msg.Query(id="good", text="the red box"))
    publish_image = ImagePublisher(client)
    client.publish_until(publish_image, lambda: any(a.tracks for a in tracks), "a track")
    assert {t.query_id for a in tracks for t in a.tracks} == {"good"}


def test_nothing_is_kept_of_removed_queries(client: ClientNode, start_node) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    node = start_node()
    publish_image = ImagePublisher(client)
    grounder, publishers = node._worker.grounder, node._result_publishers
    removed: list[weakref.ref] = []
    for number in range(8):
        name = f"query{number}"
        assert add_query(
            client, id=name, text="the red box", task=("REC", "STVG")[number % 2], period=0.1
        ).success
        standing = grounder._standing[name]
        removed += [weakref.ref(standing), weakref.ref(standing.prepared)]
        del standing
        client.publish_until(
            publish_image,
            lambda name=name: any(t.query_id == name for a in tracks for t in a.tracks),
            "a track",
        )
        request = srv.RemoveQuery.Request(id=name)
        assert client.call(srv.RemoveQuery, "grounding/remove_query", request).success

    def is_forgotten() -> bool:
        gc.collect()
        return not any(reference() for reference in removed) and not publishers._open_events

    client.publish_until(publish_image, is_forgotten, "the end of the removed queries")
    propagation = grounder._propagations["camera"]
    assert not propagation._carriers and not propagation._fresh
    assert not propagation._without_picture


def test_answers_to_a_replaced_query_keep_its_text(client: ClientNode, start_node) -> None:
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node(queries=['{"id": "a", "text": "the red box", "period": 0.05}'])
    publish_image = ImagePublisher(client)
    client.publish_until(publish_image, lambda: answers, "an answer to the first")
    assert add_query(client, id="a", text="the cup", period=0.05).success
    client.publish_until(
        publish_image,
        lambda: any(a.query.text == "the cup" for a in list(answers)),
        "the second answer",
    )
    texts = [a.query.text for a in answers]
    assert texts == sorted(
        texts, key=["the red box", "the cup"].index
    )  # no answer to the first after one to the second


def test_standing_queries_can_be_paused_and_resumed(
    client: ClientNode, start_node, backend
) -> None:
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node(queries=["the red box"], default_period=0.05)
    publish_image = ImagePublisher(client)
    client.publish_until(publish_image, lambda: answers, "an answer")

    def enable(value: bool) -> bool:
        request = srv.Enable.Request(enable=value)
        return client.call(srv.Enable, "grounding/enable", request).success

    assert enable(False)
    # The action still works. Once it is answered, every earlier tick has ended.
    assert ask(client).success
    seen, shots = len(answers), 0

    def one_more() -> None:
        nonlocal shots
        publish_image()
        shots += 1

    client.publish_until(one_more, lambda: shots >= 10, "ten images")
    assert ask(client).success
    assert len(answers) == seen
    assert enable(True)
    client.publish_until(publish_image, lambda: len(answers) > seen, "an answer after the pause")


def ask(client: ClientNode) -> action.Ground.Result:
    server = client.action(action.Ground, "grounding/ground")
    return Goal(client, server, text="the red box").result()[1]


def test_thresholds_can_change_at_run_time(client: ClientNode, start_node) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=["the red box"], default_period=0.05)
    publish_image = ImagePublisher(client)
    client.publish_until(publish_image, lambda: any(a.tracks for a in tracks), "a track")
    assert set_parameter(client, "track_timeout", 0.2) == (True, "")
    assert set_parameter(client, "min_confidence", 0.95) == (True, "")
    # The confidence of the red-box backend is lower than that.
    client.publish_until(publish_image, lambda: not tracks[-1].tracks, "the end of the track")
    assert set_parameter(client, "min_confidence", 0.0) == (True, "")
    client.publish_until(publish_image, lambda: tracks[-1].tracks, "a track again")
    assert {q.period for q in list_queries(client).values()} == {0.05}
    assert set_parameter(client, "default_period", 7.0)[0]
    assert add_query(client, id="late", text="the cup").success
    assert list_queries(client)["late"].period == 7.0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("min_confidence", 1.5, "min_confidence"),
        ("overlay_quality", 0, "overlay_quality"),
        ("model", "/elsewhere", "read-only"),
        ("cameras", ["rear=image"], "read-only"),
        ("track_timeout", "long", "expected a number"),
        ("evidence_off", 0.9, "expected at most evidence_on"),
        ("confirmations", 0, "confirmations"),
    ],
)
def test_invalid_parameter_change_is_rejected(
    client: ClientNode, start_node, name, value, expected
) -> None:
    start_node()
    successful, reason = set_parameter(client, name, value)
    assert not successful
    assert expected in reason


def test_every_parameter_is_described(client: ClientNode, start_node) -> None:
    node = start_node()
    names = [n for n in vars(node.parameters) if node.has_parameter(n)]
    response = client.call(
        DescribeParameters, "grounding/describe_parameters", DescribeParameters.Request(names=names)
    )
    descriptors: dict[str, ParameterDescriptor] = dict(zip(names, response.descriptors))
    assert set(descriptors) == set(vars(node.parameters))
    assert all(d.description for d in descriptors.values())
    (bounds,) = descriptors["min_confidence"].floating_point_range
    assert (bounds.from_value, bounds.to_value) == (0.0, 1.0)
    assert descriptors["model"].read_only
    assert not descriptors["min_confidence"].read_only


def test_the_task_chosen_for_a_noun_phrase_is_said(client: ClientNode, start_node) -> None:
    start_node(queries=["the green ball", "the ball rolls"])
    note = "no task named: a noun phrase is asked as REC (where is it now)"
    client.wait_log("added query 'q1': REC 'the green ball'", note)
    response = add_query(client, id="cup", text="the cup")
    assert (response.success, response.id) == (True, "cup")
    assert response.message.startswith(note)
    client.wait_log("added query 'cup': REC 'the cup'", note)
    for values in ({"text": "the cup falls"}, {"text": "the cup", "task": "REC"}):
        assert add_query(client, id="quiet", **values).message == ""
    publisher = client.create_publisher(msg.Query, "grounding/query", 10)
    client.poll(publisher.get_subscription_count, "the node's subscription")
    publisher.publish(msg.Query(id="door", text="the door"))
    client.wait_log("added query 'door': REC 'the door'", note)
    tasks = {name: query.task for name, query in list_queries(client).items()}
    assert tasks == {"q1": "REC", "q2": "STVG", "cup": "REC", "quiet": "REC", "door": "REC"}


def test_an_int_as_a_period_is_refused_with_the_explanation(client: ClientNode, start_node) -> None:
    start_node()
    message = msg.Query(text="the box")
    try:
        message.period = 2
    except AssertionError:
        pytest.skip("rclpy checks messages here")
    request = srv.AddQuery.Request(query=message)
    response = client.call(srv.AddQuery, "grounding/add_query", request)
    assert not response.success
    assert "an int or a NumPy number in a float field" in response.message
    assert list_queries(client) == {}


def test_a_burst_of_requests_is_answered_completely(client: ClientNode, start_node) -> None:
    start_node(max_queries=1000)
    service = client.create_client(srv.AddQuery, "grounding/add_query", qos_profile=REQUESTS)
    client.poll(service.service_is_ready, "the service")
    requests = [
        srv.AddQuery.Request(query=msg.Query(id=f"q{i}", text="the red box")) for i in range(200)
    ]
    first = service.call_async(requests[0])
    client.poll(first.done, "a response")  # both sides are connected
    futures = [service.call_async(request) for request in requests]
    client.poll(lambda: all(future.done() for future in futures), "all responses")
    assert all(future.result().success for future in futures)
    assert len(list_queries(client)) == 200


def test_a_long_query_is_short_in_the_log(client: ClientNode, start_node) -> None:
    start_node()
    assert add_query(client, id="long", text="red " * 300).success
    assert len(client.wait_log("added query 'long'")) < 200
