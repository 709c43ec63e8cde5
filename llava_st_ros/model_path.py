"""Where the checkpoint that comes with the package lies: in a clone, a colcon or a pip install."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_st_ros.errors import CheckpointError

DEFAULT_MODEL = "llava-st-tiny"


def default_model() -> Path:
    """The folder of llava-st-tiny. Raises CheckpointError naming the places looked at."""
    places = list(_places())
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise CheckpointError(
        f"no {DEFAULT_MODEL} in {places[0]} nor in a share/llava_st_ros/models above it",
        "the checkpoint that comes with the package",
        "name one with --model, or train it with `llava-st train`",
    )


def _places() -> Iterator[Path]:
    package = Path(__file__).resolve().parent
    yield package.parent / "models" / DEFAULT_MODEL  # a clone, and colcon's --symlink-install
    for prefix in package.parents:  # <prefix>/lib/pythonX.Y/site-packages/llava_st_ros
        yield prefix / "share" / "llava_st_ros" / "models" / DEFAULT_MODEL
