"""Tracks in messages of other packages: the conversions, the choice of outputs, and the topics."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

import visualization_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.serialization import deserialize_message, serialize_message

from llava_st_ros import msg
from llava_st_ros.errors import BackendError, ConfigError
from llava_st_ros.records import NANOSECONDS, Box, BoxTube, Track, TrackState
from llava_st_ros.ros import output_kinds
from llava_st_ros.ros.conversions import header, stamp_from_msg
from llava_st_ros.ros.detection_messages import detections_2d
from llava_st_ros.ros.drawing_messages import LABEL_CHARACTERS, image_annotations, image_marker
from llava_st_ros.ros.output_kinds import KINDS, Selection, select
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.track_outputs import TrackOutputs, camera_topic
from support.message_stand_ins import (
    FOXGLOVE_MSGS_NEW,
    FOXGLOVE_MSGS_OLD,
    VISION_MSGS_3,
    VISION_MSGS_4,
    stand_ins,
)
from support.red_box_backend import HEIGHT, STEP_X, STEP_Y, WIDTH, red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros
NEWEST = 20 * NANOSECONDS
VERSIONS = {
    "vision_msgs 3": ("vision_msgs", VISION_MSGS_3),
    "vision_msgs 4": ("vision_msgs", VISION_MSGS_4),
    "foxglove_msgs old": ("foxglove_msgs", FOXGLOVE_MSGS_OLD),
    "foxglove_msgs new": ("foxglove_msgs", FOXGLOVE_MSGS_NEW),
}


def messages(version: str) -> Any:
    """The stand-ins of a version, or the installed package if the version is a package's name."""
    if version in VERSIONS:
        return stand_ins(*VERSIONS[version])
    return pytest.importorskip(f"{version}.msg", reason=f"{version} is not installed")


def track(
    number: int, box: Box, state: TrackState = TrackState.GROUNDED, seconds: float = 20.0
) -> Track:
    tube = BoxTube((round(seconds * NANOSECONDS),), (box,))
    return Track("cup", number, "the red cup", tube, state, 0.75, "front", "optical", 640, 480)


# 160 to 320 by 48 to 240 pixels of 640 x 480; the second one's box is of an earlier image.
TRACKS = (
    track(7, Box(0.25, 0.1, 0.5, 0.5)),
    track(8, Box(0.0, 0.0, 0.25, 0.125), TrackState.PROPAGATED, 18.5),
    track(9, Box(0.5, 0.5, 1.0, 1.0), TrackState.LOST, 15.0),
)


@pytest.mark.parametrize("package", ["vision_msgs", "foxglove_msgs"])
def test_stand_ins_have_the_fields_of_the_installed_package(package: str) -> None:
    types = pytest.importorskip(f"{package}.msg", reason=f"{package} is not installed")
    versions = [fields for owner, fields in VERSIONS.values() if owner == package]
    differences = []
    for fields in versions:
        wrong = [
            name
            for name, entries in fields.items()
            if entries
            and (
                not hasattr(types, name)
                or dict(getattr(types, name).get_fields_and_field_types()) != entries
            )
        ]
        differences.append(wrong)
    assert [] in differences, differences


