"""A small geometry for tests of the model; its sizes all differ, to detect swapped axes."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from llava_st_ros.config import (
    LanguageConfig,
    ModelConfig,
    PackerConfig,
    SpecialTokens,
    VisionConfig,
)
from llava_st_ros.coordinates import Axis
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality, Prompt
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = ("where is the red cube", "the blue ball rolls behind the box", "what happens then")


def tiny_tokenizer(num_temporal: int = 10, num_spatial: int = 12) -> Tokenizer:
    return train_tokenizer(TEXTS, 300, num_temporal, num_spatial)


def tiny_config(tokenizer: Tokenizer | None = None, **changes: object) -> ModelConfig:
    """A grid of 9 and windows of 10 frames; ``changes`` replace fields of ModelConfig."""
    config = ModelConfig(
        image_size=38,  # two pixels more than nine patches
        patch_size=4,
        vision=VisionConfig(24, 40, 2, 3),
        language=LanguageConfig(32, 48, 2, 4, 2, tokenizer.vocab_size if tokenizer else 40),
        packer=PackerConfig(16, 2),
        special_tokens=tokenizer.special if tokenizer else SpecialTokens(*range(20, 34)),
        num_temporal_tokens=10,
        num_spatial_tokens=12,
        num_frames=10,
    )
    return dataclasses.replace(config, **changes)


def tiny_model(config: ModelConfig, seed: int = 0) -> LlavaST:
    """Random weights, large enough that every module affects the output."""
    torch.manual_seed(seed)
    model = LlavaST(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (parameter.ndim == 1 and "norm" in name) or ".ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(std=0.3)
    return model


def tiny_video_prompt(config: ModelConfig, inputs: bool = True) -> Prompt:
    """Text, the visual block, text, one placeholder per axis, text."""
    special = config.special_tokens
    fast = [special.vid_patch] * config.num_fast_tokens
    slow = [special.vid_patch] * config.num_slow_tokens
    fast[0], fast[-1] = special.vid_start, special.vid_end
    slow[0], slow[-1] = special.slow_vid_start, special.slow_vid_end
    placeholders = [
        special.temporal_input,
        special.spatial_height_input,
        special.spatial_width_input,
    ]
    ids = [
        1,
        2,
        3,
        *fast,
        *slow,
        4,
        5,
        *(placeholders if inputs else []),
        config.coordinates.ids(Axis.WIDTH)[3],
        6,
    ]
    values = ((0.33,), (0.5,), (0.74,)) if inputs else ((), (), ())
    return Prompt(np.array(ids, dtype=np.int64), Modality.VIDEO, *values)


def tiny_image_prompt(config: ModelConfig) -> Prompt:
    special = config.special_tokens
    block = [special.im_patch] * config.tokens_per_frame
    block[0], block[-1] = special.im_start, special.im_end
    return Prompt(np.array([7, *block, 8, 9], dtype=np.int64), Modality.IMAGE)
