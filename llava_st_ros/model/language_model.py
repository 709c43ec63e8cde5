"""The decoder: Qwen2 without its head, fed with embeddings."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from llava_st_ros.config import LanguageConfig
from llava_st_ros.model.packer.reference import SpatialTemporalPacker
from llava_st_ros.model.vision import VisionTower


class Decoder(Qwen2Model):
    """Qwen2 with the other parts of LLaVA-ST as submodules, as in the published checkpoints."""

    vision_tower: VisionTower
    mm_projector: nn.Sequential
    vision_resampler: SpatialTemporalPacker


def build_decoder(config: LanguageConfig) -> Decoder:
    """Build the decoder with random weights and torch's scaled_dot_product_attention."""
    qwen2 = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,  # type: ignore[call-arg]  # transformers 5 still accepts it
        use_sliding_window=False,
        tie_word_embeddings=False,
        attention_dropout=0.0,
    )
    qwen2._attn_implementation = "sdpa"
    return Decoder(qwen2)


def materialize_buffers(decoder: Decoder, device: torch.device | str) -> None:
    """Fill the buffers that are not in checkpoints, after construction on the meta device."""
    decoder.rotary_emb = Qwen2RotaryEmbedding(config=decoder.config).to(device)
