"""A small model in paper mode, batches for it, and questions about a video."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.tiny.conversations import (
    CollatedConversations,
    Conversation,
    ConversationEncoder,
    Lanes,
)
from llava_st_ros.training.tiny.stages import answer_terms, decode
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer

ROOM = Lanes(2, 440)  # two of video_samples fit in the first lane, one in the second


class Tiny:
    """A small model in paper mode, and batches for it."""

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer()
        self.config = dataclasses.replace(tiny_config(self.tokenizer), compat="paper")
        self.builder = PromptBuilder(self.tokenizer, self.config)
        frames, tokens = self.config.num_frames, self.config.tokens_per_frame
        self.features = torch.randn(1, frames, tokens, self.config.vision.hidden_size)

    def model(self) -> LlavaST:
        return tiny_model(self.config)

    def encode(self, samples: list[Sample], lanes: Lanes = ROOM) -> Conversation:
        encoder = ConversationEncoder(self.builder, self.config, lanes)
        return encoder.encode(samples, np.random.default_rng(0))

    def loss(
        self,
        model: LlavaST,
        batch: CollatedConversations,
        decision_weight: float = 1.0,
        match_weight: float | None = None,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        states = decode(model, batch, self.features, Modality.VIDEO).last_hidden_state
        terms = answer_terms(model, batch, states, decision_weight, match_weight)
        means = {f"video_{name}": (t.numerator / t.denominator).item() for name, t in terms.items()}
        return terms["answer_loss"].numerator / terms["answer_loss"].denominator, means


def video_samples() -> list[Sample]:
    boxes = tuple((t, Box(0.13, 0.21, 0.52, 0.61 + t / 100)) for t in range(2, 5))
    return [
        Sample(
            Task.STVG,
            "the blue ball",
            None,
            None,
            None,
            Answer(Task.STVG, span=(2, 4), boxes=boxes),
        ),
        Sample(
            Task.ELC,
            "",
            (0.2, 0.2),
            Box(0.13, 0.21, 0.52, 0.63),
            None,
            Answer(Task.ELC, span=(2, 4), caption="the ball rolls", boxes=boxes),
        ),
        Sample(Task.TVG, "the box", None, None, None, Answer(Task.TVG, span=(1, 7))),
    ]
