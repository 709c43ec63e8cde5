"""Files and folders that appear once they are whole: no reader meets half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to, in ``path``'s folder and with its suffix; at the end the file there takes
    ``path``'s name and place. If the block raises, it is removed and ``path`` stays as it was."""
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """``text`` in UTF-8."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``; at the end it takes ``path``'s name, and the place of a folder
    there. If the block raises, it is removed and ``path`` stays as it was. What a process that was
    killed has left of such folders is removed first. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = f".{path.name}-begun-by-"
    for left in path.parent.glob(f"{begun}*"):
        if not _runs(left.name.removeprefix(begun)):
            shutil.rmtree(left, ignore_errors=True)
    part = path.with_name(f"{begun}{os.getpid()}")
    old = path.with_name(f"{begun}{os.getpid()}-replaced")
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


def _runs(process: str) -> bool:
    """Whether there is a process of this id; of what is no id, True."""
    try:
        os.kill(int(process.removesuffix("-replaced")), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True
