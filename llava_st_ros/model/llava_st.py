"""LLaVA-ST whole: vision tower, projector, LAPE, Spatial-Temporal Packer and decoder.

Shapes: B images, F frames, N = grid^2 patches, Dv the tower's width, D the decoder's, L positions.
Every piece is batched and differentiable; the parameters carry the published names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError
from llava_st_ros.model.language_model import build_decoder, materialize_buffers
from llava_st_ros.model.lape import CoordinateTable, positional_embedding
from llava_st_ros.model.packer.reference import SpatialTemporalPacker
from llava_st_ros.model.vision import VisionTower
from llava_st_ros.records import Prompt
from llava_st_ros.text.prompt_layout import lay_out


class VideoTokens(NamedTuple):
    """A window after the packers: fast [..., F * n_fast, D] and slow [..., F/t * n_slow, D]."""

    fast: torch.Tensor
    slow: torch.Tensor


class LlavaST(nn.Module):
    """The network; ``config`` gives every size. Built with random weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.hidden_size
        # The published checkpoints keep the other parts inside the decoder's ``model``.
        self.model = build_decoder(config.language)
        self.model.vision_tower = VisionTower(config)
        self.model.mm_projector = nn.Sequential(
            nn.Linear(config.vision.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.model.vision_resampler = SpatialTemporalPacker(width, config.packer)
        for axis in Axis:
            for side in ("input", "output"):
                table = CoordinateTable(config.coordinates.rows(axis), width)
                self.model.add_module(f"{axis.table}_{side}_embeddings", table)
        self.lm_head = nn.Linear(width, config.language.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def table(self, axis: Axis, side: str) -> CoordinateTable:
        """The table of an axis; ``side`` is "input" or "output"."""
        return getattr(self.model, f"{axis.table}_{side}_embeddings")

    def materialize_buffers(self, device: torch.device | str = "cpu") -> None:
        """Fill the buffers that no checkpoint holds, after a construction on the meta device."""
        materialize_buffers(self.model, device)
        self.model.vision_tower.materialize_buffers(device)

    # --- vision ---

    def vision_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, S, S] -> [B, N, Dv]."""
        return self.model.vision_tower(pixels)

    def project(self, vision_features: torch.Tensor) -> torch.Tensor:
        """[..., N, Dv] -> [..., N, D]."""
        return self.model.mm_projector(vision_features)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, S, S] -> [B, N, D]: vision tower and projector, no LAPE."""
        return self.project(self.vision_features(pixels))

    def positional_embedding(self, time_indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """LAPE's addition for frames at these rows of the temporal table [F] -> [F, N, D]."""
        temporal, height, width = (
            (self.table(axis, "input").weight + self.table(axis, "output").weight) / 2
            for axis in Axis
        )
        rows = torch.as_tensor(time_indices, dtype=torch.long, device=temporal.device)
        return positional_embedding(temporal[rows], height, width, self.config.grid)

    def pack(
        self, features: torch.Tensor, time_indices: torch.Tensor | Sequence[int]
    ) -> VideoTokens:
        """Features [..., F, N, D] and their rows of the temporal table [F] -> a video's tokens.

        Raises ConfigError unless F fills whole temporal regions, BackendError where the number of
        indices or the grid does not fit.
        """
        frames, tokens = features.shape[-3:-1]
        self.config.check_frames(frames)
        if len(time_indices) != frames or tokens != self.config.tokens_per_frame:
            raise BackendError(
                f"{frames} frames of {tokens} features with {len(time_indices)} time indices"
                f"; expected an index a frame and {self.config.tokens_per_frame} features a frame",
                "pass the frames' features as encode_images returns them",
            )
        placed = features + self.positional_embedding(time_indices)
        grid = self.config.grid
        fast, slow = self.model.vision_resampler(placed.unflatten(-2, (grid, grid)))
        return VideoTokens(fast.flatten(-4, -2), slow.flatten(-4, -2))

    def image_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Features of images [..., N, D] -> their visual tokens [..., N, D]: LAPE with T[0]."""
        return features + self.positional_embedding([0])[0]

    # --- language ---

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Ids [...] of the vocabulary [text | time | height | width] -> embeddings [..., D]."""
        text_rows = self.config.language.vocab_size
        coordinates = torch.cat([self.table(axis, "input").weight for axis in Axis])
        # Clamped on the side of the other range only: an id outside the vocabulary still raises.
        text = self.model.embed_tokens(token_ids.clamp(max=text_rows - 1))
        coordinate = nn.functional.embedding((token_ids - text_rows).clamp(min=0), coordinates)
        return torch.where((token_ids < text_rows).unsqueeze(-1), text, coordinate)

    def embed_prompt(
        self,
        token_ids: torch.Tensor | np.ndarray,
        visual: VideoTokens | torch.Tensor | None = None,
        inputs: Mapping[Axis, Sequence[float]] | None = None,
    ) -> torch.Tensor:
        """A prompt [L] -> embeddings [L, D], visual tokens and coordinate inputs written in.

        Args:
            token_ids: The prompt's ids, i64 [L].
            visual: What ``pack`` returned for a video or ``image_tokens`` for an image; None where
                the prompt has no visual block.
            inputs: The coordinate values of each axis.

        Raises:
            BackendError: A block's length or the number of values does not fit the ids.
        """
        device = self.lm_head.weight.device
        ids = torch.as_tensor(token_ids, dtype=torch.long)
        if visual is None:
            parts: tuple[torch.Tensor, ...] = ()
        else:
            parts = tuple(visual) if isinstance(visual, VideoTokens) else (visual,)
        counts = [len(part) for part in parts]
        layout = lay_out(ids.cpu().numpy(), self.config, counts, inputs or {})
        embeddings = self.embed_tokens(ids.to(device))
        rows = torch.cat(parts).to(embeddings) if parts else embeddings
        for position, row, count in layout.blocks:
            embeddings = torch.cat(
                (
                    embeddings[:position],
                    rows[row : row + count],
                    embeddings[position + count :],
                )
            )
        for axis, given in (inputs or {}).items():
            places = torch.as_tensor(layout.inputs[axis], device=device)
            if len(places):
                mixed = self.table(axis, "input").mix(given)
                embeddings = embeddings.index_copy(0, places, mixed)
        return embeddings

    def embed_batch(
        self, prompts: Sequence[Prompt], visuals: Sequence[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts and the visual tokens of each -> embeddings [B, L, D], padded at the right with
        zeros, and the mask bool [B, L] of what is not padding."""
        rows = [
            self.embed_prompt(prompt.token_ids, visual, prompt.inputs)
            for prompt, visual in zip(prompts, visuals)
        ]
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=embeddings.device)
        places = torch.arange(embeddings.shape[1], device=embeddings.device)
        return embeddings, places < lengths.unsqueeze(1)

    def decode(
        self,
        embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Embeddings [B, L, D] -> hidden states [B, L, D] after the final norm.

        ``attention_mask`` bool [B, L] is False on padding; ``cache`` is a transformers cache,
        which gains the L positions.
        """
        return self.model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., D] -> logits [..., vocabulary]: [text | time | height | width]."""
        coordinates = (self.table(axis, "output").weight for axis in Axis)
        parts = [nn.functional.linear(hidden, weight) for weight in coordinates]
        return torch.cat([self.lm_head(hidden), *parts], dim=-1)
