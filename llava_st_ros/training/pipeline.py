"""From a YAML and rendered clips to a checkpoint: tokenizer, stages, save.

A finished stage leaves its weights in the work folder; a run that was killed starts again after the
last finished stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig, VisionConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.language.answer_format import FIXED_WORDS
from llava_st_ros.language.prompt import PromptBuilder
from llava_st_ros.language.tasks import num_templates, question
from llava_st_ros.model.checkpoint import save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.tokenizer import Tokenizer, train_tokenizer
from llava_st_ros.records import Box, Task
from llava_st_ros.training import dense_alignment, loop, packer_alignment
from llava_st_ros.training.clip_store import ClipStore
from llava_st_ros.training.conversations import ConversationEncoder
from llava_st_ros.training.event_alignment import EventHeads
from llava_st_ros.training.initialise import initialise
from llava_st_ros.training.objective import (
    coordinate_tables,
    propagate_to_neighbours,
    stop_propagation,
)
from llava_st_ros.training.questions import all_texts
from llava_st_ros.training.scenes import COLORS, SHAPES, SIZES
from llava_st_ros.training.settings import read_settings
from llava_st_ros.training.stages import (
    ConversationSampler,
    ConversationStage,
    cache_vision_features,
    freeze_vision,
    parameter_count,
    stage_loss,
)

# Stages by name; any other is one of questions.
DENSE, PACKERS = "dense_alignment", "packer_alignment"
OBJECT_NAMES = dense_alignment.Vocabulary(tuple(COLORS), tuple(SHAPES), tuple(SIZES))
# The modules that a stage trains, and the loss of its next batch.
_Trained = tuple[list[nn.Module], Callable[[], loop.LossParts]]


@dataclass(frozen=True)
class AlignmentStage:
    """A stage without questions: ``batch`` frames or clips at a time."""

    batch: int


Stage = ConversationStage | AlignmentStage


def train(config_path: Path, data: Path, work: Path, out: Path) -> None:
    """Train as the YAML says on the clips under ``data`` and write the checkpoint to ``out``."""
    settings = read_settings(config_path)
    plans = {name: read_stage(name, values) for name, values in settings["stages"].items()}
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings["seed"])
    store = ClipStore(data)
    tokenizer = learn_tokenizer(settings["model"])
    config = model_config(settings["model"], tokenizer)
    model = LlavaST(config)
    initialise(model, settings["seed"])
    print(f"{parameter_count(model) / 1e6:.2f}M parameters, {len(store)} clips")

    stages = _Stages(model, store, tokenizer, work)
    for number, (name, (loop_config, stage)) in enumerate(plans.items()):
        kept = work / f"{name}.safetensors"
        if kept.exists():
            print(f"{name}: done before, read from {kept}")
            model.load_state_dict(load_file(kept))
            continue
        propagate_to_neighbours(model)
        compile_parts(model)
        trained, loss = stages.prepare(name, stage, settings["seed"] + number)
        loop.run(name, trained, loss, loop_config, work / "log.jsonl")
        stop_propagation(model)
        part = kept.with_suffix(".part")
        save_file(dict(model.state_dict()), part)
        part.rename(kept)
    save_checkpoint(out, model, config, tokenizer, "float16")


def read_stage(name: str, values: Mapping[str, Any]) -> tuple[loop.LoopConfig, Stage]:
    """A stage of the YAML; raises ConfigError where a setting is unknown or missing."""
    in_loop = {key for key in values if key in loop.LoopConfig.__dataclass_fields__}
    kind = AlignmentStage if name in (DENSE, PACKERS) else ConversationStage
    try:
        config = loop.LoopConfig(**{key: values[key] for key in in_loop})
        return config, kind(**{key: values[key] for key in values if key not in in_loop})
    except TypeError as error:
        raise ConfigError(
            f"stage {name}: {error}", "the settings of LoopConfig and of its kind", "correct it"
        ) from error


def compile_parts(model: LlavaST) -> None:
    """Let torch.compile (it needs a C++ compiler) fuse the parts where the time goes."""
    for part in (model.model.vision_tower, model.model.vision_resampler, model.model):
        part.compile()


def question_texts() -> Iterator[str]:
    """Every template of every task around a phrase, for the tokenizer."""
    box = Box(0.1, 0.1, 0.5, 0.5)
    for task in Task:
        for template in range(num_templates(task)):
            yield question(task, "the red ball", span=(0.0, 0.5), box=box, template=template).text


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

    def __init__(self, model: LlavaST, store: ClipStore, tokenizer: Tokenizer, work: Path) -> None:
        self.model, self.store, self.tokenizer, self.work = model, store, tokenizer, work

    def prepare(self, name: str, stage: Stage, seed: int) -> _Trained:
        """The modules that the stage trains, and the loss of its batches."""
        if isinstance(stage, ConversationStage):
            return self._questions(stage, seed)
        return (self._dense if name == DENSE else self._packers)(stage.batch, seed)

    def _dense(self, batch: int, seed: int) -> _Trained:
        model, config = self.model, self.model.config
        heads = dense_alignment.DenseHeads(config, OBJECT_NAMES, self.tokenizer.encode)
        sampler = dense_alignment.DenseSampler(self.store, config, OBJECT_NAMES, seed)
        batches = loop.prefetched(lambda: sampler.batch(batch))
        inner = model.model
        trained = [inner.vision_tower, inner.mm_projector, inner.embed_tokens, heads]
        trained += coordinate_tables(model)
        return trained, lambda: dense_alignment.dense_loss(model, heads, next(batches))

    def _packers(self, batch: int, seed: int) -> _Trained:
        model, config = self.model, self.model.config
        heads = packer_alignment.PackerHeads(config, self.tokenizer.encode)
        sampler = packer_alignment.PackerSampler(self.store, self._features(), config, seed)
        batches = loop.prefetched(lambda: sampler.batch(batch))
        # The projector and the tables stay as pictures know them.
        trained = [model.model.vision_resampler, heads]
        return trained, lambda: packer_alignment.packer_loss(model, heads, *next(batches))

    def _questions(self, stage: ConversationStage, seed: int) -> _Trained:
        model = self.model
        freeze_vision(model)
        builder = PromptBuilder(self.tokenizer, model.config)
        encoder = ConversationEncoder(builder, model.config, stage.max_tokens)
        sampler = ConversationSampler(self.store, self._features(), encoder, stage, seed)
        heads = EventHeads(model.config)
        batches = loop.prefetched(sampler.batch)
        return [model, heads], lambda: stage_loss(model, heads, stage, next(batches))

    def _features(self) -> np.ndarray:
        """Float16 [clips, F, N, Dv], computed once: the tower is frozen after its own stage."""
        cache = self.work / "vision_features.npy"
        if not cache.exists():
            cache_vision_features(self.model, self.store, cache)
        features: np.ndarray = np.load(cache, mmap_mode="r", allow_pickle=False)
        return features
