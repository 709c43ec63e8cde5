"""Finding files in a user's folder, by their path or by their name anywhere below it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from llava_st_ros.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


class FolderIndex:
    """The files of a folder. It is only searched if a path does not exist as it is given.

    Args:
        folder: The folder.

    Attributes:
        ambiguous: Names that several files have; the first in the order of paths is used.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ambiguous: set[str] = set()
        if not folder.is_dir():
            raise DataError(f"no folder at {folder}")

    def find(self, paths: Iterable[str]) -> Path | None:
        """Return the first of some paths that exists below the folder, or else of their names.

        A path without a suffix may be a video with any usual one, or a folder of images.
        """
        candidates = [candidate for path in paths for candidate in _with_suffixes(path)]
        for candidate in candidates:
            path = self.folder / candidate
            if _exists(path):
                return path
        for candidate in candidates:
            found = self._by_name.get(candidate.rpartition("/")[2], ())
            if found:
                if len(found) > 1:
                    self.ambiguous.add(found[0].name)
                return found[0]
        return None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        by_name: dict[str, list[Path]] = {}
        for parent, folders, files in os.walk(self.folder):
            folders.sort()
            for name in sorted(folders + files):
                by_name.setdefault(name, []).append(Path(parent, name))
        return by_name


def _with_suffixes(path: str) -> Sequence[str]:
    if "." in path.rpartition("/")[2]:
        return (path,)
    return (*(path + suffix for suffix in VIDEO_SUFFIXES), path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a lone surrogate
        return False