@pytest.mark.parametrize("version", ["vision_msgs 3", "vision_msgs 4", "vision_msgs"])
def test_detections_are_in_pixels_of_the_source_image(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    types = messages(version)
    array = detections_2d(types, TRACKS, header(NEWEST, "optical"))
    if version not in VERSIONS:
        array = deserialize_message(serialize_message(array), types.Detection2DArray)
    assert (stamp_from_msg(array.header.stamp), array.header.frame_id) == (NEWEST, "optical")
    assert [d.id for d in array.detections] == ["7", "8"], "a LOST track is not a detection"
    first, second = array.detections
    center = getattr(first.bbox.center, "position", first.bbox.center)
    assert (center.x, center.y) == (240.0, 144.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (160.0, 192.0)
    assert first.bbox.center.theta == 0.0
    assert [result.hypothesis.class_id for result in first.results] == ["cup"]
    assert [result.hypothesis.score for result in first.results] == [0.75]
    assert stamp_from_msg(first.header.stamp) == NEWEST
    assert stamp_from_msg(second.header.stamp) == round(18.5 * NANOSECONDS)
    assert second.header.frame_id == "optical"


def test_an_empty_array_of_detections_says_that_there_are_none() -> None:
    types = messages("vision_msgs 4")
    array = detections_2d(types, (), header(NEWEST, "optical"))
    assert array.detections == [] and stamp_from_msg(array.header.stamp) == NEWEST


@pytest.mark.parametrize("version", ["foxglove_msgs old", "foxglove_msgs new", "foxglove_msgs"])
def test_annotations_have_a_box_and_a_label_for_each_track(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    types = messages(version)
    message = image_annotations(types, TRACKS, header(NEWEST, "optical"))
    if version not in VERSIONS:
        message = deserialize_message(serialize_message(message), types.ImageAnnotations)
    if hasattr(message, "timestamp"):
        assert stamp_from_msg(message.timestamp) == NEWEST
    times = {stamp_from_msg(a.timestamp) for a in (*message.points, *message.texts)}
    assert times == {NEWEST}
    assert len(message.points) == len(message.texts) == 3
    corners = [(p.x, p.y) for p in message.points[0].points]
    assert corners == [(160.0, 48.0), (320.0, 48.0), (320.0, 240.0), (160.0, 240.0)]
    assert message.points[0].type == 2  # a closed line
    assert message.points[0].outline_color.a == 1.0 > message.points[2].outline_color.a
    assert message.points[0].thickness > message.points[2].thickness
    labels = [text.text for text in message.texts]
    assert labels == [
        "the red cup #7",
        "the red cup #8 (propagated)",
        "the red cup #9 (lost)",
    ]
    assert (message.texts[0].position.x, message.texts[0].position.y) == (160.0, 48.0)
    # At the upper edge of the image the label is inside, one line below it.
    assert message.texts[1].position.y == message.texts[1].font_size == 0.03 * 480


def test_a_label_is_one_short_line() -> None:
    types = messages("foxglove_msgs new")
    text = "a\x1b[2J cup\n" * 500
    tube = BoxTube((NEWEST,), (Box(0, 0, 1, 1),))
    long = Track("q", 3, text, tube, TrackState.GROUNDED, 0.5, "front", "optical", 640, 480)
    (label,) = (t.text for t in image_annotations(types, [long], header(NEWEST, "")).texts)
    assert label.isprintable() and len(label) <= LABEL_CHARACTERS and label.endswith("#3")


def test_one_image_marker_has_the_lines_of_all_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    types = visualization_msgs.msg
    marker = image_marker(types, TRACKS, header(NEWEST, "optical"))
    marker = deserialize_message(serialize_message(marker), types.ImageMarker)
    assert (marker.type, marker.action) == (types.ImageMarker.LINE_LIST, types.ImageMarker.ADD)
    assert stamp_from_msg(marker.header.stamp) == NEWEST
    assert marker.header.frame_id == "optical"
    points = [(point.x, point.y) for point in marker.points]
    assert points[:8] == [
        (160.0, 48.0), (320.0, 48.0), (320.0, 48.0), (320.0, 240.0),
        (320.0, 240.0), (160.0, 240.0), (160.0, 240.0), (160.0, 48.0),
    ]  # fmt: skip
    assert len(points) == 3 * 8 and len(marker.outline_colors) == 3 * 4  # a color for each line
    assert [color.a for color in marker.outline_colors[::4]] == pytest.approx([1.0, 1.0, 0.4])


def test_image_marker_without_tracks_removes_the_previous_one() -> None:
    types = visualization_msgs.msg
    some = image_marker(types, TRACKS, header(NEWEST, ""))
    none = image_marker(types, (), header(NEWEST, ""))
    assert none.action == types.ImageMarker.REMOVE and not none.points
    assert (none.ns, none.id) == (some.ns, some.id)


def absent(package: str) -> Any:
    raise ModuleNotFoundError(f"No module named {package!r}")


def only_visualization(package: str) -> Any:
    return visualization_msgs.msg if package == "visualization_msgs" else absent(package)


@pytest.mark.parametrize(
    ("names", "found", "lines", "is_requested"),
    [
        (["auto"], ["image_markers"], ["vision_msgs", "foxglove_msgs"], False),
        (["detections"], [], ["vision_msgs"], True),
        (["auto", "annotations"], ["image_markers"], ["vision_msgs", "foxglove_msgs"], True),
        (["image_markers"], ["image_markers"], [], False),
        ([], [], [], False),
        ([""], [], [], False),
    ],
)
def test_outputs_are_chosen_by_name_and_by_what_is_installed(
    names: list[str], found: list[str], lines: list[str], is_requested: bool
) -> None:
    selection = select(names, False, only_visualization)
    assert [kind.name for kind, _ in selection.kinds] == found
    assert selection.is_requested is is_requested
    assert len(selection.missing) == len(lines)
    for line, package in zip(selection.missing, lines):
        assert f"{package} is not installed (No module named '{package}')" in line


def test_unknown_output_is_rejected() -> None:
    with pytest.raises(ConfigError, match="outputs has 'boxes'; expected auto or names of detect"):
        NodeParameters(outputs=("detections", "boxes"))


@pytest.mark.parametrize(
    ("camera", "cameras", "topic"),
    [
        ("front", ["front"], "~/detections"),
        ("front", ["front", "back"], "~/detections/front"),
        ("arm 2", ["front", "arm 2"], "~/detections/arm_2"),
    ],
)
def test_topics_have_the_camera_where_there_are_several(
    camera: str, cameras: list[str], topic: str
) -> None:
    assert camera_topic("detections", camera, cameras) == topic


class FakeNode:
    def __init__(self) -> None:
        self.published: dict[str, list[Any]] = {}
        self.destroyed: list[Any] = []
        self.viewers = 1

    def resolve_topic_name(self, name: str) -> str:
        return name

    def create_lifecycle_publisher(self, kind: type, topic: str, *_: Any, **__: Any) -> Any:
        messages = self.published.setdefault(topic, [])
        return SimpleNamespace(
            publish=messages.append,
            get_subscription_count=lambda: self.viewers,
            topic=topic,
            event_handlers=(),
        )

    def destroy_lifecycle_publisher(self, publisher: Any) -> None:
        self.destroyed.append(publisher.topic)


def test_an_output_that_fails_does_not_keep_back_the_others() -> None:
    broken = SimpleNamespace(Detection2DArray=object)  # a version with other messages
    node = FakeNode()
    detections, _, markers = KINDS[:3]
    selection = Selection(((detections, broken), (markers, visualization_msgs.msg)))
    outputs = TrackOutputs(node, ["front"], selection)
    with pytest.raises(BackendError, match="vision_msgs/Detection2DArray: AttributeError"):
        outputs.publish("front", TRACKS, header(NEWEST, "optical"))
    assert len(node.published["~/image_markers"]) == 1
    node.viewers = 0
    outputs.publish("front", TRACKS, header(NEWEST, "optical"))  # nothing is made for nobody
    assert len(node.published["~/image_markers"]) == 1
    outputs.publish("another", TRACKS, header(NEWEST, "optical"))
    outputs.destroy()
    assert node.destroyed == ["~/detections", "~/image_markers"]


class FakeDepth:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def keep(self, is_kept: bool) -> None:
        self.calls.append(is_kept)

    def place(self, tracks: Any) -> list[Any]:
        self.calls.append(len(tracks))
        return []


def test_a_viewer_that_joins_gets_the_last_tracks_and_depth_is_kept_for_3d_only() -> None:
    node, depth = FakeNode(), FakeDepth()
    types = visualization_msgs.msg
    kinds = [kind for kind in KINDS if kind.package == "visualization_msgs"]
    selection = Selection(tuple((kind, types) for kind in kinds))
    get_depth: Any = lambda camera: depth  # noqa: E731
    outputs = TrackOutputs(node, ["front"], selection, ["front"], get_depth)
    outputs._repeat("front", "markers")
    assert not node.published["~/markers"] and not depth.calls  # there are no tracks yet
    node.viewers = 0
    outputs.publish("front", TRACKS, header(NEWEST, "optical"))
    assert depth.calls == [False]
    node.viewers = 1
    outputs._repeat("front", "image_markers")
    assert depth.calls[1:] == [True], "another topic's viewer still uses depth; nothing is placed"
    assert len(node.published["~/image_markers"]) == 1 and not node.published["~/markers"]
    outputs._repeat("front", "markers")
    assert depth.calls[2:] == [True, len(TRACKS)]
    assert len(node.published["~/image_markers"]) == len(node.published["~/markers"]) == 1
    outputs.publish("front", (), header(NEWEST, "optical"))
    assert depth.calls[4:] == [False, 0], (
        "no tracks: nothing to keep, but earlier boxes are removed"
    )
    outputs.reset()
    outputs._repeat("front", "markers")
    assert len(node.published["~/markers"]) == 2


def test_a_viewer_that_joins_late_gets_the_last_tracks(client: ClientNode, start_node) -> None:
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=["the red box"], cameras=["front=image"])
    camera, stamp = client.camera("image"), 10**12

    def publish_image() -> None:
        nonlocal stamp
        stamp += 10**8
        camera.publish(image_message(red_box_image(10, 10, 30, 30), stamp))

    client.publish_until(publish_image, lambda: any(a.tracks for a in arrays), "a track")
    late = client.collect(visualization_msgs.msg.ImageMarker, "grounding/image_markers")
    client.wait(lambda: any(m.points for m in late), "the last tracks, without a new image")


def test_a_damaged_package_costs_only_its_own_output() -> None:
    node, logged = FakeNode(), []
    create = node.create_lifecycle_publisher

    def fail_for_detections(kind: type, topic: str, *args: Any, **options: Any) -> Any:
        if topic == "~/detections":
            raise RuntimeError("no type support")
        return create(kind, topic, *args, **options)

    node.create_lifecycle_publisher = fail_for_detections  # type: ignore[method-assign]
    node.get_logger = lambda: SimpleNamespace(warning=logged.append)  # type: ignore[attr-defined]
    types = stand_ins("vision_msgs", VISION_MSGS_4)
    kinds = ((KINDS[0], types), (KINDS[2], visualization_msgs.msg))
    outputs = TrackOutputs(node, ["front"], Selection(kinds))
    assert logged == [
        "~/detections cannot be published: vision_msgs: RuntimeError: no type support"
    ]
    outputs.publish("front", TRACKS, header(NEWEST, "optical"))
    assert len(node.published["~/image_markers"]) == 1

    def damaged(package: str) -> Any:
        raise OSError("libvision_msgs.so: undefined symbol")

    assert "undefined symbol" in select(["detections"], False, damaged).missing[0]


def test_node_publishes_what_is_installed_with_the_stamps_of_tracks(
    client: ClientNode, start_node
) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    markers = client.collect(visualization_msgs.msg.ImageMarker, "grounding/image_markers")
    detections: list[Any] = []
    try:
        import vision_msgs.msg

        detections = client.collect(vision_msgs.msg.Detection2DArray, "grounding/detections")
    except ImportError:
        pass  # test_a_requested_output_without_its_package_is_a_warning
    start_node(queries=["the red box"], cameras=["front=image"])
    camera, stamp = client.camera("image"), 10**12

    def publish_image() -> None:
        nonlocal stamp
        stamp += 10**8
        camera.publish(image_message(red_box_image(10, 10, 30, 30), stamp))

    client.publish_until(publish_image, lambda: any(m.points for m in markers), "a marker")
    marker = next(m for m in markers if m.points)
    client.wait(lambda: any(a.header.stamp == marker.header.stamp for a in tracks), "its tracks")
    corners = {(p.x, p.y) for p in marker.points}
    expected = [10 * STEP_X, 10 * STEP_Y, 30 * STEP_X, 30 * STEP_Y]
    assert (min(corners), max(corners)) == (
        pytest.approx((expected[0], expected[1]), abs=1e-3),
        pytest.approx((expected[2], expected[3]), abs=1e-3),
    )
    assert marker.header.frame_id == "optical" and expected[2] <= WIDTH and expected[3] <= HEIGHT
    if output_kinds.select(["detections"], False).kinds:
        client.wait(lambda: any(a.detections for a in detections), "a detection")


def test_a_requested_output_without_its_package_is_a_warning(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", None)  # its import fails
    statuses = client.collect(DiagnosticArray, "/diagnostics")
    start_node(outputs=["detections"])
    line = client.wait_log("~/detections cannot be published: vision_msgs is not installed")

    def is_reported() -> bool:
        found = [s for a in statuses for s in a.status if s.name.endswith("model")]
        return any(line in s.message and s.level == DiagnosticStatus.WARN for s in found)

    client.wait(is_reported, "the reason in diagnostics")
