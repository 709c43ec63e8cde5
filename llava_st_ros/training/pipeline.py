"""From a YAML and rendered clips to a checkpoint: tokenizer, stages, save.

A finished stage leaves its weights in the work folder; a run that was killed starts again after the
last finished stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig, VisionConfig
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
    stage_from_mapping,
    stage_loss,
)

# Stages by name; any other is one of questions.
DENSE, PACKERS = "dense_alignment", "packer_alignment"
OBJECT_NAMES = dense_alignment.Vocabulary(tuple(COLORS), tuple(SHAPES), tuple(SIZES))


def train(config_path: Path, data: Path, work: Path, out: Path) -> None:
    """Train as the YAML says on the clips under ``data`` and write the checkpoint to ``out``."""
    settings = read_settings(config_path)
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings["seed"])
    store = ClipStore(data)
    tokenizer = learn_tokenizer(settings["model"])
    config = model_config(settings["model"], tokenizer)
    model = LlavaST(config)
    initialise(model, settings["seed"])
    print(f"{parameter_count(model) / 1e6:.2f}M parameters, {len(store)} clips")

    for number, (name, stage) in enumerate(settings["stages"].items()):
        kept = work / f"{name}.safetensors"
        if kept.exists():
            print(f"{name}: done before, read from {kept}")
            model.load_state_dict(load_file(kept))
            continue
        propagate_to_neighbours(model)
        compile_parts(model)
        seed = settings["seed"] + number
        if name == DENSE:
            _dense(model, store, tokenizer, stage, seed, work)
        elif name == PACKERS:
            _pack(model, store, tokenizer, stage, seed, work)
        else:
            _converse(name, model, store, tokenizer, stage, seed, work)
        stop_propagation(model)
        part = kept.with_suffix(".part")
        save_file(dict(model.state_dict()), part)
        part.rename(kept)
    save_checkpoint(out, model, config, tokenizer, "float16")


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


def _dense(
    model: LlavaST,
    store: ClipStore,
    tokenizer: Tokenizer,
    stage: Mapping[str, Any],
    seed: int,
    work: Path,
) -> None:
    settings, rest = stage_from_mapping(stage)
    heads = dense_alignment.DenseHeads(model.config, OBJECT_NAMES, tokenizer.encode)
    sampler = dense_alignment.DenseSampler(store, model.config, OBJECT_NAMES, seed)
    inner = model.model
    trained = [inner.vision_tower, inner.mm_projector, inner.embed_tokens, heads]
    trained += coordinate_tables(model)

    batches = loop.prefetched(lambda: sampler.batch(rest["batch"]))

    def loss(_step: int) -> loop.LossParts:
        return dense_alignment.dense_loss(model, heads, next(batches))

    loop.run(DENSE, trained, loss, settings, work / "log.jsonl")


def _pack(
    model: LlavaST,
    store: ClipStore,
    tokenizer: Tokenizer,
    stage: Mapping[str, Any],
    seed: int,
    work: Path,
) -> None:
    settings, rest = stage_from_mapping(stage)
    heads = packer_alignment.PackerHeads(model.config, tokenizer.encode)
    features = _vision_features(model, store, work)
    sampler = packer_alignment.PackerSampler(store, features, model.config, seed)
    batches = loop.prefetched(lambda: sampler.batch(rest["batch"]))

    def loss(_step: int) -> loop.LossParts:
        return packer_alignment.packer_loss(model, heads, *next(batches))

    # The projector and the tables stay as pictures know them.
    loop.run(PACKERS, [model.model.vision_resampler, heads], loss, settings, work / "log.jsonl")


def _vision_features(model: LlavaST, store: ClipStore, work: Path) -> np.ndarray:
    """Float16 [clips, F, N, Dv], computed once: the tower is frozen after its own stage."""
    cache = work / "vision_features.npy"
    if not cache.exists():
        cache_vision_features(model, store, cache)
    features: np.ndarray = np.load(cache, mmap_mode="r", allow_pickle=False)
    return features


def _converse(
    name: str,
    model: LlavaST,
    store: ClipStore,
    tokenizer: Tokenizer,
    stage: Mapping[str, Any],
    seed: int,
    work: Path,
) -> None:
    settings, rest = stage_from_mapping(stage)
    conversation = ConversationStage(loop=settings, **rest)
    freeze_vision(model)
    features = _vision_features(model, store, work)
    encoder = ConversationEncoder(
        PromptBuilder(tokenizer, model.config), model.config, conversation.max_tokens
    )
    sampler = ConversationSampler(store, features, encoder, conversation, seed)

    heads = EventHeads(model.config)
    batches = loop.prefetched(sampler.batch)

    def loss(_step: int) -> loop.LossParts:
        return stage_loss(model, heads, conversation, next(batches))

    loop.run(name, [model, heads], loss, settings, work / "log.jsonl")
