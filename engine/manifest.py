"""An engine directory's manifest.json: what its files are, from what they were made, and the proof.

The manifest is written last, so a directory that has one is whole. It names every file with its
size and SHA-256, and signs itself, so that a file exchanged or a value edited by hand is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_st_ros.errors import EngineError
from llava_st_ros.whole_files import write_text

NAME = "manifest.json"
FORMAT = 1
HASHED_AT_LOAD = 64 << 20  # bytes: a file up to this size is read whole before each use
REBUILD = "export it again with `llava-st export`"


@dataclass(frozen=True)
class File:
    """A file of the directory: bytes and SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything about an engine directory but its files' contents.

    ``backend`` runs it ("onnxruntime", "tensorrt"); ``graphs`` gives each graph's file by name;
    ``files`` all files but the manifest; ``versions`` what made them (package: version);
    ``checkpoint`` the SHA-256 of the weights they were made from; ``proof`` is what
    ``export.verify`` measured.
    """

    backend: str
    target: str
    precision: str
    compat: str
    checkpoint: str
    graphs: Mapping[str, str]
    files: Mapping[str, File]
    versions: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """As ``folder``/manifest.json, signed."""
        values = asdict(self)
        values["signature"] = _signature(values)
        write_text(folder / NAME, json.dumps(values, indent=1) + "\n")


def is_engine_directory(folder: Path) -> bool:
    """Whether a folder has a manifest."""
    return (folder / NAME).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an engine directory. Raises EngineError unless it is whole and unedited."""
    path = folder / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{folder}: no {NAME}", "an engine directory whose export ended", REBUILD
        ) from None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: {error}", "readable JSON", REBUILD) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise EngineError(f"{path}: format {found!r}", f"format {FORMAT}", REBUILD)
    signature = values.pop("signature", None)
    if signature != _signature(values):
        raise EngineError(f"{path}: edited since its export", "the manifest as written", REBUILD)
    values["files"] = {name: File(**value) for name, value in values["files"].items()}
    return Manifest(**values)


def describe_files(folder: Path) -> dict[str, File]:
    """Every file of a folder but its manifest."""
    return {
        path.name: File(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != NAME
    }


def check_files(folder: Path, manifest: Manifest, *, whole: bool = False) -> None:
    """Raise EngineError unless the files are those of the manifest.

    Sizes are compared and files up to HASHED_AT_LOAD bytes hashed; with ``whole`` all are.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected.size:
            found = "not there" if size is None else f"{size} bytes"
            raise EngineError(f"{path}: {found}", f"{expected.size} bytes", REBUILD)
        if (whole or size <= HASHED_AT_LOAD) and sha256_of(path) != expected.sha256:
            raise EngineError(
                f"{path}: another content than at its export", f"SHA-256 {expected.sha256}", REBUILD
            )


def sha256_of(*paths: Path) -> str:
    """Of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _signature(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
