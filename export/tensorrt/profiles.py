"""Optimization profiles: the sizes that TensorRT makes a graph's engine for, and for which best."""

from __future__ import annotations

from typing import NamedTuple

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Modality
from llava_st_ros.text.prompt import visual_block

IMAGES = 4  # encoded at once at most
WORDS = 150  # positions of a prompt besides its visual block, generously
ANSWER = 1024  # longest answer, the node's default
DRAFT = 32  # tokens checked at once at most
COORDINATES = 256  # coordinate inputs of a prompt at most


class Range(NamedTuple):
    """An input's least, usual and greatest shape."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


Profile = dict[str, Range]  # by input


def profiles(config: ModelConfig) -> dict[str, list[Profile]]:
    """For each graph its profiles; of the language graph the first is for prefill, the second for a
    few more tokens."""
    language, frames = config.language, config.num_frames
    width, tokens, size = language.hidden_size, config.tokens_per_frame, config.image_size
    prompt = max(len(visual_block(config, modality)) for modality in Modality) + WORDS
    limit = language.max_position_embeddings
    prompt, longest = min(prompt, limit), min(prompt + ANSWER, limit)
    visual = config.num_fast_tokens + config.num_slow_tokens
    state = (language.num_key_value_heads, width // language.num_attention_heads)

    def decoder(new: tuple[int, int, int], before: tuple[int, int, int], rows: int) -> Profile:
        past = {
            f"past_{kind}_{layer}": Range(*((count, *state) for count in before))
            for kind in ("key", "value")
            for layer in range(language.num_hidden_layers)
        }
        return {
            "ids": Range(*((count,) for count in new)),
            "visual": Range((1, width), (visual, width), (max(visual, tokens), width)),
            "mixed": Range((1, width), (1, width), (COORDINATES, width)),
            "rows": Range((1,), (1,), (rows,)),
            **past,
        }

    region = config.packer.temporal_region
    places = Range((region,), (frames,), (frames,))
    feature, pixels = (tokens, width), (3, size, size)
    kept = Range((1, *feature), (2 * frames, *feature), (8 * frames, *feature))
    return {
        "vision": [{"pixels": Range((1, *pixels), (1, *pixels), (IMAGES, *pixels))}],
        "image": [{"features": Range(feature, feature, feature)}],
        "packer": [{"features": kept, "frames": places, "time_indices": places}],
        "language": [
            decoder((1, prompt, prompt), (0, 0, longest), 1),
            decoder((1, 1, DRAFT), (0, prompt, longest), DRAFT),
        ],
    }
