"""Standing queries by service and topic, the switch, and parameters changed while it runs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from peer import Peer, raw
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from seeing import picture

from llava_st_ros import msg, srv
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.ros.parameters import NodeParameters

pytestmark = pytest.mark.ros


def test_every_setting_of_the_grounder_comes_from_its_parameter() -> None:
    given = {
        "window_seconds": 7.5,
        "history": 0.3,
        "buffer_megabytes": 9,
        "reset_seconds": 2.5,
        "constrained": False,
        "max_new_tokens": 77,
        "no_match_threshold": 0.21,
        "min_confidence": 0.22,
        "association_iou": 0.23,
        "track_timeout": 4.5,
        "event_gap": 1.5,
    }
    config, usual = NodeParameters(**given).grounder_config, GrounderConfig()
    assert config.stream == StreamConfig(
        window_seconds=7.5, history=0.3, buffer_bytes=9 << 20, reset_seconds=2.5
    )
    names = [field.name for field in fields(GrounderConfig)]
    assert all(getattr(config, name) != getattr(usual, name) for name in names)
    others = {getattr(config, name) for name in names if name != "stream"}
    assert others == {False, 77, 0.21, 0.22, 0.23, 4.5, 1.5}


class Shots:
    """Images of one red box, a tenth of a second apart."""

    def __init__(self, peer: Peer) -> None:
        self._camera, self.stamp = peer.camera("image"), 10**12

    def __call__(self) -> None:
        self.stamp += 10**8
        self._camera.publish(raw(picture(10, 10, 30, 30), self.stamp))


def add(peer: Peer, **fields: Any) -> srv.AddQuery.Response:
    request = srv.AddQuery.Request(query=msg.Query(**fields))
    return peer.call(srv.AddQuery, "grounding/add_query", request)


def standing(peer: Peer) -> dict[str, msg.Query]:
    response = peer.call(srv.ListQueries, "grounding/list_queries", srv.ListQueries.Request())
    return {query.id: query for query in response.queries}


def set_parameter(peer: Peer, name: str, value: Any) -> tuple[bool, str]:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = peer.call(SetParameters, "grounding/set_parameters", request).results
    return result.successful, result.reason


def test_queries_are_added_listed_asked_and_removed(peer: Peer, start) -> None:
    answers = peer.collect(msg.Answer, "grounding/answers")
    start(queries=['{"id": "cup", "text": "the cup", "period": 2.5}'])
    assert set(standing(peer)) == {"cup"}
    box = msg.Box(x_min=10.0, y_min=20.0, x_max=30.0, y_max=40.0)
    added = add(peer, text="the red box", task="stvg", expiry=9.0, cameras=["camera"])
    assert (added.success, added.id, added.message) == (True, "q1", "")
    assert add(peer, id="r", task="REG", box=[box], image_width=100, image_height=200).success
    queries = standing(peer)
    assert list(queries) == ["cup", "q1", "r"]
    assert (queries["cup"].period, queries["cup"].text) == (2.5, "the cup")
    assert (queries["q1"].task, queries["q1"].period, queries["q1"].expiry) == ("STVG", 1.0, 9.0)
    region = queries["r"].box[0]  # in pixels of the 1 x 1 image that it names
    assert (region.x_min, region.y_max) == pytest.approx((0.1, 0.2))

    shoot = Shots(peer)
    ids = {"cup", "q1", "r"}
    peer.publish_until(shoot, lambda: {a.query.id for a in list(answers)} == ids, "three answers")
    for query_id in ids:
        request = srv.RemoveQuery.Request(id=query_id)
        assert peer.call(srv.RemoveQuery, "grounding/remove_query", request).success
    assert standing(peer) == {}
    refused = peer.call(
        srv.RemoveQuery, "grounding/remove_query", srv.RemoveQuery.Request(id="cup")
    )
    assert not refused.success
    assert "'cup'" in refused.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": "x" * 3000}, "3000 characters"),
        ({"text": " "}, "without words"),
        ({"text": "the box", "task": "WHO"}, "task 'WHO' is unknown; expected one of STVG"),
        ({"text": "the box", "cameras": ["rear"]}, "camera 'rear'; expected one of camera"),
        ({"text": "the box", "period": -1.0}, "is -1.0; expected seconds > 0"),
        ({"text": "the box", "expiry": float("nan")}, "is nan; expected seconds > 0"),
        ({"text": "the box", "task": "SVG"}, "span"),
        ({"text": "the box", "task": "SVG", "span": [0.8, 0.2]}, "span is (0.8, 0.2)"),
        ({"task": "REG", "box": [msg.Box(x_max=1.0, y_max=1.0)]}, "without image_width"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_a_query_that_cannot_be_asked_is_refused_with_its_reason(
    peer: Peer, start, fields: dict[str, Any], words: str
) -> None:
    start()
    response = add(peer, **fields)
    assert not response.success
    assert words in response.message
    assert "; expected " in response.message
    assert standing(peer) == {}


def test_the_query_topic_adds_and_tells_of_what_it_refuses(peer: Peer, start) -> None:
    tracks = peer.collect(msg.GroundedTrackArray, "tracks")
    start()
    publisher = peer.create_publisher(msg.Query, "grounding/query", 10)
    peer.poll(publisher.get_subscription_count, "the node's subscription")
    publisher.publish(msg.Query(id="bad", text="the red box", task="WHO"))
    peer.wait_log("refused a query", "task 'WHO'")
    publisher.publish(msg.Query(id="good", text="the red box"))
    shoot = Shots(peer)
    peer.publish_until(shoot, lambda: any(a.tracks for a in tracks), "a track")
    assert {t.query_id for a in tracks for t in a.tracks} == {"good"}


def test_a_replaced_query_cannot_relabel_what_was_asked_before(peer: Peer, start) -> None:
    answers = peer.collect(msg.Answer, "grounding/answers")
    start(queries=['{"id": "a", "text": "the red box", "period": 0.05}'])
    shoot = Shots(peer)
    peer.publish_until(shoot, lambda: answers, "an answer to the first")
    assert add(peer, id="a", text="the cup", period=0.05).success
    peer.publish_until(
        shoot,
        lambda: any(a.query.text == "the cup" for a in list(answers)),
        "the second answer",
    )
    texts = [a.query.text for a in answers]
    assert texts == sorted(texts, key=["the red box", "the cup"].index)  # never back again


def test_the_switch_pauses_and_resumes(peer: Peer, start, backend) -> None:
    answers = peer.collect(msg.Answer, "grounding/answers")
    start(queries=["the red box"], default_period=0.05)
    shoot = Shots(peer)
    peer.publish_until(shoot, lambda: answers, "an answer")

    def switch(on: bool) -> bool:
        return peer.call(srv.Enable, "grounding/enable", srv.Enable.Request(enable=on)).success

    assert switch(False)
    # The action works either way, and after its answer every tick begun before it is over.
    assert ask(peer).success
    seen, shots = len(answers), 0

    def one_more() -> None:
        nonlocal shots
        shoot()
        shots += 1

    peer.publish_until(one_more, lambda: shots >= 10, "ten images")
    assert ask(peer).success
    assert len(answers) == seen
    assert switch(True)
    peer.publish_until(shoot, lambda: len(answers) > seen, "an answer after the pause")


def ask(peer: Peer) -> Any:
    from llava_st_ros import action

    client = peer.action(action.Ground, "grounding/ground")
    sent = client.send_goal_async(action.Ground.Goal(query=msg.Query(text="the red box")))
    handle = peer.poll(lambda: sent.done() and sent.result(), "the goal's acceptance")
    result = handle.get_result_async()
    return peer.poll(lambda: result.done() and result.result(), "the goal's result").result


def test_thresholds_change_while_it_runs(peer: Peer, start) -> None:
    tracks = peer.collect(msg.GroundedTrackArray, "tracks")
    start(queries=["the red box"], default_period=0.05)
    shoot = Shots(peer)
    peer.publish_until(shoot, lambda: any(a.tracks for a in tracks), "a track")
    assert set_parameter(peer, "track_timeout", 0.2) == (True, "")
    assert set_parameter(peer, "min_confidence", 0.95) == (True, "")
    # The seeing backend is sure, but not as sure as that.
    peer.publish_until(shoot, lambda: not tracks[-1].tracks, "the end of the track")
    assert set_parameter(peer, "min_confidence", 0.0) == (True, "")
    peer.publish_until(shoot, lambda: tracks[-1].tracks, "a track again")
    assert {q.period for q in standing(peer).values()} == {0.05}
    assert set_parameter(peer, "default_period", 7.0)[0]
    assert add(peer, id="late", text="the cup").success
    assert standing(peer)["late"].period == 7.0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("min_confidence", 1.5, "min_confidence"),
        ("overlay_quality", 0, "overlay_quality"),
        ("model", "/elsewhere", "read-only"),
        ("cameras", ["rear=image"], "read-only"),
        ("track_timeout", "long", "type"),
    ],
)
def test_what_must_not_change_is_refused(peer: Peer, start, name, value, words) -> None:
    start()
    successful, reason = set_parameter(peer, name, value)
    assert not successful
    assert words in reason


def test_every_parameter_is_described(peer: Peer, start) -> None:
    node = start()
    names = [n for n in node._parameters if n in vars(node.settings)]
    response = peer.call(
        DescribeParameters, "grounding/describe_parameters", DescribeParameters.Request(names=names)
    )
    descriptors: dict[str, ParameterDescriptor] = dict(zip(names, response.descriptors))
    assert set(descriptors) == set(vars(node.settings))
    assert all(d.description for d in descriptors.values())
    (bounds,) = descriptors["min_confidence"].floating_point_range
    assert (bounds.from_value, bounds.to_value) == (0.0, 1.0)
    assert descriptors["model"].read_only
    assert not descriptors["min_confidence"].read_only
