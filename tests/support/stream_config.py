"""The geometry of llava-st-tiny with a minimal network, for tests of streaming."""

from __future__ import annotations

from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig, VisionConfig
from llava_st_ros.text.tokenizer import Tokenizer


def stream_config(tokenizer: Tokenizer) -> ModelConfig:
    """144 px, a grid of 8 with regions of 2, windows of 20 frames, paper mode."""
    return ModelConfig(
        image_size=144,
        patch_size=18,
        vision=VisionConfig(32, 64, 1, 2),
        language=LanguageConfig(32, 64, 1, 2, 1, tokenizer.vocab_size, rope_theta=10_000.0),
        packer=PackerConfig(embed_dim=32, num_heads=2, spatial_region=2),
        special_tokens=tokenizer.special,
        num_temporal_tokens=20,
        num_spatial_tokens=100,
        num_frames=20,
        compat="paper",
        end_token_ids=(tokenizer.chat_end,),
    )
