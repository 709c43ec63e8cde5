"""Mutations of bytes, text and JSON values, driven by a NumPy generator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Path = tuple[Any, ...]  # keys and indices that lead to a value

# Values that have broken parsers and validators.
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**64),
    10**400,
    0.0,
    -0.0,
    5e-324,
    1e-9,
    1e300,
    -1e300,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "null",
    "0",
    "nan",
    "\0",
    "a\nb",
    "../../etc/passwd",
    "é" * 300,
    "\U0001f600" * 2000,
    "\ud800",
    "x" * 5000,
    [],
    [[]],
    {},
    {"": None},
)
HOSTILE_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80")


def mutate_bytes(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Return the data with one to three changes, and their description."""
    steps: list[str] = []
    for _ in range(int(rng.integers(1, 4))):
        change = _BYTE_CHANGES[int(rng.integers(len(_BYTE_CHANGES)))]
        data, step = change(rng, data)
        steps.append(step)
    return data, ", ".join(steps)


def truncate(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Return a prefix of the data."""
    length = int(rng.integers(len(data) + 1))
    return data[:length], f"cut at {length} of {len(data)}"


def flip(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Return the data with up to eight changed bits."""
    if not data:
        return data, "empty"
    changed = bytearray(data)
    places = rng.integers(len(data), size=int(rng.integers(1, 9)))
    for place in places:
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed), f"bits at {sorted(int(p) for p in places)}"


def _overwrite(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    place = int(rng.integers(len(data) + 1))
    new = HOSTILE_BYTES[int(rng.integers(len(HOSTILE_BYTES)))]
    return data[:place] + new + data[place + len(new) :], f"{new!r} at {place}"


def _hole(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    start, stop = sorted(int(v) for v in rng.integers(len(data) + 1, size=2))
    stop = min(stop, start + 4096)
    return data[:start] + bytes(stop - start) + data[stop:], f"zeros from {start} to {stop}"


def _delete(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    start = int(rng.integers(len(data) + 1))
    stop = start + int(rng.integers(1, 65))
    return data[:start] + data[stop:], f"without {start} to {stop}"


def _repeat(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    start = int(rng.integers(len(data) + 1))
    stop = start + int(rng.integers(1, 65))
    return data[:stop] + data[start:], f"{start} to {stop} twice"


_BYTE_CHANGES: tuple[Callable[[np.random.Generator, bytes], tuple[bytes, str]], ...] = (
    truncate,
    flip,
    flip,
    _overwrite,
    _hole,
    _delete,
    _repeat,
)


def mutate_json(
    rng: np.random.Generator, value: Any, hostile: tuple[Any, ...] = HOSTILE_VALUES
) -> tuple[Any, str]:
    """Return a copy of a JSON value with one or two changes, and their description."""
    value, steps = copy.deepcopy(value), []
    for _ in range(int(rng.integers(1, 3))):
        value, step = _change_json(rng, value, hostile)
        steps.append(step)
    return value, ", ".join(steps)


def _change_json(rng: np.random.Generator, value: Any, hostile: tuple[Any, ...]) -> tuple[Any, str]:
    paths = [path for path in walk(value) if path]
    new = copy.deepcopy(hostile[int(rng.integers(len(hostile)))])
    if not paths:
        return new, f"the value is {shown(new)}"
    path = paths[int(rng.integers(len(paths)))]
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, where = path[-1], "/".join(map(str, path))
    action = int(rng.integers(6))
    if action == 0:
        del parent[key]
        return value, f"without {where}"
    if action == 1 and isinstance(parent, dict):
        name = f"{key}x" if rng.integers(2) else str(shown(new))
        parent[name] = parent.pop(key)
        return value, f"{where} renamed {name[:40]}"
    if action == 2:
        number = int(rng.integers(2, 400))
        for _ in range(number):
            parent[key] = [parent[key]]
        return value, f"{where} in {number} lists"
    if action == 3 and isinstance(parent[key], (int, float)) and abs(parent[key]) < 1e300:
        parent[key] = parent[key] * float(rng.choice((-1, 0, 0.5, 1.5, 2, 1e6, 1e-6)))
        return value, f"{where} is {shown(parent[key])}"
    parent[key] = new
    return value, f"{where} is {shown(new)}"


def walk(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of each value within a JSON value, itself included."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from walk(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*path, index))


def shown(value: Any) -> str:
    """A short representation of a value."""
    if isinstance(value, int) and abs(value) > 2**70:
        return f"an integer of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
