"""From a YAML and rendered clips to a checkpoint: tokenizer, stages, save.

A finished stage leaves its weights in the work folder, a stage at work its state (run_state): a run
that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from llava_st_ros.atomic_files import atomic_file, write_text
from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig, VisionConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.model.checkpoint import save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Box, Task
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.simulation.questions import all_texts
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES
from llava_st_ros.text.answer_format import FIXED_WORDS
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import make_question, num_templates
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer
from llava_st_ros.training.loop import loop, run_state
from llava_st_ros.training.loop.batches import Batch, Shard
from llava_st_ros.training.objective import (
    propagate_to_neighbors,
    stop_propagation,
)
from llava_st_ros.training.tiny import dense_alignment, packer_alignment
from llava_st_ros.training.tiny.conversations import ConversationEncoder, Lanes
from llava_st_ros.training.tiny.event_alignment import EventHeads
from llava_st_ros.training.tiny.initialize import initialize
from llava_st_ros.training.tiny.matrix_precision import fast_products
from llava_st_ros.training.tiny.settings import read_settings
from llava_st_ros.training.tiny.stages import (
    ConversationSampler,
    ConversationStage,
    ConversationStep,
    cache_vision_features,
    parameter_count,
)
from llava_st_ros.training.tiny.variants import PAPER, Variant

# Stages by name; any other is one of questions.
DENSE, PACKERS = "dense_alignment", "packer_alignment"
MADE_FROM = "made_from.json"
OBJECT_NAMES = dense_alignment.Vocabulary(tuple(COLORS), tuple(SHAPES), tuple(SIZES))


@dataclass(frozen=True)
class AlignmentStage:
    """A stage without questions: ``batch`` frames or clips at a time; ``clips`` as of
    ConversationStage."""

    batch: int
    clips: int | None = None


Stage = ConversationStage | AlignmentStage
_Prepared = tuple[nn.Module, Callable[[int], Batch]]  # what is trained, and its batches


def train(
    config_path: Path,
    data: Path,
    work: Path,
    out: Path | None,
    workers: int = 0,
    variant: Variant = PAPER,
) -> None:
    """Train as the YAML says on the clips under ``data`` and write the checkpoint to ``out``.

    ``workers`` processes make batches (see loop.LoopConfig); what they are changes nothing.
    ``variant`` changes the network (see variants). Without ``out`` only the stages' weights are
    left, in ``work``: a variant's are no checkpoint.
    """
    settings = read_settings(config_path)
    plans = {name: read_stage(name, values) for name, values in settings["stages"].items()}
    work.mkdir(parents=True, exist_ok=True)
    accelerator = loop.make_accelerator()
    main = accelerator.is_main_process
    store = ClipStore(data)
    tokenizer = learn_tokenizer(settings["model"])
    config = model_config(settings["model"], tokenizer)
    made_from = {
        "seed": settings["seed"],
        "model": settings["model"],
        "tokenizer": tokenizer.digest,
        "clips": store.digest,
    }
    if main and not (work / MADE_FROM).exists():
        write_text(work / MADE_FROM, json.dumps(made_from, indent=1) + "\n")
    accelerator.wait_for_everyone()
    check_made_from(work / MADE_FROM, made_from)
    torch.manual_seed(settings["seed"])
    model = variant.model(config)
    initialize(model, settings["seed"])
    model.to(accelerator.device)
    size, processes = parameter_count(model) / 1e6, accelerator.num_processes
    accelerator.print(
        f"{size:.2f}M parameters, {len(store)} clips, {processes} x {accelerator.device.type}"
    )

    stages = _Stages(model, store, tokenizer, work, accelerator)
    for number, (name, (loop_config, stage)) in enumerate(plans.items()):
        seed = settings["seed"] + number
        kept = work / f"{name}.safetensors"
        if not kept.exists():
            # New heads start alike, whether the stages before were trained now or in another run.
            torch.manual_seed(seed)
            propagate_to_neighbors(model)
            compile_parts(model)
            loop_config = dataclasses.replace(loop_config, seed=seed, workers=workers)
            given = {**dataclasses.asdict(stage), "clips": stage.clips or len(store)}
            with fast_products(accelerator.device):
                step, batches = variant.prepared(*stages.prepare(name, stage, seed))
                loop.run(name, step, batches, loop_config, work, accelerator, given)
            stop_propagation(model)
            if main:
                stages.keep_heads(name, step)
                with atomic_file(kept) as part:
                    save_file(dict(model.state_dict()), part)
                run_state.discard(work, name)
        else:
            accelerator.print(f"{name}: done before, read from {kept}")
            model.load_state_dict(load_file(kept))
        accelerator.wait_for_everyone()
        stages.done(name)
    if main and out is not None:
        save_checkpoint(out, model.cpu(), config, tokenizer, "float16")
    accelerator.wait_for_everyone()


def check_made_from(path: Path, current: Mapping[str, Any]) -> None:
    """Raises ConfigError where a work folder comes from something else than what is given now: its
    weights and features would mean other words and other clips."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in current.items() if known[name] != value]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: {error!r}; expected what a run wrote there", "use another work folder"
        ) from error
    if other:
        raise ConfigError(
            f"{path.parent}, begun with another {' and '.join(other)}"
            "; expected the same from a run's first stage to its last",
            "go back to it, or use another work folder",
        )


