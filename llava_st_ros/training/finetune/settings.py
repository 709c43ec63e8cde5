"""The YAML of a fine-tuning stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from llava_st_ros.errors import ConfigError
from llava_st_ros.model.checkpoint import DTYPES
from llava_st_ros.training.finetune.lora import LoraSettings
from llava_st_ros.training.st_align.mix import Part

# What a stage can train: parts and the names of their parameters. lm_head is never trained.
PARTS = {
    "adapters": "*.lora_*",
    "packers": "*.vision_resampler.*",
    "projector": "*.mm_projector.*",
    "embeddings": "*.embed_tokens.*",
    "tables": "*put_embeddings.*",
}


@dataclass(frozen=True)
class FinetuneSettings:
    """A stage. ``rates`` has the peak rate of every part (see PARTS) that it trains.

    A step takes ``batch`` records, ``each`` of them at a time in every process: gradients are
    accumulated as the number of processes needs it, so that it does not change what is learnt.
    ``warmup`` is a share of the steps. ``dtype`` is that of the frozen weights and of
    the checkpoint that is written; what is trained is float32. ``chunk`` frames go through the
    vision tower at a time. ``bad_share`` and ``bad_least`` are the limits of BadRecords;
    ``max_tokens`` of a record is by default what the model can take.
    """

    name: str
    mix: tuple[Part, ...]
    rates: Mapping[str, float]
    batch: int
    each: int = 1
    epochs: float = 1.0
    seed: int = 0
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    lora: LoraSettings = field(default_factory=LoraSettings)
    dtype: str = "bfloat16"
    gradient_checkpointing: bool = True
    chunk: int = 25
    max_tokens: int | None = None
    log_every: int = 20
    save_minutes: float = 30.0
    bad_share: float = 0.01
    bad_least: int = 10

    def __post_init__(self) -> None:
        unknown = sorted(set(self.rates) - set(PARTS))
        unknown += [f"{k} {v!r}" for k, v in self.rates.items() if not isinstance(v, (int, float))]
        if unknown or not self.rates:
            raise ConfigError(
                f"rates of {', '.join(unknown) or 'nothing'}"
                f"; expected numbers for some of {', '.join(PARTS)}",
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        if min(self.batch, self.each, self.chunk) < 1 or not self.epochs > 0 or not self.mix:
            raise ConfigError(
                f"batch {self.batch}, each {self.each}, chunk {self.chunk}, epochs {self.epochs} "
                f"and {len(self.mix)} files"
                "; expected one or more of each",
            )

    def accumulate(self, processes: int) -> int:
        """How many times ``each`` records every process takes for a step."""
        at_once = self.each * processes
        if self.batch % at_once:
            raise ConfigError(
                f"a batch of {self.batch} records for {processes} processes with {self.each} each"
                f"; expected a multiple of {at_once}",
                "change batch or each in the stage's YAML, or start other processes",
            )
        return self.batch // at_once


def read_finetune_settings(path: Path) -> FinetuneSettings:
    """Raises ConfigError where the YAML can't be read or a setting is unknown or missing."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: {error}; expected a stage's YAML", "name another file"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {type(values).__name__}; expected a mapping")
    values = {"name": path.stem, **values}
    try:
        values["mix"] = tuple(Part(**part) for part in values["mix"])
        if "lora" in values:
            values["lora"] = LoraSettings(**values["lora"])
        return FinetuneSettings(**values)
    except (TypeError, KeyError) as error:
        known = ", ".join(f.name for f in fields(FinetuneSettings))
        raise ConfigError(
            f"{path}: {error}; expected settings among {known}; mix a list of files"
        ) from error
