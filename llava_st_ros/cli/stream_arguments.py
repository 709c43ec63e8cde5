"""The arguments of which simulated streams are used, and where they are kept."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def add_seconds_argument(parser: argparse.ArgumentParser) -> None:
    """Add --seconds."""
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=(30.0, 60.0),
        metavar="A..B",
        help="least and greatest length of a stream (default 30..60)",
    )


@contextmanager
def stream_store(store: Path | None) -> Iterator[Path]:
    """Yield the folder that keeps streams, or if there is none, one that is removed at the end."""
    if store is not None:
        yield store
        return
    with TemporaryDirectory(prefix="llava-st-streams-") as folder:
        yield Path(folder)


def _seconds(text: str) -> tuple[float, float]:
    """Return the numbers of "30..60"; of "45", twice the same."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\.\.(\d+(?:\.\d+)?))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 30..60")
    return float(found[1]), float(found[2] or found[1])