def read_stage(name: str, values: Mapping[str, Any]) -> tuple[loop.LoopConfig, Stage]:
    """A stage of the YAML; raises ConfigError where a setting is unknown or missing."""
    in_loop = {key for key in values if key in loop.LoopConfig.__dataclass_fields__}
    kind = AlignmentStage if name in (DENSE, PACKERS) else ConversationStage
    try:
        config = loop.LoopConfig(**{key: values[key] for key in in_loop})
        return config, kind(**{key: values[key] for key in values if key not in in_loop})
    except TypeError as error:
        raise ConfigError(
            f"stage {name}: {error}; expected the settings of LoopConfig and of its kind"
        ) from error


def compile_parts(model: LlavaST) -> None:
    """Let torch.compile (it needs a C++ compiler) fuse the parts where the time goes.

    For each shape anew, of which there are two, clips and pictures: code for shapes in general is
    slower, and torch 2.13 gets the strides of attention's gradient wrong in it.
    """
    for part in (model.model.vision_tower, model.model.vision_resampler, model.model):
        part.compile(dynamic=False)


def question_texts() -> Iterator[str]:
    """Every template of every task around a phrase, for the tokenizer."""
    box = Box(0.1, 0.1, 0.5, 0.5)
    for task in Task:
        for template in range(num_templates(task)):
            yield make_question(
                task, "the red ball", span=(0.0, 0.5), box=box, template=template
            ).text


def learn_tokenizer(model: Mapping[str, Any]) -> Tokenizer:
    """Byte-level BPE over the simulator's words and the tasks' templates."""
    texts = [*all_texts(), *question_texts()]
    texts += [*FIXED_WORDS] * 50
    texts += ["system\nYou are a helpful assistant.\nuser\nassistant\n"] * 50
    return train_tokenizer(
        texts, model["text_vocabulary"], model["num_temporal_tokens"], model["num_spatial_tokens"]
    )


def model_config(model: Mapping[str, Any], tokenizer: Tokenizer) -> ModelConfig:
    """The geometry of a training YAML with a tokenizer's vocabulary."""
    return ModelConfig(
        image_size=model["image_size"],
        patch_size=model["patch_size"],
        vision=VisionConfig(**model["vision"]),
        language=LanguageConfig(vocab_size=tokenizer.vocab_size, **model["language"]),
        packer=PackerConfig(**model["packer"]),
        special_tokens=tokenizer.special,
        num_temporal_tokens=model["num_temporal_tokens"],
        num_spatial_tokens=model["num_spatial_tokens"],
        num_frames=model["num_frames"],
        compat=model["compat"],
        end_token_ids=tuple(tokenizer.encode("<|im_end|>")),
    )


