"""Writes a checkpoint with a calibration: its files as they are, and another config.json."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from llava_st_ros.atomic_files import atomic_folder, write_text
from llava_st_ros.backends import is_engine_directory
from llava_st_ros.calibration import Calibration
from llava_st_ros.checkpoint_config import SECTION, read_checkpoint_json
from llava_st_ros.errors import CheckpointError, ConfigError, DataError, reason_of

CONFIG = "config.json"


def check_target(checkpoint: Path, out: Path) -> None:
    """Check that a calibrated copy of a checkpoint can be written.

    Args:
        checkpoint: The checkpoint.
        out: The folder to write: a new one, or the checkpoint itself.

    Raises:
        CheckpointError: There is no folder ``checkpoint``.
        ConfigError: ``checkpoint`` is an engine directory, or ``out`` is another existing folder.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"no folder {checkpoint}; expected a checkpoint folder")
    if is_engine_directory(checkpoint):
        raise ConfigError(
            f"{checkpoint} is an engine directory",
            "calibrate the checkpoint that it was exported from, then export again",
        )
    if out.exists() and not (out.is_dir() and out.samefile(checkpoint)):
        raise ConfigError(f"{out} already exists", "name a new folder, or the checkpoint itself")


def write_calibrated(checkpoint: Path, out: Path, calibration: Calibration) -> None:
    """Write a checkpoint with a calibration.

    Args:
        checkpoint: The checkpoint.
        out: As for ``check_target``.
        calibration: The calibration; it replaces one that the checkpoint has.

    Raises:
        CheckpointError: The checkpoint's config.json cannot be read.
        DataError: ``out`` cannot be written.
    """
    values = read_checkpoint_json(checkpoint / CONFIG)
    section = {**(values.get(SECTION) or {}), "calibration": asdict(calibration)}
    text = json.dumps({**values, SECTION: section}, indent=1) + "\n"
    try:
        if out.exists():
            write_text(out / CONFIG, text)
            return
        with atomic_folder(out) as part:
            for path in sorted(checkpoint.iterdir()):
                if path.is_file() and path.name != CONFIG:
                    shutil.copy2(path, part / path.name)
            (part / CONFIG).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {out}: {reason_of(error)}") from error
