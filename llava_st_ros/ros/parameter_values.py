"""The values of parameters: from the types of ROS to those of NodeParameters, and back."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import Field
from typing import Any

from llava_st_ros.errors import ConfigError, LlavaStError, shown


def read_value(entry: Field[Any], value: Any, written: str = "") -> Any:
    """Convert the value of a parameter to the type of its default, and check its range.

    An integer is accepted for a number, and a number without a fraction for an integer. An empty
    list is None in ROS.

    Args:
        entry: The field of NodeParameters.
        value: The value from ROS.
        written: How it was written in YAML, if that is known.

    Raises:
        ConfigError: The value has another type, or is outside the range.
    """
    default, low, high = entry.default, entry.metadata["low"], entry.metadata["high"]
    problem = f"{entry.name} is {_describe(value, written)}"
    if isinstance(default, tuple):
        if value is None or (isinstance(value, (list, tuple)) and not value):
            return ()
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{problem}; expected a list of strings: {entry.name}: [...]")
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{problem}; expected a list of strings: quote each entry")
        return tuple(value)
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{problem}; expected true or false, without quotes")
    if isinstance(default, str):
        if isinstance(value, str):
            return value
        raise ConfigError(f"{problem}; expected a string in quotes")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, float):
        if is_number and low <= value <= high:
            return float(value)
        raise ConfigError(f"{problem}; expected a number from {low:g} to {high:g}")
    if is_number and low <= value <= high and value == int(value):
        return int(value)
    raise ConfigError(f"{problem}; expected an integer from {low} to {high}")


def ros_value(value: Any) -> Any:
    """Return the value to declare: rclpy cannot represent an empty list of strings."""
    return (list(value) or [""]) if isinstance(value, tuple) else value


def nearest(name: str, known: Collection[str]) -> str:
    """Return the known name that is most similar to ``name``; empty if none is similar.

    Case and separators of words do not matter.
    """
    folded = {_fold(entry): entry for entry in known}
    found = difflib.get_close_matches(_fold(name), folded, 1)
    return folded[found[0]] if found else ""


def is_misspelling(name: str, known: str) -> bool:
    """Whether ``name`` is ``known`` with a wrong letter or two, rather than other words.

    ``camera`` is a misspelling of cameras; ``frame_rate`` is none of max_frame_rate.
    """
    if _fold(name) == _fold(known):
        return True
    similarity = difflib.SequenceMatcher(None, _fold(name), _fold(known)).ratio()
    return name.count("_") == known.count("_") and similarity >= 0.8


def join_problems(problems: Sequence[str], kind: type[LlavaStError] = ConfigError) -> LlavaStError:
    """Return one error for all problems, in one line."""
    if len(problems) == 1:
        return kind(problems[0])
    return kind(f"{len(problems)} problems", "; ".join(problems))


def _fold(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _describe(value: Any, written: str) -> str:
    if value is None:
        return "an empty list" if written else "not set"
    plain = shown(value)
    if not written or written.strip("'\"") in (plain.strip("'\""), str(value)):
        return plain
    return f"{plain} (written {written if len(written) <= 80 else shown(written)})"
