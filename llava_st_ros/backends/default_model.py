"""Finds the model that comes with the package, in a clone, a colcon workspace or a pip install."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava_st_ros.engine.manifest import check_checkpoint, is_engine_directory, read_manifest
from llava_st_ros.errors import CheckpointError, EngineError

DEFAULT_MODEL = "llava-st-tiny"
DEFAULT_ENGINE = f"{DEFAULT_MODEL}-cpu"  # next to the checkpoint; `make engine` exports it


def default_model(backend: str = "", device: str = "", precision: str = "") -> Path:
    """Select the packaged model for these settings of ``load_backend``.

    Returns:
        The packaged engine directory when the settings allow it and it was exported from the
        packaged checkpoint (or is installed without one); else the checkpoint.

    Raises:
        CheckpointError: Neither was found.
    """
    runs_engine = (
        backend in ("", "onnxruntime") and device in ("", "cpu") and precision in ("", "float32")
    )
    for checkpoint in candidate_folders():
        engine = checkpoint.with_name(DEFAULT_ENGINE)
        if runs_engine and is_engine_directory(engine) and _is_current(engine, checkpoint):
            return engine
        if (checkpoint / "config.json").is_file():
            break
    return default_checkpoint()


def default_checkpoint() -> Path:
    """Find the packaged checkpoint, llava-st-tiny. Raises CheckpointError when it is missing."""
    candidates = list(candidate_folders())
    for checkpoint in candidates:
        if (checkpoint / "config.json").is_file():
            return checkpoint
    raise CheckpointError(
        f"no {DEFAULT_MODEL} in {candidates[0]} or in a share/llava_st_ros/models above it",
        "name a checkpoint with --model, or train one with `llava-st train`",
    )


def _is_current(engine: Path, checkpoint: Path) -> bool:
    """Whether an engine was exported from this checkpoint, or has no checkpoint next to it."""
    if not checkpoint.is_dir():
        return True
    try:
        check_checkpoint(engine, read_manifest(engine), checkpoint)
    except (EngineError, OSError):
        return False
    return True


def candidate_folders() -> Iterator[Path]:
    """The folders where the packaged checkpoint may be, in order of preference."""
    package = Path(__file__).resolve().parents[1]
    yield package.parent / "models" / DEFAULT_MODEL  # a clone, and colcon's --symlink-install
    for prefix in package.parents:  # <prefix>/lib/pythonX.Y/site-packages/llava_st_ros
        yield prefix / "share" / "llava_st_ros" / "models" / DEFAULT_MODEL
