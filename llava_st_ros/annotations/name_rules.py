"""Which ids and labels an annotation file can hold."""

from __future__ import annotations

from typing import Any

from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.query_rules import checked_name


def checked_id(text: Any, where: str) -> str:
    """Return the id of an object or query.

    Args:
        text: The id.
        where: The file and the place, for the error.

    Raises:
        DataError: It is not text, empty, too long, not printable, or means "no value" in YAML.
    """
    try:
        name = checked_name("the id", text)
    except LlavaStError as error:
        raise DataError(f"{where}: {error.problem}") from error
    if not name:
        raise DataError(f"{where}: the id is empty")
    return name


def checked_words(kind: str, text: str, where: str) -> str:
    """Return a label or topic, which is any text.

    Raises:
        DataError: A lone surrogate, which no file can hold.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {kind} contains U+{ord(text[error.start]):04X}, which is no character"
        ) from error
    return text
