"""Tracks in space: depth images are matched, bounded, used; what is not placed is reported."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

import visualization_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image

from llava_st_ros.errors import ConfigError
from llava_st_ros.records import NANOSECONDS, Box, BoxTube, Track, TrackState
from llava_st_ros.ros import depth_camera
from llava_st_ros.ros.camera_sources import CameraSource, depth_source, parse_camera_topics
from llava_st_ros.ros.conversions import header, stamp_from_msg
from llava_st_ros.ros.depth_camera import DepthMessages, PlacedTrack, stamp_of
from llava_st_ros.ros.detection_messages import detections_3d
from llava_st_ros.ros.drawing_messages import markers_3d
from llava_st_ros.ros.parameters import NodeParameters
from support.message_stand_ins import VISION_MSGS_3, VISION_MSGS_4, stand_ins
from support.red_box_backend import HEIGHT, WIDTH, red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros
MS = NANOSECONDS // 1000
START = 1_700_000_000 * NANOSECONDS
FOCAL, MIDDLE = 200.0, (WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5)  # the principal point is the middle
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DELETEALL, CUBE, TEXT = 3, 1, 9


def kept(*stamps: int, max_bytes: int = 100) -> DepthMessages:
    messages = DepthMessages(max_bytes, 50 * MS, NANOSECONDS)
    messages.keep(True)
    for stamp in stamps:
        messages.add(stamp, b"0123456789")
    return messages


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (100, 100),
        (114, 100),
        (115, 100),
        (116, 130),
        (180, 130),
        (181, None),
        (50, 100),
        (49, None),
    ],
)
def test_the_nearest_depth_image_within_the_tolerance_is_used(
    wanted: int, found: int | None
) -> None:
    nearest = kept(100 * MS, 130 * MS).nearest(wanted * MS)
    assert (nearest and nearest[0]) == (found and found * MS)


def test_depth_images_are_bounded_in_memory() -> None:
    messages = kept(*(i * 10 * MS for i in range(1000)))
    assert (len(messages), messages.nbytes) == (10, 100)
    assert messages.nearest(9990 * MS) and not messages.nearest(9800 * MS)
    messages.add(10_000 * MS, b"0" * 1000)  # larger than the bound: the newest one is kept
    assert (len(messages), messages.nbytes) == (1, 1000)


def test_small_depth_images_are_bounded_in_number_and_missing_ones_are_explained() -> None:
    messages = kept(*(i * MS for i in range(3000)), max_bytes=10**9)
    assert len(messages) == 1000
    assert messages.is_dropped(1900 * MS) and not messages.is_dropped(2100 * MS)
    messages.keep(False)
    assert not messages.is_dropped(0)


def test_depth_images_are_kept_only_when_asked() -> None:
    messages = kept(100 * MS)
    messages.keep(False)
    messages.add(110 * MS, b"0123456789")
    assert (len(messages), messages.nbytes) == (0, 0)
    messages.keep(True)
    messages.keep(True)
    messages.add(110 * MS, b"0123456789")
    assert messages.nearest(110 * MS)


def test_a_stamp_that_jumps_back_starts_over() -> None:
    messages = kept(5000 * MS, 5100 * MS)
    assert not messages.add(4900 * MS, b"late")  # out of order, but of this stream
    assert messages.add(1000 * MS, b"a bag that starts again")
    assert len(messages) == 1
    messages.keep(False)  # transforms have to be forgotten, too, when nothing is kept
    assert not messages.add(9000 * MS, b"of this stream")
    assert messages.add(2000 * MS, b"a bag that starts again")
    assert len(messages) == 0


@pytest.mark.parametrize("stamp", [0, 1, START + 123_456_789, -NANOSECONDS])
def test_the_stamp_of_a_serialized_message_is_that_of_its_header(stamp: int) -> None:
    message = Image(header=header(stamp, "a frame"), height=1, width=1)
    assert stamp_of(serialize_message(message)) == stamp


def track(state: TrackState = TrackState.GROUNDED) -> Track:
    tube = BoxTube((START,), (Box(0.25, 0.25, 0.5, 0.5),))
    return Track("cup", 7, "the cup", tube, state, 0.75, "front", "optical", WIDTH, HEIGHT)


TURNED = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))
PLACED = PlacedTrack(track(), "base_link", (1.0, 2.0, 3.0), TURNED, (0.25, 0.5, 0.0))


@pytest.mark.parametrize("version", ["vision_msgs 3", "vision_msgs 4", "vision_msgs"])
def test_detections_in_space(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    if version == "vision_msgs":
        types = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")
    else:
        fields = VISION_MSGS_3 if version.endswith("3") else VISION_MSGS_4
        types = stand_ins("vision_msgs", fields)
    array = detections_3d(types, [PLACED], header(START + 5, "optical"))
    if version == "vision_msgs":
        array = deserialize_message(serialize_message(array), types.Detection3DArray)
    assert stamp_from_msg(array.header.stamp) == START + 5
    (detection,) = array.detections
    assert (detection.id, detection.header.frame_id) == ("7", "base_link")
    assert stamp_from_msg(detection.header.stamp) == START
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("cup", 0.75)
    for pose in (detection.bbox.center, result.pose.pose):
        assert (pose.position.x, pose.position.y, pose.position.z) == PLACED.center
        turn = pose.orientation
        assert (turn.x, turn.y, turn.z, turn.w) == TURNED
    assert (detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z) == PLACED.size


def test_markers_replace_all_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    types = visualization_msgs.msg
    array = markers_3d(types, [PLACED], header(START + 5, "optical"))
    array = deserialize_message(serialize_message(array), types.MarkerArray)
    removal, cube, text = array.markers
    assert removal.action == DELETEALL
    assert (cube.type, text.type, text.text) == (CUBE, TEXT, "the cup #7")
    for marker in (cube, text):
        assert (marker.header.frame_id, marker.id, marker.action) == ("base_link", 7, 0)
        assert (marker.pose.position.x, marker.pose.orientation.w) == (1.0, TURNED[3])
    assert (cube.scale.x, cube.scale.y) == (0.25, 0.5) and cube.scale.z > 0.0
    empty = markers_3d(types, [], header(START, "optical"))
    assert [marker.action for marker in empty.markers] == [DELETEALL]


@pytest.mark.parametrize(
    ("entries", "cameras", "expected"),
    [
        (["/depth"], ["front"], {"front": "/depth"}),
        (["front=/d", "back = /e", " "], ["front", "back"], {"front": "/d", "back": "/e"}),
        (["a=b=/d"], ["a=b"], {"a=b": "/d"}),
        (["/depth"], ["front", "back"], "depth has '/depth'; expected 'camera=topic'"),
        (["side=/d"], ["front"], "unknown camera 'side'; there is front"),
        (["/d"], [], "expected 'camera=topic'"),
        (["front="], ["front"], "expected 'camera=topic'"),
        (["front=/d", "front=/e"], ["front"], "two topics of camera 'front'"),
        (["/d/compressedDepth"], ["front"], "expected the topic of raw messages"),
    ],
)
def test_depth_topics_are_read(entries: list[str], cameras: list[str], expected: Any) -> None:
    if isinstance(expected, dict):
        assert parse_camera_topics("depth", entries, cameras) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            parse_camera_topics("depth", entries, cameras)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"camera_info": ("/i",)}, "camera_info has camera 'camera', which has no depth topic"),
        ({"outputs": ("markers",)}, "outputs has markers, but no camera has a depth topic"),
        ({"depth": ("x=/d",), "cameras": ("y=/d",)}, "unknown camera 'x'"),
        ({"depth_tolerance": 0.1, "depth": ("/d",), "camera_info": ("/i", "/j")}, "two topics"),
    ],
)
def test_contradictory_parameters_are_named(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        NodeParameters(**values)


@pytest.mark.parametrize(
    ("topic", "compressed", "info", "is_rectified"),
    [
        ("/front/image_raw", False, "/front/camera_info", False),
        ("/front/image_raw/compressed", True, "/front/camera_info", False),
        ("/front/image_rect_color", False, "/front/camera_info", True),
        ("/image_rect/raw", False, "/image_rect/camera_info", False),
        ("/image", False, "/camera_info", False),
    ],
)
def test_calibration_is_beside_the_image(
    topic: str, compressed: bool, info: str, is_rectified: bool
) -> None:
    node = SimpleNamespace(resolve_topic_name=lambda name: name)
    source = depth_source(node, CameraSource("front", topic, compressed), "/depth")  # type: ignore[arg-type]
    assert (source.info_topic, source.is_rectified) == (info, is_rectified)
    assert (
        depth_source(node, CameraSource("front", topic, compressed), "/d", "/i").info_topic == "/i"
    )  # type: ignore[arg-type]


def depth_message(stamp: int, millimeters: int = 2000, width: int = WIDTH) -> Image:
    pixels = np.full((HEIGHT, width), millimeters, np.uint16)
    message = Image(header=header(stamp, "optical"), encoding="16UC1")
    message.height, message.width, message.step = HEIGHT, width, width * 2
    message.data.frombytes(pixels.tobytes())
    return message


def camera_info(stamp: int, **changes: Any) -> CameraInfo:
    message = CameraInfo(header=header(stamp, "optical"), width=WIDTH, height=HEIGHT)
    message.distortion_model, message.d = "plumb_bob", [0.0] * 5
    message.k = [FOCAL, 0.0, MIDDLE[0], 0.0, FOCAL, MIDDLE[1], 0.0, 0.0, 1.0]
    for name, value in changes.items():
        setattr(message, name, value)
    return message


class Robot:
    """A camera with depth and calibration, and the messages of the node."""

    def __init__(
        self,
        client: ClientNode,
        start_node: Callable[..., Any],
        *,
        publishes_info: bool = True,
        **parameters: Any,
    ) -> None:
        self.client, self.stamp = client, START
        self.markers: list[Any] = client.collect(
            visualization_msgs.msg.MarkerArray, "grounding/markers"
        )
        self._statuses = client.collect(DiagnosticArray, "/diagnostics")
        start_node(
            queries=["the red box"],
            cameras=["front=/front/image_raw"],
            depth=["/front/depth"],
            **parameters,
        )
        self._image = client.camera("/front/image_raw")
        self._depth = client.camera("/front/depth")
        self._info = client.camera_info("/front/camera_info") if publishes_info else None
        self.info, self.depth_width = camera_info(START), WIDTH

    def publish(self) -> None:
        self.stamp += NANOSECONDS // 10
        if self._info is not None:
            self._info.publish(self.info)
        self._depth.publish(depth_message(self.stamp - 20 * MS, width=self.depth_width))
        corners = (10, 10, 30, 30)
        self._image.publish(image_message(red_box_image(*corners), self.stamp))

    def boxes(self) -> list[Any]:
        return [m for array in tuple(self.markers) for m in array.markers if m.type == CUBE]

    def status(self) -> DiagnosticStatus | None:
        found = [
            s for a in tuple(self._statuses) for s in a.status if s.name.endswith("depth front")
        ]
        return found[-1] if found else None

    def wait_problem(self, text: str) -> None:
        def is_reported() -> bool:
            status = self.status()
            return bool(status and status.level == DiagnosticStatus.WARN and text in status.message)

        self.client.publish_until(self.publish, is_reported, f"{text!r} in diagnostics")
        self.client.wait_log("no 3D box on camera 'front'", text)


def test_node_places_tracks_by_depth_and_calibration(client: ClientNode, start_node) -> None:
    robot = Robot(client, start_node)
    client.publish_until(robot.publish, robot.boxes, "a box in space")
    box = robot.boxes()[0]
    # 40 to 120 by 30 to 90 px of 396 x 297, 2 m away with a focal length of 200 px.
    assert box.header.frame_id == "optical"
    assert (stamp_from_msg(box.header.stamp) - START) % (NANOSECONDS // 10) == 0
    place, extent = box.pose.position, box.scale
    assert (place.x, place.y, place.z) == pytest.approx((-1.18, -0.885, 2.0), abs=1e-6)
    assert (extent.x, extent.y) == pytest.approx((0.8, 0.6), abs=1e-6)

    def counted() -> bool:
        values = {v.key: v.value for v in (robot.status() or DiagnosticStatus()).values}
        return int(values.get("tracks placed", "0")) > 0 and values["last problem"] != ""

    client.publish_until(robot.publish, counted, "the count of placed tracks")


def test_a_calibration_that_was_published_once_is_used(client: ClientNode, start_node) -> None:
    latched = client.create_publisher(CameraInfo, "/front/camera_info", LATCHED)
    latched.publish(camera_info(START))
    robot = Robot(client, start_node, publishes_info=False)
    client.publish_until(robot.publish, robot.boxes, "a box in space")


def test_calibrations_of_a_volatile_publisher_beside_a_latched_one_arrive(
    client: ClientNode, start_node
) -> None:
    latched = client.create_publisher(CameraInfo, "/front/camera_info", LATCHED)
    latched.publish(camera_info(START, k=[0.0] * 9))
    robot = Robot(client, start_node)  # its publisher is volatile and best effort
    client.publish_until(robot.publish, robot.boxes, "a box in space")


def test_nobody_views_the_boxes_and_no_depth_image_is_kept(client: ClientNode, start_node) -> None:
    arrays = client.collect(visualization_msgs.msg.ImageMarker, "grounding/image_markers")
    node = start_node(queries=["the red box"], cameras=["front=/image"], depth=["/depth"])
    images, depth, stamp = client.camera("/image"), client.camera("/depth"), START

    def publish() -> None:
        nonlocal stamp
        stamp += NANOSECONDS // 10
        depth.publish(depth_message(stamp))
        images.publish(image_message(red_box_image(10, 10, 30, 30), stamp))

    client.publish_until(publish, lambda: any(a.points for a in arrays), "a track")
    camera = node._get_depth("front")
    client.publish_until(publish, lambda: camera._received > 5, "depth images")
    assert len(camera._messages) == 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": [0.0] * 9}, "CameraInfo has no calibration: K is [0, 0, 0"),
        ({"width": 640, "height": 480}, "CameraInfo is for 640x480 images"),
        ({"binning_x": 2, "binning_y": 2}, "CameraInfo is for 198x148 images"),
        ({"depth_width": 100}, "the depth image is 100x297, but the image is 396x297"),
    ],
)
def test_calibration_or_depth_of_another_image_is_reported(
    client: ClientNode, start_node, change: dict[str, Any], line: str
) -> None:
    robot = Robot(client, start_node)
    robot.depth_width = change.pop("depth_width", WIDTH)
    robot.info = camera_info(START, **change)
    robot.wait_problem(line)
    assert not robot.boxes()


def test_a_new_track_without_depth_is_counted_but_no_warning(
    client: ClientNode, start_node
) -> None:
    robot = Robot(client, start_node, depth_tolerance=0.01)  # depth is 20 ms earlier

    def counted() -> bool:
        values = {v.key: v.value for v in (robot.status() or DiagnosticStatus()).values}
        return values.get("tracks without a depth image of its time", "0") != "0"

    client.publish_until(robot.publish, counted, "the count of tracks without depth")
    assert robot.status().level == DiagnosticStatus.OK
    assert not any("no 3D box" in line for line in client.log_lines())


def test_depth_of_another_time_is_reported(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth_camera, "GRACE_S", 0.0)
    robot = Robot(client, start_node, depth_tolerance=0.01)  # depth is 20 ms earlier
    robot.wait_problem("no depth image on /front/depth is near the time of the track's image")
    assert not robot.boxes()


class FakeTf:
    """The used parts of tf2_ros, with one transform: from optical to robot axes, and 1 m up."""

    def __init__(self) -> None:
        self.module = ModuleType("tf2_ros")
        self.module.TransformException = type("TransformException", (Exception,), {})  # type: ignore[attr-defined]
        self.module.Buffer = lambda: self  # type: ignore[attr-defined]
        self.module.TransformListener = self.listen  # type: ignore[attr-defined]
        self.listeners = 0

    def listen(self, buffer: Any, node: Any) -> Any:
        assert buffer is self and isinstance(node, Node)
        self.listeners += 1
        return SimpleNamespace(unregister=self.unregister)

    def unregister(self) -> None:
        self.listeners -= 1

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time) -> Any:
        assert time.nanoseconds > START
        if (target_frame, source_frame) != ("base_link", "optical"):
            raise self.module.TransformException(f"{source_frame} is not connected")
        found = TransformStamped()
        turn, found.transform.translation.z = found.transform.rotation, 1.0
        turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
        return found

    def clear(self) -> None:
        pass


def test_boxes_are_transformed_to_the_target_frame(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = FakeTf()
    monkeypatch.setitem(sys.modules, "tf2_ros", tf.module)
    robot = Robot(client, start_node, target_frame="base_link")
    client.publish_until(robot.publish, robot.boxes, "a box in space")
    box = robot.boxes()[0]
    array = next(array for array in robot.markers if box in array.markers)
    assert {marker.header.frame_id for marker in array.markers} == {"base_link"}
    place, turn = box.pose.position, box.pose.orientation
    assert (place.x, place.y, place.z) == pytest.approx((2.0, 1.18, 0.885 + 1.0), abs=1e-6)
    assert (turn.x, turn.y, turn.z, turn.w) == (-0.5, 0.5, -0.5, 0.5)


def test_an_unknown_transform_leaves_no_box(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = FakeTf()
    monkeypatch.setitem(sys.modules, "tf2_ros", tf.module)
    robot = Robot(client, start_node, target_frame="map")
    robot.wait_problem("no transform from 'optical' to 'map': optical is not connected")
    assert not robot.boxes()
    assert tf.listeners == 1


def test_without_tf2_the_boxes_are_in_the_cameras_frame_with_a_warning(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    robot = Robot(client, start_node, target_frame="base_link")
    client.wait_log("target_frame is 'base_link', but tf2_ros is not installed")
    client.publish_until(robot.publish, robot.boxes, "a box in space")
    assert robot.boxes()[0].header.frame_id == "optical"
