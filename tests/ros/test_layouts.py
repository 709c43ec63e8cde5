"""The layouts for Foxglove and RViz name topics and fields that the node has."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from llava_st_ros import msg
from llava_st_ros.errors import DataError
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.yaml_files import read_yaml
from llava_st_ros.ros.output_kinds import NAMES
from support.paths import ROOT
from support.ros_client import ClientNode

pytestmark = pytest.mark.ros
FOXGLOVE = ROOT / "config" / "foxglove" / "grounding.json"
RVIZ = ROOT / "config" / "rviz" / "grounding.rviz"


@pytest.fixture
def topics(client: ClientNode, start_node) -> set[str]:
    """The topics of a node with its default names."""
    start_node(depth=["/depth"])

    def found() -> set[str]:
        return {name for name, _ in client.get_topic_names_and_types()}

    client.poll(lambda: {"/image", "/events", "/grounding/markers"} <= found(), "the node's topics")
    packages = {f"/grounding/{name}" for name in NAMES}  # not all may be installed
    return found() | packages | {"/tf", "/tf_static"}


def test_foxglove_layout_fits_the_node(topics: set[str]) -> None:
    layout = read_json(FOXGLOVE, DataError)
    panels = layout["configById"]
    camera, boxes = panels["Image!camera"]["imageMode"], panels["3D!boxes"]
    publish = panels["Publish!query"]
    named = {camera["imageTopic"], *camera["annotations"], *boxes["topics"], publish["topicName"]}
    named.add(panels["DiagnosticSummary!health"]["topicToRender"])
    paths = [panels["RawMessages!tracks"]["topicPath"]]
    paths += [path["value"] for path in panels["StateTransitions!events"]["paths"]]
    for path, kind in zip(paths, (msg.GroundedTrackArray, msg.GroundedEvent, msg.GroundedEvent)):
        topic, _, field = path.partition(".")
        named.add(topic)
        assert field in kind.get_fields_and_field_types()
    assert named <= topics
    assert publish["datatype"] == "llava_st_ros/msg/Query"
    assert set(json.loads(publish["value"])) <= set(msg.Query.get_fields_and_field_types())
    assert sorted(_leaves(layout["layout"])) == sorted(panels)


def _leaves(layout: Any) -> list[str]:
    if isinstance(layout, str):
        return [layout]
    return _leaves(layout["first"]) + _leaves(layout["second"])


def test_rviz_layout_fits_the_node(topics: set[str]) -> None:
    displays = read_yaml(RVIZ, DataError)["Visualization Manager"]["Displays"]
    named = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert named == {"/grounding/overlay/compressed", "/grounding/markers"} <= topics
