"""Training batches of conversations: many questions about one image or clip in one forward pass.

The questions of a conversation share its visual prefix, which is the most expensive part. Each
question with its answer is a *turn*. It attends to the prefix and to itself but to no other turn,
at the positions it would have alone, so one forward pass trains every turn exactly as if it were a
prompt of its own.

After the prefix, turns are packed into *lanes* of equal length, several turns in each. Attention is
computed lane by lane, so its cost does not grow with the square of the conversation's length (see
lane_attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.records import Modality
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.answer_format import NO_MATCH_TASKS, format_answer
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.prompt_layout import visual_blocks
from llava_st_ros.training.tiny.attention_targets import (
    attention_targets,
    decision_times,
    decisive_edges,
    left_edges,
    visual_token_counts,
)

MAX_MISFITS = 3  # a conversation is considered full when this many turns did not fit


@dataclass(frozen=True)
class Turn:
    """One question and its answer, without the visual prefix: n tokens.

    Attributes:
        ids: Token ids, int64 [n].
        answer_mask: True on the answer and its end token, bool [n].
        values: The exact coordinates of the answer, NaN elsewhere, float32 [n].
        decision_mask: True on the decision tokens, bool [n]; see ``decision_tokens``.
        attention_positions: Positions of the tokens with attention targets, int64 [k].
        attention_targets: Their masks over the V visual tokens, bool [k, V].
        inputs: The coordinate values of the question.
    """

    ids: np.ndarray
    answer_mask: np.ndarray
    values: np.ndarray
    decision_mask: np.ndarray
    attention_positions: np.ndarray
    attention_targets: np.ndarray
    inputs: dict[Axis, tuple[float, ...]]


@dataclass(frozen=True)
class Lanes:
    """The room for turns: ``count`` lanes of ``tokens`` tokens each."""

    count: int
    tokens: int


@dataclass(frozen=True)
class Conversation:
    """Turns about one visual input, packed into lanes.

    Attributes:
        prefix: Token ids up to the end of the visual block, int64 [P].
        lanes: The turns of each lane.
        lane_tokens: The length of a lane.
    """

    prefix: np.ndarray
    lanes: tuple[tuple[Turn, ...], ...]
    lane_tokens: int = 0

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(turn for lane in self.lanes for turn in lane)


@dataclass(frozen=True)
class CollatedConversations:
    """B conversations as tensors: a prefix of P tokens and K lanes of T tokens, L = P + K * T.

    Attributes:
        ids: Token ids, int64 [B, L].
        positions: Position ids, int64 [B, L].
        attention_mask: Which tokens of the prefix and of its lane each token of a lane sees, bool
            [B * K, 1, T, P + T]. The prefix is causal.
        answer_mask: The tokens to predict, bool [B, L].
        values: Their exact coordinates, NaN elsewhere, float32 [B, L].
        decision_mask: The decision tokens, bool [B, L].
        attention_positions: Row and position of the n states that predict a token with attention
            targets, int64 [n, 2].
        attention_targets: Their masks over the V visual tokens, bool [n, V].
        temporal_inputs: Times in questions, flat, in reading order over the batch.
        height_inputs: Heights in questions, likewise.
        width_inputs: Widths in questions, likewise.
    """

    ids: Tensor
    positions: Tensor
    attention_mask: Tensor
    answer_mask: Tensor
    values: Tensor
    decision_mask: Tensor
    attention_positions: Tensor
    attention_targets: Tensor
    temporal_inputs: Tensor
    height_inputs: Tensor
    width_inputs: Tensor

    @property
    def inputs(self) -> dict[Axis, Tensor]:
        """The coordinate values in questions, by axis."""
        return dict(zip(Axis, (self.temporal_inputs, self.height_inputs, self.width_inputs)))


class ConversationEncoder:
    """Encodes samples of the simulator as conversations in token ids."""

    def __init__(self, builder: PromptBuilder, config: ModelConfig, lanes: Lanes) -> None:
        self.builder, self.config, self.lanes = builder, config, lanes

    def encode(self, samples: Sequence[Sample], rng: np.random.Generator) -> Conversation:
        """Pack samples in their order, each into the first lane that has room for it.

        Samples that fit in no lane are dropped; after ``MAX_MISFITS`` of them the rest is too. If
        none fits, the first one gets a lane to itself, which is then longer than ``lanes.tokens``.
        """
        turns: list[list[Turn]] = [[] for _ in range(self.lanes.count)]
        room = [self.lanes.tokens] * self.lanes.count
        misfits: list[Turn] = []
        for sample in samples:
            prefix, turn = self._prefix_and_turn(sample, rng)
            lane = next((i for i, free in enumerate(room) if free >= len(turn.ids)), None)
            if lane is None:
                misfits.append(turn)
                if len(misfits) == MAX_MISFITS:
                    break
            else:
                turns[lane].append(turn)
                room[lane] -= len(turn.ids)
        if not any(turns):
            turns[0].append(misfits[0])
        return Conversation(prefix, tuple(map(tuple, turns)), self.lanes.tokens)

    def _prefix_and_turn(self, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, Turn]:
        config, modality = self.config, sample.task.modality
        answer = format_answer(sample.answer, config.coordinates)
        labeled = self.builder.build_labeled([(sample.question(rng), answer)])
        ids, answer_mask = np.asarray(labeled.prompt.token_ids), np.asarray(labeled.labels_mask)
        last = visual_blocks(ids, config, visual_token_counts(config, modality))[-1]
        cut = last.position + last.length
        positions, targets = attention_targets(ids, answer_mask, sample, config)
        return ids[:cut], Turn(
            ids[cut:],
            answer_mask[cut:],
            np.asarray(labeled.coordinate_values)[cut:],
            decision_tokens(ids, answer_mask, sample, config)[cut:],
            positions - cut,
            targets,
            labeled.prompt.inputs,
        )


def decision_tokens(
    ids: np.ndarray, answer: np.ndarray, sample: Sample, config: ModelConfig
) -> np.ndarray:
    """Mask the tokens that decide on the object, the time, or "no match".

    The first word of an answer decides whether anything matches. The left edge of a box decides on
    the object; its other edges follow from it, and so do the later boxes of a tube unless the
    object is fast (``decisive_edges``). Times are decisions where no other token implies them:
    before a tube, not within it.

    Args:
        ids: Token ids, int64 [n].
        answer: Mask of the answer, bool [n].
        sample: The question and its answer.
        config: The model's geometry.

    Returns:
        Bool [n].
    """
    left = left_edges(ids, answer, config)
    task = sample.task
    if task.modality is Modality.VIDEO:
        left[np.flatnonzero(left)] = decisive_edges(sample.answer.boxes)
    first = np.zeros_like(left)
    if task in NO_MATCH_TASKS:
        first[np.flatnonzero(answer)[:1]] = True
    return first | left | decision_times(ids, answer, task, config)


def collate(conversations: Sequence[Conversation]) -> CollatedConversations:
    """Stack conversations with prefixes of equal length and equal numbers of lanes.

    Lanes are padded to the longest one and to ``lane_tokens``. Conversations of one encoder that
    are all about clips, or all about images, therefore have one shape, unless a single turn is
    longer than a lane. A compiled model is compiled only once for each.
    """
    lanes = [lane for conversation in conversations for lane in conversation.lanes]
    prefix, count = len(conversations[0].prefix), len(conversations[0].lanes)
    tokens = max(sum(len(turn.ids) for turn in lane) for lane in lanes)
    tokens = max(tokens, *(c.lane_tokens for c in conversations))
    shape = (len(conversations), prefix + count * tokens)
    ids = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    turn_numbers = np.zeros(shape, dtype=np.int64)  # 0 outside turns
    answer_mask = np.zeros(shape, dtype=bool)
    decision_mask = np.zeros(shape, dtype=bool)
    values = np.full(shape, np.nan, dtype=np.float32)
    attention_positions = []
    for row, conversation in enumerate(conversations):
        ids[row, :prefix] = conversation.prefix
        positions[row, :prefix] = np.arange(prefix)
        for number, (start, turn) in enumerate(_turn_starts(conversation, prefix, tokens), start=1):
            span = slice(start, start + len(turn.ids))
            ids[row, span], answer_mask[row, span] = turn.ids, turn.answer_mask
            values[row, span], decision_mask[row, span] = turn.values, turn.decision_mask
            # The state before a token predicts it.
            attention_positions += [(row, start + i - 1) for i in turn.attention_positions]
            positions[row, span] = prefix + np.arange(len(turn.ids))
            turn_numbers[row, span] = number
    turns = [turn for conversation in conversations for turn in conversation.turns]
    inputs = ([v for turn in turns for v in turn.inputs[axis]] for axis in Axis)
    return CollatedConversations(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        _attention_mask(turn_numbers[:, prefix:].reshape(-1, tokens), prefix),
        torch.from_numpy(answer_mask),
        torch.from_numpy(values),
        torch.from_numpy(decision_mask),
        torch.tensor(attention_positions, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.concatenate([turn.attention_targets for turn in turns])),
        *(torch.tensor(of_axis, dtype=torch.float32) for of_axis in inputs),
    )


def _turn_starts(conversation: Conversation, prefix: int, tokens: int) -> list[tuple[int, Turn]]:
    """The position of the first token of each turn, with lanes of ``tokens`` after the prefix."""
    starts = []
    for lane, turns in enumerate(conversation.lanes):
        start = prefix + lane * tokens
        for turn in turns:
            starts.append((start, turn))
            start += len(turn.ids)
    return starts


def _attention_mask(turn_numbers: np.ndarray, prefix: int) -> Tensor:
    """The mask bool [lanes, 1, T, P + T] of lanes [lanes, T] with a turn's number at each token."""
    tokens = turn_numbers.shape[1]
    causal = np.tril(np.ones((tokens, tokens), dtype=bool))
    # Padding sees earlier padding: a row without any True would give NaN.
    same_turn = (turn_numbers[:, :, None] == turn_numbers[:, None, :]) & causal
    to_prefix = np.repeat(turn_numbers[:, :, None] > 0, prefix, axis=2)
    return torch.from_numpy(np.concatenate([to_prefix, same_turn], axis=2))[:, None]
