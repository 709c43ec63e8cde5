"""Inputs on which an engine and the reference are compared.

Frames and prompts depend on a fixed seed and the model's geometry only: they are the same on every
machine and exist for every checkpoint.
"""

from __future__ import annotations

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Modality, Prompt
from llava_st_ros.text.prompt import visual_block

SEED = 20281
TEXT_TOKENS = 12  # on each side of the visual block


def reference_frames(config: ModelConfig) -> np.ndarray:
    """Return a window of frames, RGB uint8 [F, S, S, 3]: plain boxes moving over a gradient."""
    rng = np.random.default_rng(SEED)
    size, frames = config.image_size, config.num_frames
    down, across = np.meshgrid(*[np.linspace(40, 200, size)] * 2, indexing="ij")
    background = np.stack((down, across, 240 - down), axis=-1)
    images = np.repeat(background[None].astype(np.uint8), frames, axis=0)
    for _ in range(4):
        color = rng.integers(0, 256, 3)
        side = rng.uniform(0.1, 0.3) * size
        start, end = rng.uniform(0, size - side, (2, 2))
        for index, image in enumerate(images):
            y, x = (start + (end - start) * index / max(frames - 1, 1)).astype(int)
            image[y : y + int(side), x : x + int(side)] = color
    return images


def reference_prompts(config: ModelConfig) -> tuple[Prompt, Prompt]:
    """Return a video prompt and an image prompt: random text and coordinate inputs around the
    visual block."""
    rng = np.random.default_rng(SEED)
    special = config.special_tokens
    structural = set(vars(special).values())
    text_ids = [i for i in range(config.language.vocab_size) if i not in structural]
    coordinate_inputs = [
        special.temporal_input,
        special.spatial_height_input,
        special.spatial_width_input,
    ]
    prompts = []
    for modality in (Modality.VIDEO, Modality.IMAGE):
        before, after = rng.choice(text_ids, (2, TEXT_TOKENS)).tolist()
        block = visual_block(config, modality)
        ids = [*before, *block, *after, *coordinate_inputs, *rng.choice(text_ids, 3).tolist()]
        values = tuple((float(value),) for value in rng.uniform(0, 1, 3))
        prompts.append(Prompt(np.array(ids, np.int64), modality, *values))
    return prompts[0], prompts[1]
