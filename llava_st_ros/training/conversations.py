"""Training batches: many questions about one picture or clip, answered side by side.

A conversation's questions share the visual prefix, which is most of its length. Each question and
its answer form a *turn* that sees the prefix and itself but no other turn, at the positions it
would have alone: one forward pass trains every turn exactly as if it were a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llava_st_ros.config import ModelConfig
from llava_st_ros.language.answer_format import REFUSABLE, format_answer
from llava_st_ros.language.prompt import PromptBuilder
from llava_st_ros.records import Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.training.evidence import evidence, leading_times, left_edges

MISFITS = 3


@dataclass(frozen=True)
class Turn:
    """One question and its answer, without the visual prefix. n tokens."""

    ids: np.ndarray  # int64 [n]
    answer: np.ndarray  # bool [n], True on the answer and its end token
    values: np.ndarray  # float32 [n], exact coordinates of the answer, NaN elsewhere
    decisive: np.ndarray  # bool [n], True on the answer's tokens that decide what follows
    choices: np.ndarray  # int64 [k], places of the tokens that have evidence
    evidence: np.ndarray  # bool [k, V], the visual tokens that show them to be right
    temporal_inputs: tuple[float, ...]
    height_inputs: tuple[float, ...]
    width_inputs: tuple[float, ...]


@dataclass(frozen=True)
class Conversation:
    """Turns about one visual input. ``prefix`` int64 [p] ends with the visual block."""

    prefix: np.ndarray
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Batch:
    """B conversations padded to L tokens.

    ``ids`` int64 [B, L]; ``positions`` int64 [B, L]; ``visible`` bool [B, 1, L, L] (query, key);
    ``answer`` bool [B, L] marks the tokens to be predicted, ``values`` f32 [B, L] their exact
    coordinates, ``decisive`` bool [B, L] those that decide what follows. ``choices`` int64 [n, 2]
    are the (row, position) of states that write a token with ``evidence`` bool [n, V]. The inputs
    are flat, in reading order over the whole batch.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    answer: Tensor
    values: Tensor
    decisive: Tensor
    choices: Tensor
    evidence: Tensor
    temporal_inputs: Tensor
    height_inputs: Tensor
    width_inputs: Tensor


class ConversationEncoder:
    """Samples of the simulator -> conversations in token ids."""

    def __init__(self, builder: PromptBuilder, config: ModelConfig, max_tokens: int) -> None:
        self.builder, self.config, self.max_tokens = builder, config, max_tokens
        special = config.special_tokens
        self._block_ends = (special.im_end, special.slow_vid_end)

    def encode(self, samples: Sequence[Sample], rng: np.random.Generator) -> Conversation:
        """Samples in their order, at least one, as they fit into ``max_tokens``; those that do not
        are left out, and after ``MISFITS`` of them it is taken to be full."""
        prefix: np.ndarray | None = None
        turns: list[Turn] = []
        length = misfits = 0
        for sample in samples:
            answer = format_answer(sample.answer, self.config)
            whole = self.builder.conversation([(sample.asked(rng), answer)])
            ids, answered = np.asarray(whole.prompt.token_ids), np.asarray(whole.labels_mask)
            cut = 1 + int(np.flatnonzero(np.isin(ids, self._block_ends))[-1])
            if prefix is None:
                prefix, length = ids[:cut], cut
            if turns and length + len(ids) - cut > self.max_tokens:
                misfits += 1
                if misfits == MISFITS:
                    break
                continue
            length += len(ids) - cut
            decisive = decisive_tokens(ids, answered, sample.task, self.config)
            choices, shown = evidence(ids, answered, sample, self.config)
            turns.append(
                Turn(
                    ids[cut:],
                    answered[cut:],
                    np.asarray(whole.coordinate_values)[cut:],
                    decisive[cut:],
                    choices - cut,
                    shown,
                    whole.prompt.temporal_inputs,
                    whole.prompt.height_inputs,
                    whole.prompt.width_inputs,
                )
            )
        assert prefix is not None
        return Conversation(prefix, tuple(turns))


def decisive_tokens(
    ids: np.ndarray, answer: np.ndarray, task: Task, config: ModelConfig
) -> np.ndarray:
    """Which tokens choose the object or the time, or say that there is none: bool [n] of ids int64
    [n], answer bool [n].

    The first word of an answer says whether anything matches. The left edge of a box says which
    object is meant; the other edges follow from it, and so do the later boxes of a tube. Times
    decide before a tube; inside it they count on.
    """
    left = left_edges(ids, answer, config)
    if not task.on_image:
        left &= np.cumsum(left) == 1
    first = np.zeros_like(left)
    if task in REFUSABLE:
        first[np.flatnonzero(answer)[:1]] = True
    return first | left | leading_times(ids, answer, config)


def collate(conversations: Sequence[Conversation], length: int = 0) -> Batch:
    """Pad to ``length`` tokens, or to the longest where that is longer; see Batch."""
    lengths = [len(c.prefix) + sum(len(t.ids) for t in c.turns) for c in conversations]
    shape = (len(conversations), max(length, *lengths))
    ids = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    turn_of = np.full(shape, -1, dtype=np.int64)
    answer = np.zeros(shape, dtype=bool)
    decisive = np.zeros(shape, dtype=bool)
    values = np.full(shape, np.nan, dtype=np.float32)
    choices = []
    for row, conversation in enumerate(conversations):
        end = len(conversation.prefix)
        ids[row, :end] = conversation.prefix
        positions[row, :end] = np.arange(end)
        turn_of[row, :end] = 0
        for number, turn in enumerate(conversation.turns, start=1):
            place = slice(end, end + len(turn.ids))
            ids[row, place], answer[row, place] = turn.ids, turn.answer
            values[row, place], decisive[row, place] = turn.values, turn.decisive
            choices += [(row, end + token - 1) for token in turn.choices]
            positions[row, place] = len(conversation.prefix) + np.arange(len(turn.ids))
            turn_of[row, place] = number
            end = place.stop
    same = turn_of[:, :, None] == turn_of[:, None, :]
    prefix_key = (turn_of == 0)[:, None, :] & (turn_of >= 0)[:, :, None]
    causal = np.tril(np.ones((shape[1], shape[1]), dtype=bool))
    visible = (same | prefix_key) & causal  # padding sees padding: no row is empty
    turns = [turn for conversation in conversations for turn in conversation.turns]

    def flat(name: str) -> Tensor:
        return torch.tensor([v for t in turns for v in getattr(t, name)], dtype=torch.float32)

    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(visible)[:, None],
        torch.from_numpy(answer),
        torch.from_numpy(values),
        torch.from_numpy(decisive),
        torch.tensor(choices, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.concatenate([turn.evidence for turn in turns])),
        flat("temporal_inputs"),
        flat("height_inputs"),
        flat("width_inputs"),
    )
