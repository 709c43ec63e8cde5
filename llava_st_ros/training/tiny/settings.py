"""The YAML of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llava_st_ros.errors import ConfigError

SECTIONS = ("seed", "data", "model", "stages")


def read_settings(path: Path) -> dict[str, Any]:
    """The YAML's sections; raises ConfigError when it is none or lacks one."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: {error}; expected a training YAML", "name another file"
        ) from error
    missing = set(SECTIONS) - set(settings if isinstance(settings, dict) else {})
    if missing:
        raise ConfigError(
            f"{path} without {', '.join(sorted(missing))}; expected all four sections", "add them"
        )
    return settings
