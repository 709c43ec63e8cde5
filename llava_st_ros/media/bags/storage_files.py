"""Finds the storage files of a recording, and opens them by their content."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from llava_st_ros.errors import DataError, reason_of
from llava_st_ros.media.bags import mcap_records, sqlite_file
from llava_st_ros.media.bags.compression import ZSTD_MAGIC, decompress_file, no_space_error
from llava_st_ros.media.bags.mcap_file import McapFile
from llava_st_ros.media.bags.metadata import METADATA_FILE, Metadata, read_metadata
from llava_st_ros.media.bags.sqlite_file import SqliteFile
from llava_st_ros.media.bags.storage import DamagedError, Storage

SUFFIXES = (".mcap", ".db3")
_COMPRESSED = ".zstd"
_SEPARATORS = re.compile(r"[/\\]")  # of paths, also on Windows
_PART = re.compile(r"(.*)_(0|[1-9]\d{0,8})")  # rosbag2's names of parts, without suffix
_DISK_SHARE = 0.75  # of the free space, for one copy
_ROS1_MAGIC = b"#ROSBAG V"


def is_storage_file(path: Path) -> bool:
    """Whether a path has the name of a storage file: .mcap or .db3, also compressed.

    Hidden files are none: macOS leaves one named ._NAME beside each file that it copies.
    """
    return bool(_stem(path.name)) and not path.name.startswith(".")


class Copies:
    """Temporary copies of storage files, removed with this object."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def reserve(self, source: Path, size: int) -> tuple[Path, int]:
        """Reserve a new copy of ``source``.

        Returns:
            Its path; the number of bytes that it may have, so that the disk does not become full.

        Raises:
            DataError: The copy may have less than ``size`` bytes.
            OSError: The temporary folder cannot be created.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="llava_st_bag_")
        folder = Path(self._folder.name)
        limit = int(shutil.disk_usage(folder).free * _DISK_SHARE)
        if size > limit:
            raise no_space_error(source, folder, limit)
        self._count += 1
        return folder / str(self._count), limit


def open_storage(path: Path, copies: Copies) -> Storage:
    """Open a storage file by its content; it is never modified.

    Raises:
        DamagedError: The file is not a readable storage file.
        DataError: There is no space for a copy that is needed.
    """
    try:
        return _open(path, copies)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {reason_of(error)}") from error


def _open(path: Path, copies: Copies) -> Storage:
    if not path.is_file():
        raise DamagedError(f"{path} is not a file")
    copy, fault = None, ""
    start = _start(path)
    if start.startswith(ZSTD_MAGIC):
        copy, limit = copies.reserve(path, path.stat().st_size)
        fault = decompress_file(path, copy, limit)
        start = _start(copy)
    if start.startswith(mcap_records.MAGIC):
        storage: Storage = McapFile(path, copy)
    elif start.startswith(sqlite_file.MAGIC):
        storage = _open_database(path, copy, copies)
    else:
        raise DamagedError(f"{path} {_describe(start, fault)}")
    if fault:
        storage.notes.add(f"{path.name}: {fault}; what precedes is read")
    return storage


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _describe(start: bytes, fault: str) -> str:
    if fault:
        return f"cannot be decompressed: {fault}"
    if not start:
        return "is empty"
    if start.startswith(_ROS1_MAGIC):
        return "is a ROS 1 bag: convert it with `rosbags-convert`"
    return "is neither an MCAP nor an SQLite file"


def _open_database(path: Path, copy: Path | None, copies: Copies) -> Storage:
    """Open a database: a copy if it was not closed, with its journals, or if it is truncated."""
    original = path.resolve()
    journals = {} if copy else _journals(path, original)
    # SQLite fills a page that is cut with zeros: the image in it would be read as if complete.
    cut = sqlite_file.partial_page_bytes(copy or original)
    if not copy and (journals or cut):
        sizes = (file.stat().st_size for file in (original, *journals.values()))
        copy, _ = copies.reserve(path, sum(sizes))
        shutil.copyfile(original, copy)
        for suffix, journal in journals.items():
            shutil.copyfile(journal, copy.with_name(copy.name + suffix))
    if copy and cut:
        os.truncate(copy, copy.stat().st_size - cut)
    storage = SqliteFile(path, copy)
    if journals:
        names = " and ".join(path.name + suffix for suffix in journals)
        storage.notes.add(f"{path.name} was not closed; it is read with {names}")
    if cut:
        storage.notes.add(f"{path.name} is truncated; what precedes the cut is read")
    return storage


def _journals(path: Path, original: Path) -> dict[str, Path]:
    """Return a database's journals by suffix; of a symbolic link, also those beside the link."""
    return {
        suffix: file
        for suffix in sqlite_file.JOURNALS
        for file in (path.with_name(path.name + suffix), original.with_name(original.name + suffix))
        if os.path.isfile(file) and file.stat().st_size
    }


