"""The parameter ``cameras``: names, image topics and transports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llava_st_ros.errors import ConfigError

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
        ConfigError: There is no camera, an entry is incomplete, or two have the same name.
    """
    sources: list[CameraSource] = []
    for entry in filter(None, (entry.strip() for entry in entries)):
        name, separator, topic = (part.strip() for part in entry.partition("="))
        if not separator:
            name, topic = name.strip("/"), name
        if not name or not topic:
            raise ConfigError(f"camera {entry!r} is incomplete; expected 'topic' or 'name=topic'")
        if name in (source.name for source in sources):
            raise ConfigError(f"two cameras have the name {name!r}", "name each with 'name=topic'")
        is_compressed = topic.endswith("/" + COMPRESSED)
        suffix = "" if is_compressed or transport == RAW else "/" + COMPRESSED
        sources.append(CameraSource(name, topic, is_compressed or bool(suffix), suffix))
    if not sources:
        raise ConfigError("no camera is configured", "set the parameter 'cameras'")
    return tuple(sources)