class _Stages:
    """What every stage works on, and what each kind of stage trains on it."""

    def __init__(
        self,
        model: LlavaST,
        store: ClipStore,
        tokenizer: Tokenizer,
        work: Path,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.store, self.tokenizer, self.work = model, store, tokenizer, work
        self.accelerator, self._cache = accelerator, work / "vision_features.npy"
        self._heads: Path | None = None  # of the last stage that trained them
        self.shard = Shard(accelerator.process_index, accelerator.num_processes)

    def prepare(self, name: str, stage: Stage, seed: int) -> _Prepared:
        """The step that the stage trains, and its batches."""
        if stage.batch < self.shard.world_size:
            raise ConfigError(
                f"stage {name}: a batch of {stage.batch} for {self.shard.world_size} processes"
                "; expected an item for each at least",
                "launch fewer processes or enlarge the batch",
            )
        store = self.store if stage.clips is None else self.store.first(stage.clips)
        if isinstance(stage, ConversationStage):
            return self._questions(store, stage, seed)
        return (self._dense if name == DENSE else self._packers)(store, stage.batch, seed)

    def _dense(self, store: ClipStore, size: int, seed: int) -> _Prepared:
        config = self.model.config
        if self.accelerator.is_main_process:
            self._cache.unlink(missing_ok=True)  # of the tower as it was
        heads = dense_alignment.DenseHeads(config, OBJECT_NAMES, self.tokenizer.encode)
        sampler = dense_alignment.DenseSampler(store, config, OBJECT_NAMES, size, seed, self.shard)
        return dense_alignment.DenseStep(self.model, heads), sampler.batch

    def _packers(self, store: ClipStore, size: int, seed: int) -> _Prepared:
        config = self.model.config
        heads = packer_alignment.PackerHeads(config, self.tokenizer.encode)
        sampler = packer_alignment.PackerSampler(
            store, self._features(), config, size, seed, self.shard
        )
        return packer_alignment.PackerStep(self.model, heads), sampler.batch

    def _questions(self, store: ClipStore, stage: ConversationStage, seed: int) -> _Prepared:
        model = self.model
        builder = PromptBuilder(self.tokenizer, model.config)
        room = Lanes(stage.lanes, stage.lane_tokens)
        encoder = ConversationEncoder(builder, model.config, room)
        sampler = ConversationSampler(store, self._features(), encoder, stage, seed, self.shard)
        heads = EventHeads(model.config)
        if self._heads is not None:
            heads.load_state_dict(load_file(self._heads))
        return ConversationStep(model, heads, stage), sampler.batch

    def keep_heads(self, stage: str, step: nn.Module) -> None:
        """Event heads go on in the next stage: new ones would say nothing to the decoder until
        they know something, while its rate is high."""
        if isinstance(step, ConversationStep) and step.stage.events > 0:
            with atomic_file(self._heads_of(stage)) as part:
                save_file(step.heads.state_dict(), part)

    def done(self, stage: str) -> None:
        """The stage's heads, if it trained any, are where the next ones start."""
        if self._heads_of(stage).exists():
            self._heads = self._heads_of(stage)

    def _heads_of(self, stage: str) -> Path:
        return self.work / f"{stage}.heads.safetensors"

    def _features(self) -> np.ndarray:
        """Float16 [clips, F, N, Dv], computed once, by the main process: the tower is frozen after
        its own stage."""
        if not self._cache.exists() and self.accelerator.is_main_process:
            cache_vision_features(self.model, self.store, self._cache)
        self.accelerator.wait_for_everyone()
        features: np.ndarray = np.load(self._cache, mmap_mode="r", allow_pickle=False)
        return features
