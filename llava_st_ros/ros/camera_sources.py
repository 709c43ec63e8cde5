"""The parameter ``cameras``: names, image topics and transports."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from llava_st_ros.ros.parameter_values import join_problems
from llava_st_ros.ros.rcl_messages import clean_message

RAW, COMPRESSED = "raw", "compressed"
RECTIFIED = "image_rect"  # as image_proc names rectified images
TRANSPORTS = (RAW, COMPRESSED)


@dataclass(frozen=True)
class CameraSource:
    """One camera.

    Attributes:
        name: Its name in queries and results.
        topic: Its image topic before remapping.
        compressed: Whether the messages are CompressedImage.
        suffix: Appended to the resolved topic, so that remapping the base topic also moves the
            compressed one, as with image_transport.
    """

    name: str
    topic: str
    compressed: bool
    suffix: str = ""


@dataclass(frozen=True)
class DepthSource:
    """The topics that place the tracks of a camera in space, as the node resolves them.

    Attributes:
        name: The camera.
        depth_topic: Its registered depth images.
        info_topic: Its calibration.
        is_rectified: Whether its images are rectified, by the node or by the name of their topic.
    """

    name: str
    depth_topic: str
    info_topic: str
    is_rectified: bool


def parse_cameras(entries: Iterable[str], transport: str) -> tuple[CameraSource, ...]:
    """Read the parameter ``cameras``.

    Args:
        entries: Each 'topic' or 'name=topic'. Blank ones are skipped.
        transport: One of TRANSPORTS.

    Raises:
        ConfigError: An entry is incomplete, or two have the same name or overlay topic. All
            problems are in the message.
    """
    sources: dict[str, CameraSource] = {}
    problems: list[str] = []
    for entry in filter(None, (entry.strip() for entry in entries)):
        name, separator, topic = (part.strip() for part in entry.partition("="))
        if not separator:
            name, topic = name.strip("/"), name
        if not name or not topic:
            problems.append(f"cameras has {entry!r}; expected 'topic' or 'name=topic'")
            continue
        if name in sources:
            problems.append(f"cameras has two with the name {name!r}; name each with 'name=topic'")
            continue
        is_compressed = topic.endswith("/" + COMPRESSED)
        suffix = "" if is_compressed or transport == RAW else "/" + COMPRESSED
        sources[name] = CameraSource(name, topic, is_compressed or bool(suffix), suffix)
    by_topic: dict[str, str] = {}
    for name in sources:
        other = by_topic.setdefault(topic_part(name), name)
        if other != name:
            problems.append(
                f"cameras has {other!r} and {name!r}, whose overlays have the same topic "
                f"({topic_part(name)}); rename one with 'name=topic'"
            )
    if problems:
        raise join_problems(problems)
    return tuple(sources.values())


def topic_part(name: str) -> str:
    """Return a camera's name as a part of a topic name.

    Characters that topics cannot have become an underscore, and a part that starts with a digit
    gets one. Slashes still separate parts; empty ones are left out.
    """
    parts = (re.sub(r"[^a-zA-Z0-9_]+", "_", part) for part in name.split("/"))
    valid = [f"_{part}" if part[0].isdigit() else part for part in parts if part.strip("_")]
    return "/".join(valid) or "camera"


def parse_camera_topics(
    parameter: str, entries: Iterable[str], cameras: Collection[str]
) -> dict[str, str]:
    """Read a parameter that names a topic for some cameras: ``depth`` or ``camera_info``.

    Args:
        parameter: Its name.
        entries: Each 'camera=topic', or 'topic' if there is one camera. Blank ones are skipped.
        cameras: The names of all cameras.

    Returns:
        Topics by camera.

    Raises:
        ConfigError: A camera is unknown, or is named twice or not at all. All problems are in the
            message.
    """
    topics: dict[str, str] = {}
    problems: list[str] = []
    for entry in filter(None, (entry.strip() for entry in entries)):
        name, separator, topic = (part.strip() for part in entry.rpartition("="))
        if not separator and len(cameras) == 1:
            (name,) = cameras
        if not name or not topic:
            problems.append(f"{parameter} has {entry!r}; expected 'camera=topic'")
        elif name not in cameras:
            known = ", ".join(cameras) or "none"
            problems.append(f"{parameter} has the unknown camera {name!r}; there is {known}")
        elif name in topics:
            problems.append(f"{parameter} has two topics of camera {name!r}; expected one")
        elif topic.endswith(("/compressedDepth", "/" + COMPRESSED)):
            problems.append(f"{parameter} has {topic!r}; expected the topic of raw messages")
        else:
            topics[name] = topic
    if problems:
        raise join_problems(problems)
    return topics


def parse_rectified(entries: Iterable[str], cameras: Collection[str]) -> tuple[str, ...]:
    """Read the parameter ``rectify``: names of cameras. Blank ones are skipped.

    Raises:
        ConfigError: A camera is unknown. All problems are in the message.
    """
    names = tuple(filter(None, (entry.strip() for entry in entries)))
    known = ", ".join(cameras) or "none"
    problems = [
        f"rectify has the unknown camera {name!r}; there is {known}"
        for name in names
        if name not in cameras
    ]
    if problems:
        raise join_problems(problems)
    return names


def image_topic(node: Node, camera: CameraSource) -> str:
    """Return the resolved topic of a camera's raw images, also of a compressed camera."""
    return node.resolve_topic_name(camera.topic).removesuffix("/" + COMPRESSED)


