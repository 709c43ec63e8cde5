"""A fine-tuning step: which parameters are trained, and the loss of a batch of records."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import cast

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llava_st_ros.backends.preprocessing import normalize
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.records import Modality
from llava_st_ros.training.finetune.lora import LoraSettings, add_adapters
from llava_st_ros.training.finetune.settings import TRAINABLE_PARTS
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_mean
from llava_st_ros.training.objective import (
    propagate_to_neighbors,
    soft_cross_entropy,
    two_hot_targets,
)
from llava_st_ros.training.st_align.batches import RecordBatch
from llava_st_ros.training.st_align.frames import SampledFrames


class FinetuneStep(nn.Module):
    """The model with the parameters of a stage trainable and all others frozen.

    Trained parameters are converted to float32, and so are the embeddings and the coordinate
    tables, whose rows are combined with each other. All others keep their dtype.

    Args:
        model: The model; it is modified.
        parts: What to train, names of TRAINABLE_PARTS.
        lora: LoRA's settings, used if ``parts`` has "adapters".
        chunk: Frames per pass through the vision tower.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
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
            # transformers 5 deprecates this name in its latest releases; the early ones have no
            # other.
            model.model.gradient_checkpointing_enable({"use_reentrant": False})
        trained_patterns = [TRAINABLE_PARTS[part] for part in parts]
        float_patterns = [
            *trained_patterns,
            TRAINABLE_PARTS["embeddings"],
            TRAINABLE_PARTS["tables"],
        ]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(_matches(name, trained_patterns))
            if _matches(name, float_patterns):
                parameter.data = parameter.data.float()
        self.train()

    @property
    def model(self) -> LlavaST:
        """The model without peft's wrapper."""
        adapted = self.adapted
        if isinstance(adapted, PeftModel):
            return cast(LlavaST, adapted.get_base_model())
        return adapted

    @property
    def vision_tower(self) -> nn.Module:
        """The model's vision tower, which is always frozen."""
        return self.model.model.get_submodule("vision_tower")

    def train(self, mode: bool = True) -> FinetuneStep:
        """Set the training mode; the frozen vision tower stays in evaluation mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    def merge_adapters(self) -> None:
        """Merge the LoRA adapters, if any, into the model's weights, in place."""
        if isinstance(self.adapted, PeftModel):
            lora = self.adapted.base_model
            assert isinstance(lora, LoraModel)
            lora.merge_and_unload(safe_merge=True)

    def forward(self, batch: RecordBatch) -> LossTerms:
        """The mean loss over the records and, for the log, over each kind of answer token."""
        model = self.model
        prompts = [conversation.prompt for conversation in batch.conversations]
        visuals = [
            self.visual_tokens(frames, prompt.modality)
            for frames, prompt in zip(batch.frames, prompts)
        ]
        embeddings, mask = model.embed_batch(prompts, visuals)
        hidden = model.decode(embeddings, mask)
        return self._terms(batch, hidden)

    def visual_tokens(self, frames: SampledFrames, modality: Modality) -> VideoTokens | Tensor:
        """The visual tokens of one record: a window's for a video, [N, D] for an image."""
        model = self.model
        projected = model.project(self._features(frames.images))
        if modality is Modality.IMAGE:
            return model.image_tokens(projected)[0]
        indices = torch.from_numpy(frames.indices).to(projected.device)

        def pack(features: Tensor) -> VideoTokens:
            return model.pack(features[indices], range(len(indices)))

        if self._recompute and self.training:
            tokens: VideoTokens = checkpoint(pack, projected, use_reentrant=False)
            return tokens
        return pack(projected)

    def _features(self, images: np.ndarray) -> Tensor:
        """The vision tower's output [n, N, Dv] for uint8 [n, S, S, 3], ``chunk`` at a time."""
        weight = next(self.vision_tower.parameters())
        parts = []
        with torch.no_grad():
            for first in range(0, len(images), self._chunk):
                part = np.stack([normalize(image) for image in images[first : first + self._chunk]])
                pixels = torch.from_numpy(part).to(weight.device, weight.dtype)
                parts.append(self.model.vision_features(pixels))
        return torch.cat(parts)

    def _terms(self, batch: RecordBatch, hidden: Tensor) -> LossTerms:
        """The losses of the answers' tokens.

        As in the published training, each record's loss is the mean over its answers' tokens, so
        that a long tube does not outweigh a box.
        """
        model, config = self.model, self.model.config
        answers = [np.flatnonzero(c.labels_mask) for c in batch.conversations]
        records = [np.full(len(answer), number) for number, answer in enumerate(answers)]
        tokens = [c.prompt.token_ids[a] for c, a in zip(batch.conversations, answers)]
        values = [c.coordinate_values[a] for c, a in zip(batch.conversations, answers)]
        record, position, token, value = (
            torch.from_numpy(np.concatenate(part)).to(hidden.device)
            for part in (records, answers, tokens, values)
        )
        # The hidden state at a position predicts the token after it.
        logits = model.logits(hidden[record, position - 1])
        losses = soft_cross_entropy(logits, two_hot_targets(token, value, config))
        count = len(batch.conversations)
        share = 1.0 / torch.bincount(record, minlength=count).float()
        answer_loss = LossTerm(
            (losses * share[record]).sum(), torch.tensor(float(count), device=record.device)
        )
        coordinates = config.coordinates
        return {
            "answer_loss": answer_loss,
            "text": logged_mean(losses[coordinates.is_text(token)]),
            "time": logged_mean(losses[coordinates.is_time(token)]),
            "space": logged_mean(losses[coordinates.is_space(token)]),
        }


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
