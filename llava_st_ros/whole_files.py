"""Files that appear once they are whole: no reader meets half of one, and no kill leaves one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
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
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
