"""The LLaVA-ST network: vision tower, projector, LAPE, Spatial-Temporal Packer and decoder.

Shapes: B images, F frames, N = grid^2 patches, Dv the tower's width, D the decoder's, L positions.
All methods are batched and differentiable. Parameters have the names of the published checkpoints.
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
from llava_st_ros.text.prompt_layout import make_layout


class VideoTokens(NamedTuple):
    """A packed window: fast [..., F * n_fast, D] and slow [..., F/t * n_slow, D] tokens."""

    fast: torch.Tensor
    slow: torch.Tensor


class LlavaST(nn.Module):
    """The network, built with random weights in the sizes of ``config``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.hidden_size
        # In the published checkpoints the other parts are submodules of the decoder.
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
        """The coordinate table of an axis; ``side`` is "input" or "output"."""
        return getattr(self.model, f"{axis.table}_{side}_embeddings")

    def materialize_buffers(self, device: torch.device | str = "cpu") -> None:
        """Fill the buffers that are not in checkpoints, after construction on the meta device."""
        materialize_buffers(self.model, device)
        self.model.vision_tower.materialize_buffers(device)

    # --- vision ---

    def vision_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the vision tower: normalized pixels [B, 3, S, S] -> [B, N, Dv]."""
        return self.model.vision_tower(pixels)

    def project(self, vision_features: torch.Tensor) -> torch.Tensor:
        """Run the projector: [..., N, Dv] -> [..., N, D]."""
        return self.model.mm_projector(vision_features)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run vision tower and projector, without LAPE: pixels [B, 3, S, S] -> [B, N, D]."""
        return self.project(self.vision_features(pixels))

    def positional_embedding(self, time_indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """LAPE of frames at these rows of the temporal table [F] -> [F, N, D]."""
        temporal, height, width = (
            (self.table(axis, "input").weight + self.table(axis, "output").weight) / 2
            for axis in Axis
        )
        rows = torch.as_tensor(time_indices, dtype=torch.long, device=temporal.device)
        return positional_embedding(temporal[rows], height, width, self.config.grid)

    def pack(
        self, features: torch.Tensor, time_indices: torch.Tensor | Sequence[int]
    ) -> VideoTokens:
        """Add LAPE to a video's features and pack them.

        Args:
            features: [..., F, N, D].
            time_indices: Each frame's row of the temporal table [F].

        Raises:
            ConfigError: F is not a multiple of the temporal region.
            BackendError: The number of time indices or of features per frame does not fit.
        """
        frames, tokens = features.shape[-3:-1]
        self.config.check_frames(frames)
        if len(time_indices) != frames or tokens != self.config.tokens_per_frame:
            raise BackendError(
                f"{frames} frames of {tokens} features with {len(time_indices)} time indices; "
                f"expected one index and {self.config.tokens_per_frame} features per frame",
                "pass the frames' features as encode_images returns them",
            )
        placed = features + self.positional_embedding(time_indices)
        grid = self.config.grid
        fast, slow = self.model.vision_resampler(placed.unflatten(-2, (grid, grid)))
        return VideoTokens(fast.flatten(-4, -2), slow.flatten(-4, -2))

    def image_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Add LAPE with T[0] to images' features [..., N, D] -> their visual tokens."""
        return features + self.positional_embedding([0])[0]

    # --- language ---

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed ids [...] of the vocabulary [text | time | height | width] -> [..., D]."""
        text_rows = self.config.language.vocab_size
        coordinates = torch.cat([self.table(axis, "input").weight for axis in Axis])
        # Clamped only towards the other range, so that an id outside the vocabulary still raises.
        text = self.model.embed_tokens(token_ids.clamp(max=text_rows - 1))
        coordinate = nn.functional.embedding((token_ids - text_rows).clamp(min=0), coordinates)
        return torch.where((token_ids < text_rows).unsqueeze(-1), text, coordinate)

    def embed_prompt(
        self,
        token_ids: torch.Tensor | np.ndarray,
        visual: VideoTokens | torch.Tensor | None = None,
        inputs: Mapping[Axis, Sequence[float]] | None = None,
    ) -> torch.Tensor:
        """Embed a prompt [L] with its visual tokens and coordinate inputs -> [L, D].

        Args:
            token_ids: The prompt's ids, i64 [L].
            visual: The result of ``pack`` for a video or of ``image_tokens`` for an image; None for
                a prompt without a visual block.
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
        layout = make_layout(ids.cpu().numpy(), self.config, counts, inputs or {})
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
        for axis, values in (inputs or {}).items():
            positions = torch.as_tensor(layout.inputs[axis], device=device)
            if len(positions):
                interpolated = self.table(axis, "input").interpolate(values)
                embeddings = embeddings.index_copy(0, positions, interpolated)
        return embeddings

    def embed_batch(
        self, prompts: Sequence[Prompt], visuals: Sequence[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed prompts with their visual tokens as one batch.

        Returns:
            Embeddings [B, L, D], padded at the right with zeros, and a mask bool [B, L] that is
            False on padding.
        """
        rows = [
            self.embed_prompt(prompt.token_ids, visual, prompt.inputs)
            for prompt, visual in zip(prompts, visuals)
        ]
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=embeddings.device)
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)
        return embeddings, positions < lengths.unsqueeze(1)

    def decode(
        self,
        embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Run the decoder: embeddings [B, L, D] -> hidden states [B, L, D] after the final norm.

        Args:
            embeddings: [B, L, D].
            attention_mask: bool [B, L], False on padding.
            cache: A transformers cache, to which the L positions are appended.
        """
        return self.model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., D] -> logits [..., vocabulary], [text | time | height | width]."""
        coordinates = (self.table(axis, "output").weight for axis in Axis)
        parts = [nn.functional.linear(hidden, weight) for weight in coordinates]
        return torch.cat([self.lm_head(hidden), *parts], dim=-1)
