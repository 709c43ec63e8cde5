"""A step of fine-tuning on ST-Align's records: what is trained, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llava_st_ros.backends.preprocessing import normalize
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality
from llava_st_ros.training.finetune.lora import LoraSettings, add_adapters
from llava_st_ros.training.finetune.settings import PARTS
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_mean
from llava_st_ros.training.objective import (
    propagate_to_neighbors,
    soft_cross_entropy,
    two_hot_targets,
)
from llava_st_ros.training.st_align.batches import RecordBatch
from llava_st_ros.training.st_align.media import Media


class FinetuneStep(nn.Module):
    """The model with what a stage trains thawed, and nothing else.

    ``parts`` are names of PARTS. What is trained becomes float32, and so do the embeddings and the
    tables, for their rows are mixed with each other; the rest keeps its dtype.
    """

    def __init__(
        self,
        model: LlavaST,
        parts: Collection[str],
        lora: LoraSettings,
        *,
        chunk: int = 25,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        model.requires_grad_(False)
        self.adapted: PeftModel | LlavaST = (
            add_adapters(model, lora) if "adapters" in parts else model
        )
        propagate_to_neighbors(model)
        self._chunk, self._recompute = chunk, gradient_checkpointing
        if gradient_checkpointing:
            # Deprecated in the newest, but the only name that all of transformers 5 know.
            model.model.gradient_checkpointing_enable({"use_reentrant": False})
        thawed = [PARTS[part] for part in parts]
        for name, parameter in self.named_parameters():
            trained = any(fnmatchcase(name, pattern) for pattern in thawed)
            parameter.requires_grad_(trained)
            mixed = any(fnmatchcase(name, PARTS[part]) for part in ("embeddings", "tables"))
            if trained or mixed:
                parameter.data = parameter.data.float()
        self.train()

    @property
    def model(self) -> LlavaST:
        adapted = self.adapted
        return adapted.get_base_model() if isinstance(adapted, PeftModel) else adapted

    def train(self, mode: bool = True) -> FinetuneStep:
        """The tower is frozen: it never trains."""
        super().train(mode)
        self.model.model.vision_tower.eval()
        return self

    def forward(self, batch: RecordBatch) -> LossTerms:
        """The records' mean losses and, to log, those of the kinds of answer tokens."""
        model = self.model
        prompts = [conversation.prompt for conversation in batch.conversations]
        visuals = [
            self._visual_tokens(media, prompt.modality)
            for media, prompt in zip(batch.media, prompts)
        ]
        embeddings, mask = model.embed_batch(prompts, visuals)
        hidden = model.decode(embeddings, mask)
        return self._terms(batch, hidden)

    def _visual_tokens(self, media: Media, modality: Modality) -> Any:
        """What ``pack`` or ``image_tokens`` returns for one record."""
        model = self.model
        projected = model.project(self._features(media.images))
        if modality is Modality.IMAGE:
            return model.image_tokens(projected)[0]
        places = torch.from_numpy(media.places).to(projected.device)

        def pack(features: Tensor) -> Any:
            return model.pack(features[places], range(len(places)))

        if self._recompute and self.training:
            return checkpoint(pack, projected, use_reentrant=False)
        return pack(projected)

    def _features(self, images: np.ndarray) -> Tensor:
        """uint8 [n, S, S, 3] -> the frozen tower's output [n, N, Dv], a few frames at a time."""
        weight = self.model.model.vision_tower.embeddings.patch_embedding.weight
        parts = []
        with torch.no_grad():
            for first in range(0, len(images), self._chunk):
                few = np.stack([normalize(image) for image in images[first : first + self._chunk]])
                pixels = torch.from_numpy(few).to(weight.device, weight.dtype)
                parts.append(self.model.vision_features(pixels))
        return torch.cat(parts)

    def _terms(self, batch: RecordBatch, hidden: Tensor) -> LossTerms:
        """A record counts as the mean over its answers' tokens, as published: a long tube no more
        than a box."""
        model, config = self.model, self.model.config
        rows, places, ids, values = [], [], [], []
        for row, conversation in enumerate(batch.conversations):
            answer = np.flatnonzero(conversation.labels_mask)
            rows.append(np.full(len(answer), row))
            places.append(answer)
            ids.append(conversation.prompt.token_ids[answer])
            values.append(conversation.coordinate_values[answer])
        row, place, token, value = (
            torch.from_numpy(np.concatenate(part)).to(hidden.device)
            for part in (rows, places, ids, values)
        )
        # The state at a position predicts the token after it.
        logits = model.logits(hidden[row, place - 1])
        losses = soft_cross_entropy(logits, two_hot_targets(token, value, config))
        count = len(batch.conversations)
        share = 1.0 / torch.bincount(row, minlength=count).float()
        answers = LossTerm(
            (losses * share[row]).sum(), torch.tensor(float(count), device=row.device)
        )
        coordinates = config.coordinates
        return {
            "answer": answers,
            "text": logged_mean(losses[coordinates.is_text(token)]),
            "time": logged_mean(losses[coordinates.is_time(token)]),
            "space": logged_mean(losses[coordinates.is_space(token)]),
        }
