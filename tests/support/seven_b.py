"""The published 7B model's structure in a test size: same grid, heads and regions, but narrower."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.published_layout import published_geometry
from llava_st_ros.config import ModelConfig, PackerConfig, SpecialTokens

WORDS = 400  # size of the text vocabulary, before the structural tokens


def narrow_7b(**changes: object) -> ModelConfig:
    """A narrow 7B: 27 x 27 patches of 14 px (6 px unused), 7 query heads per key head, 2 layers.

    ``changes`` replace fields of ModelConfig.
    """
    published = published_geometry()
    config = replace(
        published,
        vision=replace(
            published.vision, hidden_size=16 * 12, intermediate_size=16 * 45, num_layers=2
        ),
        language=replace(
            published.language,
            hidden_size=28 * 16,
            intermediate_size=28 * 85,
            num_hidden_layers=2,
            vocab_size=WORDS + 14,
            max_position_embeddings=4096,
        ),
        packer=PackerConfig(embed_dim=128),
        special_tokens=SpecialTokens(*range(WORDS, WORDS + 14)),
        num_frames=10,
        end_token_ids=(WORDS - 1,),
    )
    return replace(config, **changes)
