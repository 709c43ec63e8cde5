"""The YAML of a fine-tuning stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava_st_ros.errors import ConfigError, shown
from llava_st_ros.files.raw import is_file_name
from llava_st_ros.files.schema import build
from llava_st_ros.files.yaml_files import read_yaml
from llava_st_ros.model.checkpoint import DTYPES
from llava_st_ros.training.finetune.lora import LoraSettings
from llava_st_ros.training.st_align.sampler import RecordFile

# The parts of the model that a stage can train, and the patterns of their parameters' names.
# lm_head is always frozen.
TRAINABLE_PARTS = {
    "adapters": "*.lora_*",
    "packers": "*.vision_resampler.*",
    "projector": "*.mm_projector.*",
    "embeddings": "*.embed_tokens.*",
    "tables": "*put_embeddings.*",
}


@dataclass(frozen=True)
class FinetuneSettings:
    """The settings of a stage.

    Attributes:
        name: The stage's name, by default that of its YAML.
        mix: The files of records.
        rates: The peak learning rate of each part that is trained (see TRAINABLE_PARTS).
        batch: Records per step, over all processes.
        records_per_process: Records per process in a forward pass. Gradients are accumulated over
            as many passes as ``batch`` needs, so that the result does not depend on the number of
            processes.
        epochs: Passes over the mix.
        seed: The seed of the adapters' initial values and of the records' order.
        warmup: The share of the steps over which the learning rate rises.
        weight_decay: The weight decay of the optimizer.
        clip_norm: The norm to which gradients are clipped.
        lora: LoRA's settings, used if ``rates`` has "adapters".
        dtype: The dtype of the frozen weights and of the checkpoint that is written. Trained
            parameters are float32.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        chunk: Frames per pass through the vision tower.
        max_tokens: The longest conversation that is accepted; the model's context by default.
        log_every: Steps between log lines.
        save_minutes: Minutes between saved states.
        max_bad_share: The share of the records that may be bad (see BadRecordLog).
        min_bad_records: The number of records that may be bad in any case.
    """

    name: str
    mix: tuple[RecordFile, ...]
    rates: Mapping[str, float]
    batch: int
    records_per_process: int = 1
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
    max_bad_share: float = 0.01
    min_bad_records: int = 10

    def __post_init__(self) -> None:
        parts = ", ".join(TRAINABLE_PARTS)
        if not self.rates:
            raise ConfigError(f"rates is empty; expected a learning rate for some of {parts}")
        if unknown := sorted(set(self.rates) - set(TRAINABLE_PARTS)):
            raise ConfigError(f"rates has {', '.join(unknown)}; expected some of {parts}")
        for part, rate in self.rates.items():
            if not rate > 0:
                raise ConfigError(f"the rate of {part} is {rate}; expected a value above 0")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        for name in ("batch", "records_per_process", "chunk", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; expected at least 1")
        for name in ("warmup", "weight_decay", "max_bad_share", "min_bad_records"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 0")
        for name in ("clip_norm", "save_minutes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a value above 0")
        if not is_file_name(self.name):
            raise ConfigError(f"name is {self.name!r}; expected a name of files")
        if not self.epochs > 0:
            raise ConfigError(f"epochs is {self.epochs}; expected a value above 0")
        if not self.mix:
            raise ConfigError("mix is empty; expected one or more files")

    def accumulate(self, processes: int) -> int:
        """The number of forward passes, of ``records_per_process`` records each, in a step."""
        per_pass = self.records_per_process * processes
        if self.batch % per_pass:
            raise ConfigError(
                f"batch is {self.batch}; expected a multiple of {per_pass} "
                f"({processes} processes with {self.records_per_process} records each)"
            )
        return self.batch // per_pass


def read_finetune_settings(path: Path) -> FinetuneSettings:
    """Read a stage's YAML.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown, missing or invalid.
    """
    values = read_yaml(path, ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is {shown(values)}; expected a mapping of settings")
    return build(FinetuneSettings, {"name": path.stem, **values}, str(path), ConfigError)
