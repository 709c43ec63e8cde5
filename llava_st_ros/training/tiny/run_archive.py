"""A run in pieces of limited size, to be carried to another machine and resumed there.

Packed are the files that resuming requires: the weights of the last finished stage with its event
heads, the last saved state of the current stage, the log and the record of what the run is made
from. Clips and vision features are made again where the run is resumed. The pieces are those of one
tar file; ``run.json`` has their checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from llava_st_ros.atomic_files import atomic_folder
from llava_st_ros.errors import ConfigError, DataError, reason_of
from llava_st_ros.files.json_files import read_json
from llava_st_ros.training.loop import run_state
from llava_st_ros.training.tiny.provenance import PROVENANCE_FILE

MANIFEST_FILE = "run.json"
LOG_FILE = "log.jsonl"
MIB = 1 << 20
_PACKED = re.compile(r"run\.(json|\d{3,})")  # the files that ``pack`` writes


def run_files(work: Path, stages: Sequence[str]) -> list[Path]:
    """Return the files of a work folder that resuming requires.

    Args:
        work: The work folder.
        stages: The names of the recipe's stages, in order.

    Raises:
        ConfigError: There is no run in the folder.
    """
    if not (work / PROVENANCE_FILE).exists():
        raise ConfigError(f"no run in {work}: it has no {PROVENANCE_FILE}")
    finished = [name for name in stages if (work / f"{name}.safetensors").exists()]
    heads = [name for name in stages if (work / f"{name}.heads.safetensors").exists()]
    files = [work / f"{name}.safetensors" for name in finished[-1:]]
    files += [work / f"{name}.heads.safetensors" for name in heads[-1:]]
    later = stages[stages.index(finished[-1]) + 1 :] if finished else stages
    states = [state for name in later if (state := run_state.last_readable(work, name)) is not None]
    files += [file for state in states[-1:] for file in sorted(state.iterdir())]
    # The record of the run is last: without it, what was unpacked is not taken for a run.
    files += [work / name for name in (LOG_FILE, PROVENANCE_FILE)]
    return [file for file in files if file.exists()]


def pack(work: Path, stages: Sequence[str], out: Path, piece_bytes: int = 15 * MIB) -> list[Path]:
    """Write the pieces of a run, replacing the folder ``out``, and return them.

    Args:
        work: The work folder. No process may train in it.
        stages: The names of the recipe's stages, in order.
        out: The folder to write.
        piece_bytes: The largest size of a piece.

    Raises:
        ConfigError: There is no run in the folder, or ``out`` has other files.
    """
    if out.exists() and any(not _PACKED.fullmatch(path.name) for path in out.iterdir()):
        raise ConfigError(
            f"{out} has files of something else, which would be lost", "write to a new folder"
        )
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in run_files(work, stages):
            archive.add(file, arcname=str(file.relative_to(work)))
    packed, pieces = content.getbuffer(), dict[str, str]()
    with atomic_folder(out) as part:
        for start in range(0, len(packed), piece_bytes):
            piece, name = packed[start : start + piece_bytes], f"run.{len(pieces):03d}"
            (part / name).write_bytes(piece)
            pieces[name] = hashlib.sha256(piece).hexdigest()
        manifest = json.dumps({"pieces": pieces}, indent=1)
        (part / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
    return [out / name for name in (MANIFEST_FILE, *pieces)]


def unpack(folder: Path, work: Path) -> None:
    """Put a packed run into a work folder.

    Args:
        folder: The pieces.
        work: The work folder, in which there is no run yet.

    Raises:
        ConfigError: There is a run in the work folder.
        DataError: A piece is missing or damaged.
    """
    if (work / PROVENANCE_FILE).exists():
        raise ConfigError(f"there is a run in {work}", "use another work folder")
    pieces = read_json(folder / MANIFEST_FILE, DataError).get("pieces")
    if not isinstance(pieces, dict) or not pieces:
        raise DataError(f"{folder / MANIFEST_FILE} has no pieces")
    missing = [name for name in pieces if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}", "bring all pieces")
    content = io.BytesIO()
    for name, digest in pieces.items():
        data = (folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataError(f"{folder / name} is damaged: its checksum is another")
        content.write(data)
    content.seek(0)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=content) as archive:
            archive.extractall(work, filter="data")
    except tarfile.TarError as error:
        raise DataError(f"{folder} is no packed run: {reason_of(error)}") from error
