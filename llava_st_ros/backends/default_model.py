"""Where the model that comes with the package lies: in a clone, a colcon or a pip install."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_st_ros.engine.manifest import fingerprint, is_engine_directory, read_manifest
from llava_st_ros.errors import CheckpointError, EngineError

DEFAULT_MODEL = "llava-st-tiny"
DEFAULT_ENGINE = f"{DEFAULT_MODEL}-cpu"  # what `make engine` exports beside it


def default_model(backend: str = "", device: str = "", precision: str = "") -> Path:
    """The folder to run with these settings of ``load_backend``.

    The engine directory, where the settings suit it and it was exported of just this checkpoint, or
    stands alone; else the checkpoint. Raises CheckpointError naming the places looked at.
    """
    suits = (
        backend in ("", "onnxruntime") and device in ("", "cpu") and precision in ("", "float32")
    )
    for place in _places():
        engine = place.with_name(DEFAULT_ENGINE)
        if suits and is_engine_directory(engine) and _is_current(engine, place):
            return engine
        if (place / "config.json").is_file():
            break
    return default_checkpoint()


def default_checkpoint() -> Path:
    """The folder of llava-st-tiny. Raises CheckpointError naming the places looked at."""
    places = list(_places())
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise CheckpointError(
        f"no {DEFAULT_MODEL} in {places[0]} nor in a share/llava_st_ros/models above it"
        "; expected the checkpoint that comes with the package",
        "name one with --model, or train it with `llava-st train`",
    )


def _is_current(engine: Path, checkpoint: Path) -> bool:
    """Whether an engine directory was made of this checkpoint, or has none beside it."""
    if not checkpoint.is_dir():
        return True
    try:
        return read_manifest(engine).checkpoint == fingerprint(checkpoint)
    except (EngineError, OSError):
        return False


def _places() -> Iterator[Path]:
    package = Path(__file__).resolve().parents[1]
    yield package.parent / "models" / DEFAULT_MODEL  # a clone, and colcon's --symlink-install
    for prefix in package.parents:  # <prefix>/lib/pythonX.Y/site-packages/llava_st_ros
        yield prefix / "share" / "llava_st_ros" / "models" / DEFAULT_MODEL
