"""The vision tower: SigLIP without the layers that LLaVA-ST drops (paper, section 3.1)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

from llava_st_ros.config import ModelConfig


class VisionTower(nn.Module):
    """Encodes frames into patch features, without SigLIP's last layer, final norm and head.

    The parameters are named ``vision_tower.vision_model.*``, as in the published checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        siglip = SiglipVisionConfig(
            hidden_size=config.vision.hidden_size,
            intermediate_size=config.vision.intermediate_size,
            num_hidden_layers=config.vision.num_layers,
            num_attention_heads=config.vision.num_attention_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=config.vision.layer_norm_eps,
            attention_dropout=0.0,
        )
        siglip._attn_implementation = "sdpa"
        self.vision_tower = _SiglipTower(siglip)
        # torch's default std of 1 would dominate the patches of a tower trained from scratch.
        nn.init.normal_(self.embeddings.position_embedding.weight, std=siglip.hidden_size**-0.5)

    @property
    def embeddings(self) -> SiglipVisionEmbeddings:
        """The patch and position embeddings."""
        return self.vision_tower.vision_model.embeddings

    @property
    def encoder(self) -> SiglipEncoder:
        """The transformer layers."""
        return self.vision_tower.vision_model.encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode normalized pixels [B, 3, S, S] -> features [B, N, Dv], before the final norm."""
        return self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state

    def materialize_buffers(self, device: torch.device | str) -> None:
        """Fill the buffers that are not in checkpoints, after construction on the meta device."""
        positions = self.embeddings.position_embedding.num_embeddings
        position_ids = torch.arange(positions, device=device).expand(1, -1)
        self.embeddings.register_buffer("position_ids", position_ids, persistent=False)


class _SiglipTower(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.vision_model = _SiglipModel(config)


class _SiglipModel(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        # transformers annotates SiglipConfig, but accepts the vision model's config.
        self.encoder = SiglipEncoder(config)  # type: ignore[arg-type]
