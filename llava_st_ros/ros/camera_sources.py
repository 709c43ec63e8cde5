"""The parameter ``cameras``: names, image topics and transports."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from llava_st_ros.ros.parameter_values import join_problems
from llava_st_ros.ros.rcl_messages import clean_message

RAW, COMPRESSED = "raw", "compressed"
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


def check_topics(node: Node, sources: Iterable[CameraSource]) -> None:
    """Check the image topics of all cameras, as the node resolves them.

    Raises:
        ConfigError: A topic is not a valid name. All problems are in the message.
    """
    problems: list[str] = []
    for source in sources:
        try:
            validate_topic_name(source.topic)
            validate_full_topic_name(node.resolve_topic_name(source.topic) + source.suffix)
        except (NameValidationException, RuntimeError, ValueError) as error:
            problems.append(
                f"cameras has the invalid topic {source.topic!r}: {clean_message(error)}"
            )
    if problems:
        raise join_problems(problems)
