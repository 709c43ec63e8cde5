"""The YAML file of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.config import Compat, LanguageConfig, PackerConfig, VisionConfig
from llava_st_ros.errors import ConfigError, shown
from llava_st_ros.files.raw import is_file_name
from llava_st_ros.files.schema import build
from llava_st_ros.files.yaml_files import read_yaml
from llava_st_ros.simulation.worlds import SPLITS

VIDEOS_FOLDER = "videos"  # in the folder of the clips
SECTIONS = ("seed", "data", "model", "stages")


@dataclass(frozen=True)
class DataSection:
    """The section ``data``.

    Attributes:
        clips: Number of clips.
        videos: Number of videos, for windows of them.
        video_frames: Frames of a video.
        split: The split that clips and videos are of.
    """

    clips: int
    videos: int = 0
    video_frames: int = 120
    split: str = "train"

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("videos", 0), ("video_frames", 40)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"data: {name} is {getattr(self, name)}; expected at least {least}"
                )
        if self.split not in SPLITS:
            raise ConfigError(
                f"data: split is {shown(self.split)}; expected one of {', '.join(SPLITS)}"
            )


@dataclass(frozen=True)
class _ModelSection:
    """The section ``model``: a ModelConfig without what the tokenizer determines."""

    image_size: int
    patch_size: int
    num_frames: int
    num_temporal_tokens: int
    num_spatial_tokens: int
    text_vocabulary: int
    compat: Compat
    vision: VisionConfig
    language: Mapping[str, Any]
    packer: PackerConfig


def read_settings(path: Path) -> dict[str, Any]:
    """Return the YAML's sections; ``data`` has its defaults filled in.

    Raises:
        ConfigError: The file cannot be read, is not valid YAML, or a section is missing or of
            another type.
    """
    settings: dict[str, Any] = read_yaml(path, ConfigError)
    missing = set(SECTIONS) - set(settings if isinstance(settings, dict) else {})
    if missing:
        raise ConfigError(
            f"{path} has no section {', '.join(sorted(missing))}",
            f"a training YAML has the sections {', '.join(SECTIONS)}",
        )
    if type(settings["seed"]) is not int or not 0 <= settings["seed"] < 2**32:
        raise ConfigError(
            f"{path}: seed is {shown(settings['seed'])}; expected an integer from 0 to 2^32 - 1"
        )
    for name in SECTIONS[1:]:
        if not isinstance(settings[name], dict):
            raise ConfigError(
                f"{path}: section {name} is {shown(settings[name])}; expected a mapping"
            )
    data = build(DataSection, settings["data"], f"{path}: data", ConfigError)
    settings["data"] = dataclasses.asdict(data)
    model = build(_ModelSection, settings["model"], f"{path}: model", ConfigError)
    language = {**model.language, "vocab_size": model.text_vocabulary}
    build(LanguageConfig, language, f"{path}: model.language", ConfigError)
    if not settings["stages"]:
        raise ConfigError(f"{path}: section stages is empty; expected one or more stages")
    for name, stage in settings["stages"].items():
        if not isinstance(stage, dict):
            raise ConfigError(f"{path}: stage {name} is {shown(stage)}; expected a mapping")
        if not is_file_name(f"{name}.heads.safetensors"):
            raise ConfigError(f"{path}: stage {name!r} is no name of a file", "rename the stage")
    return settings
