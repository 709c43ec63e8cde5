"""Where the model that comes with the package lies: in a clone, a colcon or a pip install."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_st_ros.engine.manifest import is_engine_directory, read_manifest, sha256_of
from llava_st_ros.errors import CheckpointError, EngineError

DEFAULT_MODEL = "llava-st-tiny"
DEFAULT_ENGINE = f"{DEFAULT_MODEL}-cpu"  # what `make engine` exports beside it


def default_model() -> Path:
    """The folder to run: the engine directory where one was exported of just these weights, else
    the checkpoint. Raises CheckpointError."""
    checkpoint = default_checkpoint()
    engine = checkpoint.with_name(DEFAULT_ENGINE)
    return engine if _is_made_from(engine, checkpoint) else checkpoint


def default_checkpoint() -> Path:
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


def _is_made_from(engine: Path, checkpoint: Path) -> bool:
    if not is_engine_directory(engine):
        return False
    try:
        made_from = read_manifest(engine).checkpoint
    except EngineError:
        return False
    return made_from == sha256_of(checkpoint / "model.safetensors")


def _places() -> Iterator[Path]:
    package = Path(__file__).resolve().parent
    yield package.parent / "models" / DEFAULT_MODEL  # a clone, and colcon's --symlink-install
    for prefix in package.parents:  # <prefix>/lib/pythonX.Y/site-packages/llava_st_ros
        yield prefix / "share" / "llava_st_ros" / "models" / DEFAULT_MODEL
