"""The vision tower: SigLIP, cut after the layers that LLaVA-ST keeps (paper, section 3.1)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

from llava_st_ros.config import ModelConfig


class VisionTower(nn.Module):
    """Frames in, patch features out; the published model drops the last layer and all after it.

    The parameters are called ``vision_tower.vision_model.*``, as in the published checkpoints.
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
        self.vision_tower = nn.ModuleDict(
            {
                "vision_model": nn.ModuleDict(
                    {
                        "embeddings": SiglipVisionEmbeddings(siglip),
                        "encoder": SiglipEncoder(siglip),
                    }
                )
            }
        )
        # torch's default of std 1 would drown the patches of a tower trained from nothing.
        nn.init.normal_(self.embeddings.position_embedding.weight, std=siglip.hidden_size**-0.5)

    @property
    def embeddings(self) -> nn.Module:
        return self.vision_tower["vision_model"]["embeddings"]

    @property
    def encoder(self) -> nn.Module:
        return self.vision_tower["vision_model"]["encoder"]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, S, S] -> features [B, N, Dv] before the final layer norm."""
        return self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state

    def materialize_buffers(self, device: torch.device | str) -> None:
        """Fill the buffers that no checkpoint holds, after a construction on the meta device."""
        positions = self.embeddings.position_embedding.num_embeddings
        self.embeddings.position_ids = torch.arange(positions, device=device).expand(1, -1)
