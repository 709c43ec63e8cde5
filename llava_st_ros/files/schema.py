"""Making a dataclass from the mapping of a file: names and types are checked, ranges are not.

Ranges are checked by the dataclass itself, so that they hold however it is made.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llava_st_ros.errors import LlavaStError, shown

T = TypeVar("T")
_NAMES = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def build(cls: type[T], values: Any, where: str, error: type[LlavaStError]) -> T:
    """Make a dataclass from a file's value.

    Args:
        cls: A dataclass whose fields are int, float, str, bool, Literal, such a type or None, a
            tuple or Mapping of such a type, or another dataclass.
        values: The value, expected to be a mapping with the names of the fields.
        where: The file and the section, for the error.
        error: The class of the error to raise.

    Raises:
        LlavaStError: An ``error``: a name is missing or unknown, or a value has another type.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where} is {shown(values)}; expected a mapping of settings")
    assert is_dataclass(cls)
    known = {f.name: f for f in fields(cls) if f.init}
    if unknown := [name for name in values if name not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}"
        raise error(f"{where} has no setting {', '.join(map(repr, unknown[:3]))}; {hint}")
    missing = [
        name
        for name, f in known.items()
        if name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise error(f"{where} lacks {', '.join(missing)}")
    hints = _type_hints(cls)
    converted = {
        name: convert(value, hints[name], f"{where}: {name}", error)
        for name, value in values.items()
    }
    return cls(**converted)


@lru_cache(maxsize=256)
def _type_hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields; a file can have many thousand values of one class."""
    return get_type_hints(cls)


def convert(value: Any, expected: Any, where: str, error: type[LlavaStError]) -> Any:
    """Return a file's value as the type of an annotation; see ``build``."""
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (expected,) = (argument for argument in arguments if argument is not type(None))
        return convert(value, expected, where, error)
    if origin is Literal:
        if value not in arguments:
            raise error(f"{where} is {shown(value)}; expected {' or '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise error(f"{where} is {shown(value)}; expected a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise error(f"{where} has {len(value)} values; expected {len(arguments)}")
        kinds = arguments if arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        return tuple(
            convert(v, kind, f"{where}[{i}]", error)
            for i, (v, kind) in enumerate(zip(value, kinds))
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where} is {shown(value)}; expected a mapping")
        return {k: convert(v, arguments[1], f"{where}: {k}", error) for k, v in value.items()}
    if is_dataclass(expected):
        assert isinstance(expected, type)
        return value if isinstance(value, expected) else build(expected, value, where, error)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected or (expected is float and not math.isfinite(value)):
        raise error(f"{where} is {shown(value)}; expected {_NAMES[expected]}")
    return value
