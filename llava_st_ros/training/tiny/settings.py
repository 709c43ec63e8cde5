"""The YAML file of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llava_st_ros.errors import ConfigError

SECTIONS = ("seed", "data", "model", "stages")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the YAML's sections.

    Raises:
        ConfigError: The file cannot be read, is not valid YAML, or lacks a section.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a training YAML: {error}") from error
    missing = set(SECTIONS) - set(settings if isinstance(settings, dict) else {})
    if missing:
        raise ConfigError(
            f"{path} has no section {', '.join(sorted(missing))}",
            f"a training YAML has the sections {', '.join(SECTIONS)}",
        )
    return settings
