"""metadata.yaml of a recording: which storage files it has, and how many messages they contain.

Everything else in it is in the storage files too. What disagrees with them is not an error: users
edit the file, and `ros2 bag reindex` leaves some of it empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, one_line
from llava_st_ros.files.yaml_files import read_yaml
from llava_st_ros.media.bags.storage import TopicKey, message_type

METADATA_FILE = "metadata.yaml"
METADATA_BYTES = 64 << 20  # a recording of days has a list of ten thousands of files


@dataclass(frozen=True)
class Metadata:
    """The content of metadata.yaml that is used.

    Attributes:
        files: Paths of the storage files. They are relative to the recording's folder, but old
            versions wrote other paths: only the name is certain.
        file_counts: Messages by path, if stated.
        topic_counts: Messages by topic.
    """

    files: tuple[str, ...]
    file_counts: dict[str, int]
    topic_counts: dict[TopicKey, int]


def read_metadata(path: Path) -> Metadata:
    """Read metadata.yaml of any version.

    Raises:
        DataError: The file is missing, is not YAML, or is not a recording's metadata.
    """
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"there is no file {path}")
    content = read_yaml(path, DataError, max_bytes=METADATA_BYTES)
    try:
        return _parse(content["rosbag2_bagfile_information"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not the metadata of a recording ({one_line(error)})") from error


def _parse(content: dict[str, Any]) -> Metadata:
    topic_counts: dict[TopicKey, int] = {}
    for item in _list(content.get("topics_with_message_count")):
        topic = item["topic_metadata"]
        key = TopicKey(_text(topic["name"]), message_type(_text(topic["type"])))
        topic_counts[key] = topic_counts.get(key, 0) + _count(item["message_count"])
    return Metadata(
        tuple(_text(item) for item in _list(content["relative_file_paths"])),
        {
            _text(item["path"]): _count(item["message_count"])
            for item in _list(content.get("files"))
        },
        topic_counts,
    )


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a number of messages")
    return value
