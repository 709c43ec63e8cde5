"""Fine-tuning of any LLaVA-ST checkpoint on ST-Align's records: one stage, a checkpoint out.

``llava-st train finetune``, alone or under ``accelerate launch``. Beside the checkpoint the stage's
adapter is kept in the published layout, which ``llava-st train merge`` takes too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.model.checkpoint import DTYPES, Checkpoint, load_checkpoint, save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.finetune.lora import save_adapter
from llava_st_ros.training.finetune.settings import PARTS, FinetuneSettings, read_finetune_settings
from llava_st_ros.training.finetune.step import FinetuneStep
from llava_st_ros.training.loop import loop
from llava_st_ros.training.loop.batches import Shard
from llava_st_ros.training.loop.run_state import trained_parameters
from llava_st_ros.training.objective import stop_propagation
from llava_st_ros.training.st_align.batches import RecordBatches
from llava_st_ros.training.st_align.mix import Mix, read_mix


def finetune(
    config_path: Path, checkpoint: Path, data: Path, work: Path, out: Path, workers: int = 0
) -> None:
    """Train ``checkpoint`` as the YAML says on the records under ``data``; write it to ``out``.

    ``work`` keeps the log, the state of the run, the list of bad records, and the ``adapter``.
    ``workers`` processes make batches (see loop.LoopConfig); what they are changes nothing.
    """
    settings = read_finetune_settings(config_path)
    accelerator = loop.make_accelerator()
    if settings.dtype != "float32" and accelerator.mixed_precision == "no":
        raise ConfigError(
            f"frozen weights in {settings.dtype} without mixed precision"
            "; expected accelerate launch --mixed_precision bf16, or dtype: float32",
            "change one of them",
        )
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)  # the adapters' start, the same in every process
    loaded = _load(checkpoint, settings)
    step = make_step(loaded.model, settings)
    batches = make_batches(loaded, settings, data, work, accelerator)
    config = loop_config(settings, batches.mix.epoch_length, accelerator.num_processes)
    config = dataclasses.replace(config, workers=workers)
    given = {name: getattr(settings, name) for name in ("batch", "max_tokens", "dtype")}
    given["mix"] = [dataclasses.asdict(part) for part in settings.mix]
    given["lora"] = dataclasses.asdict(settings.lora)
    given["records"] = batches.mix.epoch_length
    loop.run(settings.name, step, batches, config, work, accelerator, given)
    trained = trained_parameters(step)  # of all processes, together
    if accelerator.is_main_process:
        if "adapters" in settings.rates:
            save_adapter(work / "adapter", settings.lora, trained)
        merged = with_trained(_load(checkpoint, settings).model, settings, trained)
        save_checkpoint(out, merged, loaded.config, loaded.tokenizer, settings.dtype)
    accelerator.wait_for_everyone()


def make_step(model: LlavaST, settings: FinetuneSettings) -> FinetuneStep:
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
    """This process's batches. Bad records are listed in ``work``, by each process in its file."""
    if loaded.tokenizer is None:
        raise CheckpointError(
            "a checkpoint without a tokenizer; expected one with it",
            "copy the tokenizer files into it",
        )
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    log = work / f"bad_records_{shard.rank}.txt"
    log.unlink(missing_ok=True)
    limits = {"share": settings.bad_share, "least": settings.bad_least, "log": log}
    records, bad = read_mix(settings.mix, data, limits)
    return RecordBatches(
        Mix(records, [part.weight for part in settings.mix], settings.seed),
        bad,
        PromptBuilder(loaded.tokenizer, loaded.config),
        loaded.config,
        size=settings.each * shard.world_size,
        max_tokens=settings.max_tokens,
        shard=shard,
    )


def loop_config(settings: FinetuneSettings, epoch: int, processes: int) -> loop.LoopConfig:
    """``epoch`` records an epoch; the last step is filled from the epoch after it."""
    steps = math.ceil(settings.epochs * epoch / settings.batch)
    return loop.LoopConfig(
        steps=steps,
        rate=max(settings.rates.values()),
        rates={PARTS[part]: rate for part, rate in settings.rates.items()},
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
    """The untrained model with a stage's trained parameters, adapters merged (by peft)."""
    step = make_step(model, settings)
    missing = step.load_state_dict(dict(trained), strict=False)
    assert not missing.unexpected_keys
    stop_propagation(model)
    if "adapters" in settings.rates:
        step.adapted.merge_and_unload(safe_merge=True)
    return model


def _load(checkpoint: Path, settings: FinetuneSettings) -> Checkpoint:
    return load_checkpoint(checkpoint, dtype=DTYPES[settings.dtype])
