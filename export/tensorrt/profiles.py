"""Optimization profiles: the input shapes that an engine supports, and those it is tuned for."""

from __future__ import annotations

from llava_st_ros.config import ModelConfig
from llava_st_ros.engine.profiles import Profile, ShapeRange
from llava_st_ros.records import Modality
from llava_st_ros.text.prompt import visual_block

MAX_IMAGES = 4  # encoded in one call
TEXT_TOKENS = 150  # positions of a prompt besides its visual block, a generous estimate
MAX_ANSWER_TOKENS = 1024  # the node's default
MAX_DRAFT_TOKENS = 32  # verified in one call
MAX_COORDINATE_INPUTS = 256  # of one prompt


def profiles(config: ModelConfig) -> dict[str, list[Profile]]:
    """Return the profiles of each graph.

    The language graph has two: the first for prefill, the second for decoding.
    """
    frames, size = config.num_frames, config.image_size
    feature, pixels = (config.tokens_per_frame, config.language.hidden_size), (3, size, size)
    pool = ShapeRange((1, *feature), (2 * frames, *feature), (8 * frames, *feature))
    window = ShapeRange((config.packer.temporal_region,), (frames,), (frames,))
    return {
        "vision": [{"pixels": ShapeRange((1, *pixels), (1, *pixels), (MAX_IMAGES, *pixels))}],
        "image": [{"features": ShapeRange(feature, feature, feature)}],
        "packer": [{"features": pool, "frames": window, "time_indices": window}],
        "language": _language_profiles(config),
    }


def _language_profiles(config: ModelConfig) -> list[Profile]:
    """Profiles for prefill and for decoding."""
    language, width = config.language, config.language.hidden_size
    limit = language.max_position_embeddings
    prompt = max(len(visual_block(config, modality)) for modality in Modality) + TEXT_TOKENS
    prompt, longest = min(prompt, limit), min(prompt + MAX_ANSWER_TOKENS, limit)
    visual = config.num_fast_tokens + config.num_slow_tokens
    state = (language.num_key_value_heads, width // language.num_attention_heads)

    def profile(new: tuple[int, int, int], cached: tuple[int, int, int], rows: int) -> Profile:
        past = {
            f"past_{kind}_{layer}": ShapeRange(*((count, *state) for count in cached))
            for kind in ("key", "value")
            for layer in range(language.num_hidden_layers)
        }
        most_visual = max(visual, config.tokens_per_frame)
        return {
            "ids": ShapeRange(*((count,) for count in new)),
            "visual": ShapeRange((1, width), (visual, width), (most_visual, width)),
            "mixed": ShapeRange((1, width), (1, width), (MAX_COORDINATE_INPUTS, width)),
            "rows": ShapeRange((1,), (1,), (rows,)),
            **past,
        }

    return [
        profile((1, prompt, prompt), (0, 0, longest), 1),
        profile((1, 1, MAX_DRAFT_TOKENS), (0, prompt, longest), MAX_DRAFT_TOKENS),
    ]
