"""The decoder: Qwen2, fed with embeddings, its vocabulary lengthened by the coordinate rows."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from llava_st_ros.config import LanguageConfig


def build_decoder(config: LanguageConfig) -> Qwen2Model:
    """A Qwen2 decoder without a head; attention is torch's scaled_dot_product_attention."""
    qwen2 = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        use_sliding_window=False,
        tie_word_embeddings=False,
        attention_dropout=0.0,
    )
    qwen2._attn_implementation = "sdpa"
    return Qwen2Model(qwen2)


def materialize_buffers(decoder: Qwen2Model, device: torch.device | str) -> None:
    """Fill the buffers that no checkpoint holds, after a construction on the meta device."""
    decoder.rotary_emb = Qwen2RotaryEmbedding(config=decoder.config).to(device)