def is_rectified_topic(topic: str) -> bool:
    """Whether a topic carries rectified images, by its name."""
    return topic.rpartition("/")[2].startswith(RECTIFIED)


def camera_info_topic(node: Node, camera: CameraSource, info_topic: str = "") -> str:
    """Return the resolved topic of a camera's calibration.

    Args:
        node: The node.
        camera: The camera.
        info_topic: Empty for 'camera_info' beside the image topic, as cameras and image_transport
            have it.
    """
    namespace = image_topic(node, camera).rpartition("/")[0]
    return node.resolve_topic_name(info_topic or f"{namespace}/camera_info")


def depth_source(
    node: Node,
    camera: CameraSource,
    depth_topic: str,
    info_topic: str = "",
    *,
    is_rectified: bool = False,
) -> DepthSource:
    """Resolve the topics of a camera with depth.

    Args:
        node: The node.
        camera: The camera.
        depth_topic: Its registered depth images.
        info_topic: Its calibration; empty for the default of ``camera_info_topic``.
        is_rectified: Whether the node rectifies its images.
    """
    return DepthSource(
        camera.name,
        node.resolve_topic_name(depth_topic),
        camera_info_topic(node, camera, info_topic),
        is_rectified or is_rectified_topic(image_topic(node, camera)),
    )


def check_rectified(
    node: Node, cameras: Iterable[CameraSource], depth: Iterable[DepthSource]
) -> None:
    """Check that the cameras that the node rectifies are not rectified already, and their depth is.

    Args:
        node: The node.
        cameras: Those that the node rectifies.
        depth: The topics of all cameras with depth.

    Raises:
        ConfigError: By the name of its topic, an image is rectified or a depth image is not. All
            problems are in the message.
    """
    depth_topics = {source.name: source.depth_topic for source in depth}
    problems: list[str] = []
    for camera in cameras:
        topic = image_topic(node, camera)
        if is_rectified_topic(topic):
            problems.append(
                f"rectify has camera {camera.name!r}, whose topic {topic} carries rectified images"
            )
        depth_topic = depth_topics.get(camera.name)
        if depth_topic is not None and not is_rectified_topic(depth_topic):
            problems.append(
                f"depth has {depth_topic!r} of camera {camera.name!r}, which is rectified; "
                f"expected a topic {RECTIFIED}* with depth registered to the rectified image"
            )
    if problems:
        raise join_problems(problems)


def check_topics(node: Node, topics: Iterable[tuple[str, str, str]]) -> None:
    """Check topics, as the node resolves them.

    Args:
        node: The node.
        topics: The parameter that names it, the topic, and what is appended once it is resolved.

    Raises:
        ConfigError: A topic is not a valid name. All problems are in the message.
    """
    problems: list[str] = []
    for parameter, topic, suffix in topics:
        try:
            validate_topic_name(topic)
            validate_full_topic_name(node.resolve_topic_name(topic) + suffix)
        except (NameValidationException, RuntimeError, ValueError) as error:
            problems.append(f"{parameter} has the invalid topic {topic!r}: {clean_message(error)}")
    if problems:
        raise join_problems(problems)
