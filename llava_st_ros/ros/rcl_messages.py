"""rcl's error messages, without what is of no use to a user."""

from __future__ import annotations

import re

_PREFIXES = (
    "failed to initialize rcl: ",
    "Failed to parse ROS arguments: ",
    "failed to resolve name: ",
    "Invalid topic name: ",
)


def clean_message(error: Exception) -> str:
    """Return an error of rcl or rclpy as one line.

    Without the lines that point at a character, the places in rcl's source, and the names of its
    functions.
    """
    text = str(error)
    # NameValidationException: the other lines repeat the name and point at the character.
    lines = text.splitlines()
    text = lines[0].rstrip(":") if lines and lines[-1].strip() == "^" else " ".join(lines)
    text = re.sub(r",? at \S+:\d+", "", text).strip()
    text = re.sub(r"Expected lexeme type .*index (\d+)", r"not valid at character \1", text)
    text = text.removesuffix(". Error: error not set")
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text
