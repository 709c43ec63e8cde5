"""Training batches: many questions about one picture or clip, answered side by side.

A conversation's questions share the visual prefix, which costs the most. Each question and its
answer form a *turn* that sees the prefix and itself but no other turn, at the positions it would
have alone: one forward pass trains every turn exactly as if it were a prompt of its own. Behind
the prefix the turns lie in *lanes* of equal length, several in each, so that attention never has
to look from one lane into another (see lane_attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.records import Modality, Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.answer_format import NO_MATCH_TASKS, format_answer
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.tiny.evidence import chosen_times, evidence, left_edges

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
    inputs: dict[Axis, tuple[float, ...]]  # coordinate values of the question


@dataclass(frozen=True)
class Lanes:
    """Room for turns: ``count`` lanes of ``tokens`` tokens each."""

    count: int
    tokens: int


@dataclass(frozen=True)
class Conversation:
    """Turns about one visual input, by lanes that have room for ``lane_tokens``. ``prefix`` int64
    [P] ends with the visual block."""

    prefix: np.ndarray
    lanes: tuple[tuple[Turn, ...], ...]
    lane_tokens: int = 0

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(turn for lane in self.lanes for turn in lane)


@dataclass(frozen=True)
class Batch:
    """B conversations, each a prefix of P tokens and K lanes of T tokens: L = P + K * T.

    ``ids`` int64 [B, L]; ``positions`` int64 [B, L]; ``visible`` bool [B * K, 1, T, P + T], what
    each token of a lane sees of the prefix and of its lane (the prefix itself is causal);
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

    @property
    def inputs(self) -> dict[Axis, Tensor]:
        """The values of each axis."""
        return dict(zip(Axis, (self.temporal_inputs, self.height_inputs, self.width_inputs)))


class ConversationEncoder:
    """Samples of the simulator -> conversations in token ids."""

    def __init__(self, builder: PromptBuilder, config: ModelConfig, lanes: Lanes) -> None:
        self.builder, self.config, self.lanes = builder, config, lanes
        special = config.special_tokens
        self._block_ends = (special.im_end, special.slow_vid_end)

    def encode(self, samples: Sequence[Sample], rng: np.random.Generator) -> Conversation:
        """Samples in their order, each in the first lane with room for it; those that fit nowhere
        are left out, and after ``MISFITS`` of them it is taken to be full. If none fits, the first
        has a lane to itself, longer than it should be."""
        turns: list[list[Turn]] = [[] for _ in range(self.lanes.count)]
        room = [self.lanes.tokens] * self.lanes.count
        misfits: list[Turn] = []
        for sample in samples:
            prefix, turn = self._prefix_and_turn(sample, rng)
            lane = next((i for i, free in enumerate(room) if free >= len(turn.ids)), None)
            if lane is None:
                misfits.append(turn)
                if len(misfits) == MISFITS:
                    break
            else:
                turns[lane].append(turn)
                room[lane] -= len(turn.ids)
        if not any(turns):
            turns[0].append(misfits[0])
        return Conversation(prefix, tuple(map(tuple, turns)), self.lanes.tokens)

    def _prefix_and_turn(self, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, Turn]:
        answer = format_answer(sample.answer, self.config.coordinates)
        whole = self.builder.build_labeled([(sample.question(rng), answer)])
        ids, answered = np.asarray(whole.prompt.token_ids), np.asarray(whole.labels_mask)
        cut = 1 + int(np.flatnonzero(np.isin(ids, self._block_ends))[-1])
        choices, shown = evidence(ids, answered, sample, self.config)
        return ids[:cut], Turn(
            ids[cut:],
            answered[cut:],
            np.asarray(whole.coordinate_values)[cut:],
            decisive_tokens(ids, answered, sample.task, self.config)[cut:],
            choices - cut,
            shown,
            whole.prompt.inputs,
        )


def decisive_tokens(
    ids: np.ndarray, answer: np.ndarray, task: Task, config: ModelConfig
) -> np.ndarray:
    """Which tokens choose the object or the time, or say that there is none: bool [n] of ids int64
    [n], answer bool [n].

    The first word of an answer says whether anything matches. The left edge of a box says which
    object is meant; the other edges follow from it, and so do the later boxes of a tube. Times
    decide where none implies them: before a tube, not inside it.
    """
    left = left_edges(ids, answer, config)
    if task.modality is Modality.VIDEO:
        left &= np.cumsum(left) == 1
    first = np.zeros_like(left)
    if task in NO_MATCH_TASKS:
        first[np.flatnonzero(answer)[:1]] = True
    return first | left | chosen_times(ids, answer, task, config)


def collate(conversations: Sequence[Conversation]) -> Batch:
    """Of equal prefixes' lengths and numbers of lanes; lanes as long as the longest, see Batch.

    Conversations of one encoder that are all about clips, or all about pictures, have always the
    same shape (unless a single turn is longer than a lane), so that a compiled model meets one.
    """
    lanes = [lane for conversation in conversations for lane in conversation.lanes]
    prefix, count = len(conversations[0].prefix), len(conversations[0].lanes)
    tokens = max(sum(len(turn.ids) for turn in lane) for lane in lanes)
    tokens = max(tokens, *(c.lane_tokens for c in conversations))
    shape = (len(conversations), prefix + count * tokens)
    ids = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    turn_of = np.zeros(shape, dtype=np.int64)  # 0 of what is no turn
    answer = np.zeros(shape, dtype=bool)
    decisive = np.zeros(shape, dtype=bool)
    values = np.full(shape, np.nan, dtype=np.float32)
    choices = []
    for row, conversation in enumerate(conversations):
        ids[row, :prefix] = conversation.prefix
        positions[row, :prefix] = np.arange(prefix)
        number = 0
        for lane, inside in enumerate(conversation.lanes):
            end = prefix + lane * tokens
            for turn in inside:
                place, number = slice(end, end + len(turn.ids)), number + 1
                ids[row, place], answer[row, place] = turn.ids, turn.answer
                values[row, place], decisive[row, place] = turn.values, turn.decisive
                choices += [(row, end + token - 1) for token in turn.choices]
                positions[row, place] = prefix + np.arange(len(turn.ids))
                turn_of[row, place] = number
                end = place.stop
    owner = turn_of[:, prefix:].reshape(-1, tokens)  # of every lane
    causal = np.tril(np.ones((tokens, tokens), dtype=bool))
    own = (owner[:, :, None] == owner[:, None, :]) & causal  # padding too: no row is empty
    of_prefix = np.repeat(owner[:, :, None] > 0, prefix, axis=2)
    visible = np.concatenate([of_prefix, own], axis=2)
    turns = [turn for conversation in conversations for turn in conversation.turns]

    def flat(axis: Axis) -> Tensor:
        return torch.tensor([v for t in turns for v in t.inputs[axis]], dtype=torch.float32)

    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(visible)[:, None],
        torch.from_numpy(answer),
        torch.from_numpy(values),
        torch.from_numpy(decisive),
        torch.tensor(choices, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.concatenate([turn.evidence for turn in turns])),
        *(flat(axis) for axis in Axis),
    )
