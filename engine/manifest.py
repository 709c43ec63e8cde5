"""An engine directory's manifest.json: its files, what they were exported from, and the proof.

The manifest is written last, so a directory that has one is complete. It lists every file with its
size and SHA-256, and contains a checksum of itself. These detect corruption and mixed-up
files, not tampering.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import EngineError, reason_of, shown
from llava_st_ros.files.checksums import checksum_of, sha256_of
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.raw import is_file_name
from llava_st_ros.files.schema import build

NAME = "manifest.json"
FORMAT = 1  # version of the manifest and of the graphs' inputs and outputs
HASHED_AT_LOAD = 64 << 20  # bytes: files up to this size are hashed each time the engine is loaded
REBUILD = "export it again with `llava-st export`"


@dataclass(frozen=True)
class File:
    """A file of the directory: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The metadata of an engine directory.

    Attributes:
        backend: The backend that runs it, "onnxruntime" or "tensorrt".
        target: The export target.
        precision: The precision of the graphs.
        compat: The model's compatibility mode.
        checkpoint: Fingerprint of the exported checkpoint.
        graphs: Each graph's file, by the graph's name.
        files: All files but the manifest.
        versions: Versions of the packages that exported it.
        machine: The machine that engines were built for (``engine.machine``); empty if any will do.
        onnx: SHA-256 of the ONNX file that each engine was built from; empty without engines.
        proof: The stored comparison with the torch reference (``export.validate.proof``).
        format: Version of the manifest.
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
        """Write ``folder``/manifest.json with its checksum."""
        values = asdict(self)
        values["signature"] = checksum_of(values)
        write_text(folder / NAME, json.dumps(values, indent=1) + "\n")


def is_engine_directory(folder: Path) -> bool:
    """Whether a folder has a manifest."""
    try:
        return (folder / NAME).is_file()
    except OSError:  # a parent folder is not accessible
        return False


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an engine directory.

    Raises EngineError when it is missing, unreadable, of another format, or edited.
    """
    path = folder / NAME
    if folder.is_dir() and not path.exists():
        raise EngineError(
            f"{folder} has no {NAME}: it is not the result of a completed export", REBUILD
        )
    values = read_json(path, EngineError, REBUILD, nan=True)  # a failed proof may have NaN
    if values.get("format") != FORMAT:
        raise EngineError(
            f"{path} has format {shown(values.get('format'))}; expected format {FORMAT}", REBUILD
        )
    if values.pop("signature", None) != checksum_of(values):
        raise EngineError(f"{path} was edited or damaged after the export", REBUILD)
    manifest = build(Manifest, values, str(path), EngineError)
    for name in ("backend", "target", "precision", "compat"):
        if not getattr(manifest, name):
            raise EngineError(f"{path}: {name} is empty", REBUILD)
    for name in (*manifest.graphs.values(), *manifest.files):
        if not is_file_name(name):
            raise EngineError(
                f"{path} names {shown(name)}; expected files of the same folder", REBUILD
            )
    if missing := sorted(set(manifest.graphs.values()) - set(manifest.files)):
        raise EngineError(f"{path} does not list the graph files {', '.join(missing)}", REBUILD)
    return manifest


def describe_files(folder: Path) -> dict[str, File]:
    """Describe every file of a folder except its manifest."""
    return {
        path.name: File(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != NAME
    }


def check_files(folder: Path, manifest: Manifest, *, hash_all: bool = False) -> None:
    """Raise EngineError unless the files are those of the manifest.

    Sizes are always compared. Files up to HASHED_AT_LOAD bytes are hashed, all of them with
    ``hash_all``.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size if path.is_file() else None
            if size != expected.size:
                found = "is missing" if size is None else f"has {size} bytes"
                raise EngineError(f"{path} {found}; expected {expected.size} bytes", REBUILD)
            if (hash_all or size <= HASHED_AT_LOAD) and sha256_of(path) != expected.sha256:
                raise EngineError(
                    f"{path} changed after the export; expected SHA-256 {expected.sha256}", REBUILD
                )
        except OSError as error:
            raise EngineError(f"{path} is unreadable: {reason_of(error)}", REBUILD) from error


def check_checkpoint(folder: Path, manifest: Manifest, checkpoint: Path) -> None:
    """Raise EngineError unless the engine was exported from this checkpoint as it is now.

    Raises OSError when the checkpoint cannot be read.
    """
    if fingerprint(checkpoint) != manifest.checkpoint:
        raise EngineError(
            f"{checkpoint} is not the checkpoint that {folder} was exported from",
            "pass that checkpoint, or export this one",
        )


def fingerprint(checkpoint: Path) -> str:
    """Hash a checkpoint's weights, configuration and tokenizer. Raises OSError."""
    files = sorted(
        path
        for pattern in ("*.safetensors", "*.json", "*.txt")
        for path in checkpoint.glob(pattern)
    )
    names = [path.name for path in files]
    return sha256_of(*files, prefix=json.dumps(names).encode())
