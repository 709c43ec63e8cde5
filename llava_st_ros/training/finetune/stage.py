"""A fine-tuning stage: checkpoint and ST-Align records in, checkpoint out.

Run by ``llava-st train finetune``, on its own or under ``accelerate launch``. The stage also writes
its adapter in the published layout, which ``llava-st train merge`` reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.model.checkpoint import DTYPES, Checkpoint, load_checkpoint, save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.finetune.lora import save_adapter
from llava_st_ros.training.finetune.settings import (
    TRAINABLE_PARTS,
    FinetuneSettings,
    read_finetune_settings,
)
from llava_st_ros.training.finetune.step import FinetuneStep
from llava_st_ros.training.loop import loop
from llava_st_ros.training.loop.batches import Shard
from llava_st_ros.training.loop.run_state import trained_parameters
from llava_st_ros.training.objective import stop_propagation
from llava_st_ros.training.st_align.batches import RecordBatches
from llava_st_ros.training.st_align.sampler import RecordSampler, read_records


def finetune(
    config_path: Path, checkpoint: Path, data: Path, work: Path, out: Path, workers: int = 0
) -> None:
    """Train a checkpoint on records; an interrupted run resumes from ``work``.

    Args:
        config_path: The stage's YAML (see FinetuneSettings).
        checkpoint: The checkpoint folder to start from.
        data: The folder of the JSON files and their media.
        work: The folder of the run: its log, saved state, lists of bad records, and ``adapter``.
        out: The checkpoint folder to write.
        workers: Processes that make batches (see ``loop.LoopConfig``); it does not change the
            result.
    """
    settings = read_finetune_settings(config_path)
    accelerator = loop.make_accelerator()
    if settings.dtype != "float32" and accelerator.mixed_precision == "no":
        raise ConfigError(
            f"dtype {settings.dtype} requires mixed precision",
            "use `accelerate launch --mixed_precision bf16`, or set dtype to float32",
        )
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)  # the same initial adapters in every process
    loaded = _load(checkpoint, settings)
    step = make_step(loaded.model, settings)
    batches = make_batches(loaded, settings, data, work, accelerator)
    epoch_length = batches.sampler.epoch_length
    config = loop_config(settings, epoch_length, accelerator.num_processes)
    config = dataclasses.replace(config, workers=workers)
    identity = _run_identity(settings, epoch_length)
    loop.run(settings.name, step, batches, config, work, accelerator, identity)
    trained = trained_parameters(step)  # a collective operation: every process takes part
    if accelerator.is_main_process:
        if "adapters" in settings.rates:
            save_adapter(work / "adapter", settings.lora, trained)
        merged = with_trained(_load(checkpoint, settings).model, settings, trained)
        save_checkpoint(out, merged, loaded.config, loaded.tokenizer, settings.dtype)
    accelerator.wait_for_everyone()


def _run_identity(settings: FinetuneSettings, records: int) -> dict[str, Any]:
    """Settings that a run must share with a saved state to resume from it."""
    return {
        "batch": settings.batch,
        "max_tokens": settings.max_tokens,
        "dtype": settings.dtype,
        "mix": [dataclasses.asdict(file) for file in settings.mix],
        "lora": dataclasses.asdict(settings.lora),
        "records": records,
    }


def make_step(model: LlavaST, settings: FinetuneSettings) -> FinetuneStep:
    """The training step of a stage; ``model`` is modified."""
    return FinetuneStep(
        model,
        settings.rates.keys(),
        settings.lora,
        chunk=settings.chunk,
        gradient_checkpointing=settings.gradient_checkpointing,
    )


def make_batches(
    loaded: Checkpoint,
    settings: FinetuneSettings,
    data: Path,
    work: Path,
    accelerator: Accelerator,
) -> RecordBatches:
    """This process's batches. Each process lists the bad records that it meets in ``work``."""
    if loaded.tokenizer is None:
        raise CheckpointError(
            "the checkpoint has no tokenizer", "copy the tokenizer's files into its folder"
        )
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    log = work / f"bad_records_{shard.rank}.txt"
    log.unlink(missing_ok=True)
    bad_limits = {
        "max_bad_share": settings.max_bad_share,
        "min_bad_records": settings.min_bad_records,
        "log": log,
    }
    records, bad_records = read_records(settings.mix, data, bad_limits)
    return RecordBatches(
        RecordSampler(records, [file.weight for file in settings.mix], settings.seed),
        bad_records,
        PromptBuilder(loaded.tokenizer, loaded.config),
        loaded.config,
        size=settings.records_per_process * shard.world_size,
        max_tokens=settings.max_tokens,
        shard=shard,
    )


def loop_config(settings: FinetuneSettings, epoch_length: int, processes: int) -> loop.LoopConfig:
    """The training loop's settings for epochs of ``epoch_length`` records.

    The last step is filled up with records of the following epoch.
    """
    steps = math.ceil(settings.epochs * epoch_length / settings.batch)
    return loop.LoopConfig(
        steps=steps,
        rate=max(settings.rates.values()),
        rates={TRAINABLE_PARTS[part]: rate for part, rate in settings.rates.items()},
        warmup=max(1, math.ceil(settings.warmup * steps)),
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate(processes),
        seed=settings.seed,
        log_every=settings.log_every,
        save_minutes=settings.save_minutes,
    )


def with_trained(
    model: LlavaST, settings: FinetuneSettings, trained: Mapping[str, Tensor]
) -> LlavaST:
    """Write a stage's trained parameters into the untrained ``model``, adapters merged by peft."""
    step = make_step(model, settings)
    keys = step.load_state_dict(dict(trained), strict=False)
    assert not keys.unexpected_keys
    stop_propagation(model)
    step.merge_adapters()
    return model


def _load(checkpoint: Path, settings: FinetuneSettings) -> Checkpoint:
    return load_checkpoint(checkpoint, dtype=DTYPES[settings.dtype])
