"""Atomic writes: a file or folder appears under its name only once it is complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file atomically.

    Yields a path in the same folder and with the same suffix. After the block, the file written
    there replaces ``path``; if the block raises, it is deleted and ``path`` is unchanged.
    """
    part = _part(path)
    try:
        yield part
        _sync(part)  # a power cut leaves the old file or the new one
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE and error.filename is None:
            error.filename = str(path)  # a failed write does not say of which file
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder atomically.

    Yields a new folder next to ``path``. After the block it replaces ``path``; if the block raises,
    it is deleted and ``path`` is unchanged. Unfinished folders of processes that no longer run are
    deleted first.

    Raises:
        OSError: The folder cannot be written or replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-begun-by-"
    for unfinished in path.parent.glob(f"{prefix}*"):
        if not _is_running(unfinished.name.removeprefix(prefix)):
            shutil.rmtree(unfinished, ignore_errors=True)
    part = path.with_name(f"{prefix}{os.getpid()}")
    old = path.with_name(f"{prefix}{os.getpid()}-replaced")
    part.mkdir()
    try:
        yield part
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(part, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def staged_files(folder: Path, last: str = "") -> Iterator[Path]:
    """Write files that belong together into ``folder``.

    Yields a new folder inside ``folder``. After the block each file in it replaces, atomically, the
    file of the same name in ``folder``; the file named ``last`` is moved after all others. If the
    block raises, ``folder`` is unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as name:
        stage = Path(name)
        yield stage
        for file in sorted(stage.iterdir(), key=lambda file: (file.name == last, file.name)):
            os.replace(file, folder / file.name)


def require_writable_folder(folder: Path) -> None:
    """Create a folder and write a file in it, so that a long run fails before it starts.

    Raises:
        OSError: The folder cannot be created or written, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
        file.write(bytes(4096))
        file.flush()


def require_writable_file(path: Path) -> None:
    """Check that a file can be written under a name.

    Raises:
        OSError, ValueError: It cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    require_writable_folder(path.parent)
    part = _part(path)
    part.touch()  # the name may be too long, or have a NUL: ValueError
    part.unlink()


def _part(path: Path) -> Path:
    """Where a file is written before it is complete: a hidden name that no user's file has."""
    return path.with_name(f".{path.stem}.unfinished{path.suffix}")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_running(process: str) -> bool:
    """Whether a process of this id exists; True for a name that is not an id."""
    try:
        os.kill(int(process.removesuffix("-replaced")), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True
