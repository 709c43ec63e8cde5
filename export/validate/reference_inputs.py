"""Inputs on which an engine and the reference are compared: the same on every machine.

Frames and prompts made from a seed and the geometry alone, so that any checkpoint has them.
"""

from __future__ import annotations

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Modality, Prompt
from llava_st_ros.text.prompt import visual_block

SEED = 20281
WORDS = 12  # text tokens on each side of the visual block


def reference_frames(config: ModelConfig) -> np.ndarray:
    """A window of frames, RGB uint8 [F, S, S, 3]: boxes of plain colors that move over a ramp."""
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
    """A prompt about a video and one about an image: words by chance, coordinate inputs among
    them, and the visual block in between."""
    rng = np.random.default_rng(SEED)
    special = config.special_tokens
    structural = set(vars(special).values())
    words = [i for i in range(config.language.vocab_size) if i not in structural]
    places = [special.temporal_input, special.spatial_height_input, special.spatial_width_input]
    prompts = []
    for modality in (Modality.VIDEO, Modality.IMAGE):
        before, after = rng.choice(words, (2, WORDS)).tolist()
        block = visual_block(config, modality)
        ids = [*before, *block, *after, *places, *rng.choice(words, 3).tolist()]
        values = tuple((float(value),) for value in rng.uniform(0, 1, 3))
        prompts.append(Prompt(np.array(ids, np.int64), modality, *values))
    return prompts[0], prompts[1]
