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

from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import EngineError

NAME = "manifest.json"
FORMAT = 1  # of the manifest, and of what goes into the graphs and comes out
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
    ``checkpoint`` the fingerprint of the checkpoint they were made from; ``machine`` what engines
    are tied to (``engine.machine``) and ``onnx`` the SHA-256 of the ONNX file that each was built
    from, both empty where any machine will do; ``proof`` is what ``export.proof`` measured.
    """

    backend: str
    target: str
    precision: str
    compat: str
    checkpoint: str
    graphs: Mapping[str, str]
    files: Mapping[str, File]
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    onnx: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """As ``folder``/manifest.json, signed."""
        values = asdict(self)
        values["signature"] = _signature(values)
        write_text(folder / NAME, json.dumps(values, indent=1) + "\n")


def is_engine_directory(folder: Path) -> bool:
    """Whether a folder has a manifest."""
    try:
        return (folder / NAME).is_file()
    except OSError:  # a folder above it that may not be entered
        return False


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an engine directory. Raises EngineError unless it is whole and unedited."""
    path = folder / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{folder}: no {NAME}; expected an engine directory whose export ended", REBUILD
        ) from None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: {error}; expected readable JSON", REBUILD) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise EngineError(f"{path}: format {found!r}; expected format {FORMAT}", REBUILD)
    signature = values.pop("signature", None)
    if signature != _signature(values):
        raise EngineError(
            f"{path}: edited since its export; expected the manifest as written", REBUILD
        )
    try:
        files = {name: File(**value) for name, value in values["files"].items()}
        manifest = Manifest(**{**values, "files": files})
        missing = sorted(set(manifest.graphs.values()) - set(files))
    except (AttributeError, KeyError, TypeError) as error:
        raise EngineError(
            f"{path}: {error}; expected a manifest of this version", REBUILD
        ) from error
    if missing:
        raise EngineError(
            f"{path}: no file {', '.join(missing)}; expected each graph's file", REBUILD
        )
    return manifest


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
        try:
            size = path.stat().st_size if path.is_file() else None
            if size != expected.size:
                found = "not there" if size is None else f"{size} bytes"
                raise EngineError(f"{path}: {found}; expected {expected.size} bytes", REBUILD)
            if (whole or size <= HASHED_AT_LOAD) and sha256_of(path) != expected.sha256:
                raise EngineError(
                    f"{path}: another content than at its export"
                    f"; expected SHA-256 {expected.sha256}",
                    REBUILD,
                )
        except OSError as error:
            raise EngineError(
                f"{path}: {error.strerror}; expected a readable file", REBUILD
            ) from error


def fingerprint(checkpoint: Path) -> str:
    """Of a checkpoint's folder: its weights, configuration and tokenizer. Raises OSError."""
    files = sorted(
        path
        for pattern in ("*.safetensors", "*.json", "*.txt")
        for path in checkpoint.glob(pattern)
    )
    names = [path.name for path in files]
    return sha256_of(*files, begin=json.dumps(names).encode())


def sha256_of(*paths: Path, begin: bytes = b"") -> str:
    """Of the files' contents, one after the other, behind ``begin``."""
    digest = hashlib.sha256(begin)
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _signature(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