def find_storage_files(path: Path) -> tuple[list[Path], Metadata | None, list[str]]:
    """Return a recording's storage files.

    Args:
        path: The folder of a recording, or a single storage file.

    Returns:
        The existing files; the content of metadata.yaml, if it is readable; notes on the rest.

    Raises:
        DataError: There is no storage file, or it is ambiguous which files are the recording.
    """
    try:
        if not path.exists():
            raise DataError(f"no bag at {path}")
        if not path.is_dir():
            if path.name == METADATA_FILE:
                raise DataError(f"{path} is not a storage file", "name its folder")
            return [path], None, []
        present = sorted(
            file for file in path.iterdir() if is_storage_file(file) and not file.is_dir()
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
    try:
        metadata = read_metadata(path / METADATA_FILE)
    except DataError as error:
        files, notes = _guess_parts(path, present, error.problem)
        return files, None, [f"{error.problem}: reading {_names(files)}", *notes]
    files, notes = _listed(path, metadata, present)
    if files:
        return files, metadata, notes
    notes = notes or [f"{METADATA_FILE} lists no file"]
    files, more = _guess_parts(path, present, "; ".join(notes))
    return files, metadata, [*notes, f"reading {_names(files)} instead", *more]


def _listed(path: Path, metadata: Metadata, present: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the files that metadata.yaml lists, compressed or not, and notes on missing ones."""
    files, notes = [], []
    for listed in dict.fromkeys(metadata.files):
        file = _resolve(path, listed)
        if file:
            files += [file] if file not in files else []
            continue
        count = metadata.file_counts.get(listed)
        counted = f"; it counts {count} messages in it" if count is not None else ""
        notes.append(f"{listed}, which {METADATA_FILE} lists, is missing{counted}")
    stems = {_stem(file.name) for file in files}
    unlisted = [file for file in present if _stem(file.name) not in stems]
    if files and unlisted:
        notes.append(
            f"{_names(unlisted)} {_verb(unlisted)} not read: {METADATA_FILE} does not list"
            f" {'it' if len(unlisted) == 1 else 'them'}"
        )
    return files, notes


def _resolve(folder: Path, listed: str) -> Path | None:
    """Return the existing file that metadata.yaml lists, compressed or not, if it has one."""
    parts = [part for part in _SEPARATORS.split(listed) if part]
    for relative in (parts[-1:], parts):
        if not relative or ".." in relative:
            continue
        file = folder.joinpath(*relative)
        other = file.name.removesuffix(_COMPRESSED)
        other = other if other != file.name else file.name + _COMPRESSED
        for candidate in (file, file.with_name(other)):
            if os.path.isfile(candidate):  # False for names that the system rejects
                return candidate
    return None


def _guess_parts(path: Path, present: list[Path], why: str) -> tuple[list[Path], list[str]]:
    """Return the storage files of a folder if they can only be one recording.

    Args:
        path: The folder.
        present: Its storage files.
        why: Why metadata.yaml does not tell, for the error.
    """
    by_stem = {_stem(file.name): file for file in reversed(present)}  # uncompressed ones preferred
    files = list(by_stem.values())[::-1]
    if not files:
        raise DataError(f"{path} contains no recording: it has no .mcap or .db3 file; {why}")
    if len(files) == 1:
        return files, []
    parts = [part for stem in by_stem if (part := _PART.fullmatch(Path(stem).stem))]
    numbers = {int(part[2]) for part in parts}
    recordings = {(part[1], Path(stem).suffix) for part, stem in zip(parts, by_stem)}
    # Numbers that do not count parts are times, of a recording each.
    if len(parts) < len(files) or len(recordings) > 1 or max(numbers) >= 2 * len(files):
        raise DataError(
            f"{path} contains several recordings or parts: {_names(files)}; {why}",
            "name one of them",
        )
    missing = sorted(set(range(max(numbers))) - numbers)
    return files, [f"parts {missing} of the recording are missing"] if missing else []


def _stem(name: str) -> str:
    """Return a storage file's name when decompressed; "" if it is another file."""
    name = name.removesuffix(_COMPRESSED)
    return name if name.endswith(SUFFIXES) else ""


def _names(files: list[Path]) -> str:
    return ", ".join(file.name for file in files[:8]) + (", ..." if len(files) > 8 else "")


def _verb(files: list[Path]) -> str:
    return "is" if len(files) == 1 else "are"
