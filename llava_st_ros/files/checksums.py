"""Checksums of files that this package writes and reads; they detect damage, not tampering."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_st_ros.errors import LlavaStError, reason_of

KEY = "sha256"  # in the metadata of a safetensors file
UNSEALED = {KEY: "0" * 64}  # the metadata with which a file to be sealed is written
_FIELD = b'"' + KEY.encode() + b'":"'
_LENGTH_BYTES = 8  # of a safetensors header's length, which is the first thing in the file


def sha256_of(*paths: Path, prefix: bytes = b"") -> str:
    """Hash ``prefix`` and the contents of the files, concatenated. Raises OSError."""
    digest = hashlib.sha256(prefix)
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def checksum_of(values: Mapping[str, Any]) -> str:
    """Hash a JSON object."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def seal(path: Path) -> None:
    """Write the checksum of a safetensors file, saved with metadata UNSEALED, into the file."""
    digest = _digest(path, UNSEALED[KEY])
    with path.open("r+b") as file:
        header = file.read(_LENGTH_BYTES + _header_length(path))
        file.seek(header.index(_FIELD) + len(_FIELD))
        file.write(digest.encode())


def check_seal(path: Path, metadata: Mapping[str, str], error: type[LlavaStError]) -> None:
    """Raise ``error`` if a sealed safetensors file changed. Others have no checksum and pass."""
    if (expected := metadata.get(KEY)) is None:
        return
    try:
        found = _digest(path, expected)
    except OSError as problem:
        raise error(f"cannot read {path}: {reason_of(problem)}") from problem
    if found != expected:
        raise error(f"{path} is damaged: it has SHA-256 {found[:12]}..., not {expected[:12]}...")


def _digest(path: Path, stored: str) -> str:
    """The checksum of a file whose checksum field contains ``stored``, with the field zeroed."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        header = file.read(_LENGTH_BYTES + _header_length(path))
        digest.update(header.replace(_FIELD + stored.encode(), _FIELD + UNSEALED[KEY].encode(), 1))
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _header_length(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(_LENGTH_BYTES), "little")
