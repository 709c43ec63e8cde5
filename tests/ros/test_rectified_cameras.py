"""The node rectifies images by CameraInfo: boxes are exact, and nothing is used unrectified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

from llava_st_ros.errors import ConfigError
from llava_st_ros.msg import GroundedTrackArray
from llava_st_ros.records import NANOSECONDS
from llava_st_ros.ros.conversions import header
from llava_st_ros.ros.intake import FrameIntake
from llava_st_ros.ros.parameters import NodeParameters
from support.red_box_backend import HEIGHT, WIDTH, red_box_image
from support.ros_client import ClientNode, compressed_message, image_message

pytestmark = pytest.mark.ros
START = 1_700_000_000 * NANOSECONDS
BARREL = [-0.3, 0.08, 0.0, 0.0, 0.0]
K = np.array([[250.0, 0.0, 197.5], [0.0, 250.0, 148.0], [0.0, 0.0, 1.0]])
EDGES = (40, 30, 120, 90)  # of the red box on the rectified image, pixels
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
UNDISTORTED = [0.0] * 5


def camera_info(**changes: Any) -> CameraInfo:
    message = CameraInfo(header=header(START, "optical"), width=WIDTH, height=HEIGHT)
    message.distortion_model, message.d = "plumb_bob", BARREL
    message.k, message.r = K.ravel().tolist(), np.eye(3).ravel().tolist()
    message.p = np.c_[K, np.zeros(3)].ravel().tolist()
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def distorted(image: np.ndarray) -> np.ndarray:
    """Return what the lens makes of an ideal image: each raw pixel is taken from its ray."""
    x, y = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    raw = np.stack([x, y], -1).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(raw, K, np.array(BARREL), P=K).reshape(HEIGHT, WIDTH, 2)
    seen: np.ndarray = cv2.remap(
        image, ideal.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return seen


class Robot:
    """A camera with a barrel lens, its calibration, and the messages of the node."""

    def __init__(
        self, client: ClientNode, start_node: Callable[..., Any], **parameters: Any
    ) -> None:
        self.client, self.stamp = client, START
        self.tracks = client.collect(GroundedTrackArray, "tracks")
        self._statuses = client.collect(DiagnosticArray, "/diagnostics")
        self.node = start_node(
            queries=['{"text": "the red box", "task": "REC", "period": 0.1}'],
            **{"cameras": ["front=/front/image_raw"], "rectify": ["front"], **parameters},
        )
        self.image = distorted(red_box_image(10, 10, 30, 30))
        self._images: Any = None
        self._infos: Any = None
        self.info: CameraInfo | None = None

    def publish(self) -> None:
        self.stamp += NANOSECONDS // 10
        if self.info is not None:
            self._infos = self._infos or self.client.camera_info("/front/camera_info")
            self._infos.publish(self.info)
        self._images = self._images or self.client.camera("/front/image_raw")
        self._images.publish(image_message(self.image, self.stamp))

    def boxes(self) -> list[tuple[float, ...]]:
        return [
            (box.x_min, box.y_min, box.x_max, box.y_max)
            for array in tuple(self.tracks)
            for box in (track.box for track in array.tracks)
        ]

    def status(self, name: str) -> DiagnosticStatus:
        found = [s for a in tuple(self._statuses) for s in a.status if s.name.endswith(name)]
        return found[-1] if found else DiagnosticStatus()

    def value(self, name: str, key: str) -> str:
        return {v.key: v.value for v in self.status(name).values}.get(key, "")

    def wait_problem(self, name: str, text: str) -> None:
        def is_reported() -> bool:
            status = self.status(name)
            return status.level == DiagnosticStatus.WARN and text in status.message

        self.client.publish_until(self.publish, is_reported, f"{text!r} in diagnostics")


def test_boxes_are_those_of_the_rectified_image(client: ClientNode, start_node) -> None:
    robot = Robot(client, start_node)
    robot.info = camera_info()
    columns = np.flatnonzero((robot.image[..., 0] > 128).any(0))
    assert abs(columns[0] - EDGES[0]) > 5  # so that a box of the raw image would fail
    client.publish_until(robot.publish, robot.boxes, "a box")
    assert robot.boxes()[0] == pytest.approx(EDGES, abs=4.1)  # a step of the coordinate tokens
    client.publish_until(
        robot.publish,
        lambda: robot.value("rectification front", "images rectified") not in ("", "0"),
        "the count of rectified images",
    )
    status = robot.status("rectification front")
    assert (status.level, robot.value("rectification front", "camera info topic")) == (
        DiagnosticStatus.OK,
        "/front/camera_info",
    )
    assert "rectified by the node" in robot.status("camera front").message


def test_a_compressed_camera_is_rectified_by_a_calibration_that_was_published_once(
    client: ClientNode, start_node
) -> None:
    latched = client.create_publisher(CameraInfo, "/calibration", LATCHED)
    latched.publish(camera_info())
    robot = Robot(client, start_node, transport="compressed", camera_info=["/calibration"])
    images = client.camera("/front/image_raw/compressed", compressed=True)

    def publish() -> None:
        robot.stamp += NANOSECONDS // 10
        images.publish(compressed_message(robot.image, robot.stamp, suffix=".png"))

    client.publish_until(publish, robot.boxes, "a box")
    assert robot.boxes()[0] == pytest.approx(EDGES, abs=4.1)


def test_images_without_a_calibration_are_dropped_until_it_arrives(
    client: ClientNode, start_node
) -> None:
    robot = Robot(client, start_node)
    robot.wait_problem("camera front", "no CameraInfo has arrived on /front/camera_info")
    robot.wait_problem("rectification front", "no publisher of /front/camera_info")
    assert int(robot.value("camera front", "dropped, not rectified")) > 0
    client.wait_log("dropped a frame of /front/image_raw", "cannot be rectified: no CameraInfo")
    assert not robot.boxes()
    robot.info = camera_info()
    client.publish_until(robot.publish, robot.boxes, "a box")
    assert robot.boxes()[0] == pytest.approx(EDGES, abs=4.1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": [0.0] * 9}, "CameraInfo has no calibration: K is [0, 0, 0"),
        ({"p": [0.0] * 12}, "CameraInfo has no calibration: P is [0, 0, 0"),
        ({"r": [0.0] * 9}, "CameraInfo has the invalid R"),
        ({"width": 640, "height": 480}, "CameraInfo is for 640x480 images"),
        ({"distortion_model": "thin_prism"}, "distortion model 'thin_prism'"),
    ],
)
def test_an_unusable_calibration_drops_images_with_the_reason(
    client: ClientNode, start_node, change: dict[str, Any], line: str
) -> None:
    robot = Robot(client, start_node)
    robot.info = camera_info(**change)
    robot.wait_problem("camera front", line)
    assert int(robot.value("camera front", "dropped, not rectified")) > 0
    assert not robot.boxes()


def test_a_calibration_that_changes_is_used_and_reported(client: ClientNode, start_node) -> None:
    robot = Robot(client, start_node)
    robot.info = camera_info(d=UNDISTORTED)
    client.publish_until(robot.publish, robot.boxes, "a box of the image as it is")
    assert robot.boxes()[0] != pytest.approx(EDGES, abs=4.1)
    robot.info = camera_info()
    robot.wait_problem("rectification front", "the calibration has changed 1 time")
    client.wait_log("the calibration of camera 'front' has changed")

    def is_exact() -> bool:
        return robot.boxes()[-1] == pytest.approx(EDGES, abs=4.1)

    client.publish_until(robot.publish, is_exact, "the box of the new calibration")
    assert robot.value("rectification front", "changes of the calibration") == "1"
    robot.info = camera_info(k=[0.0] * 9)
    robot.wait_problem("camera front", "CameraInfo has no calibration")


def test_a_new_stamp_is_no_new_calibration(client: ClientNode, start_node) -> None:
    robot = Robot(client, start_node)

    def publish() -> None:
        robot.info = camera_info(header=header(robot.stamp, "optical"))
        robot.publish()

    def is_counted() -> bool:
        return int(robot.value("rectification front", "images rectified") or 0) > 5

    client.publish_until(publish, is_counted, "rectified images")
    assert robot.value("rectification front", "changes of the calibration") == "0"


def test_images_that_only_tracks_are_carried_to_are_rectified_too() -> None:
    intake = FrameIntake("front", max_rate=10.0, rectify=lambda image: image[:, ::-1])
    image = red_box_image(10, 10, 30, 30)
    first = intake.read(image_message(image, START))
    skipped = image_message(image, START + NANOSECONDS // 100)
    assert first is not None and intake.read(skipped) is None
    carried = intake.read_skipped(skipped, 1)
    assert carried is not None
    for frame in (first, carried):
        np.testing.assert_array_equal(frame.image, image[:, ::-1])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rectify": ("side",)}, "rectify has the unknown camera 'side'; there is camera"),
        ({"camera_info": ("/i",)}, "has no depth topic and is not in rectify"),
    ],
)
def test_contradictory_parameters_are_named(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        NodeParameters(**values)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"cameras": ["front=/front/image_rect"]}, "/front/image_rect carries rectified images"),
        ({"depth": ["/front/depth"]}, "depth has '/front/depth' of camera 'front', which is rect"),
    ],
)
def test_what_is_rectified_twice_or_not_at_all_is_refused(
    client: ClientNode, start_node, parameters: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        Robot(client, start_node, **parameters)


def test_depth_of_the_rectified_image_is_placed_by_its_projection(
    client: ClientNode, start_node
) -> None:
    robot = Robot(client, start_node, depth=["/front/depth_registered/image_rect"])
    (source,) = robot.node.parameters.depth_sources(robot.node)
    assert source.is_rectified
