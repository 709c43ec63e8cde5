"""The stages that train a tiny LLaVA-ST from scratch, and their settings.

1. dense alignment: vision tower, projector and coordinate tables (see dense_alignment);
2. picture alignment: the language model learns to ground words, on single frames;
3. packer alignment: the packers alone (see packer_alignment);
4. coordinate alignment: as 2, on clips, with short questions;
5. multi-task tuning on every task;
6. streaming: as 5, mostly on windows of videos as the node makes them.

The stages with questions (2, 4, 5, 6) are conversation stages and are made here. From stage 2 on
the vision tower is frozen, as in LLaVA-ST (section 4.1); its features are computed once and stored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from llava_st_ros.errors import ConfigError
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality, Task
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.simulation.object_tubes import object_tube_samples
from llava_st_ros.simulation.questions import (
    EVENT_TASKS,
    Sample,
    clip_samples,
    image_samples,
)
from llava_st_ros.simulation.window_questions import (
    NO_MATCH_KINDS,
    window_event_samples,
    window_no_match_samples,
    window_pairs,
)
from llava_st_ros.simulation.windows import VideoWindow, window_of
from llava_st_ros.text.prompt_layout import Block, visual_blocks, written_inputs
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.loop.draws import Draws
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_ratio
from llava_st_ros.training.loop.optimizers import train_only
from llava_st_ros.training.objective import soft_cross_entropy, two_hot_targets
from llava_st_ros.training.tiny.attention_alignment import attention_loss, middle_layer
from llava_st_ros.training.tiny.attention_targets import visual_token_counts
from llava_st_ros.training.tiny.conversations import (
    CollatedConversations,
    Conversation,
    ConversationEncoder,
    collate,
)
from llava_st_ros.training.tiny.event_alignment import (
    EventHeads,
    event_labels,
    event_loss,
    object_cells,
)
from llava_st_ros.training.tiny.lane_attention import use_lane_attention
from llava_st_ros.training.tiny.windows import sample_window

TUBE = "tube"  # the name of object_tube_samples in a mix
# Names of a window's questions without a match, and of pairs, among those in a mix.
NO_MATCH, PAIR = "no_match", "pair"
EMPTY_WINDOW_QUESTIONS = 10  # questions without a match about a window without events
S = TypeVar("S")
WORDINGS = 3  # of every question, to fill a conversation


@dataclass(frozen=True)
class ConversationStage:
    """The settings of a stage with questions.

    Attributes:
        kind: Its kind in the YAML.
        batch: Conversations in a batch, over all processes.
        video: The share of batches about clips; the others are about single frames.
        lanes: Lanes of a conversation, see conversations.
        lane_tokens: Length of a lane.
        mix: Weights of the tasks. ``tube`` are SVG questions that follow an object regardless of
            events.
        tube_frames: The least and the greatest number of frames of ``tube`` questions.
        decision_weight: Weight of decision tokens in the loss; other tokens have 1.
        match_weight: Weight of the first word of answers that may be "no match"; None: that of the
            other decision tokens.
        event_weight: Weight of the loss of event_alignment.
        attention_weight: Weight of the loss of attention_alignment.
        single_event_share: The probability of keeping a drawn clip with a single event, whose
            questions can be answered without reading the words.
        no_match_share: The probability of keeping a clip question without a match. These are four
            in ten; a model that cannot detect events yet would learn to always answer "no match".
        clips: Use only the first clips of the store; None: all.
        window_share: The probability that a conversation about a clip is about a window of a video
            instead.
        window_no_match_share: The share of questions without a match among a window's questions
            that could have one. A window without events has only those.
        window_no_match_kinds: Weights of their kinds, see window_questions.
        pair_weight: Weight, in ``mix``, of pairs of a question with an answer and one without that
            differ in a word.
    """

    kind: ClassVar[str] = "conversations"

    batch: int
    video: float
    lanes: int
    lane_tokens: int
    mix: Mapping[str, float]
    tube_frames: tuple[int, int] = (5, 20)
    decision_weight: float = 1.0
    match_weight: float | None = None
    event_weight: float = 0.0
    attention_weight: float = 0.0
    single_event_share: float = 1.0
    no_match_share: float = 1.0
    clips: int | None = None
    window_share: float = 0.0
    window_no_match_share: float = 0.5
    window_no_match_kinds: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(NO_MATCH_KINDS, 1.0)
    )
    pair_weight: float = 0.0

    def __post_init__(self) -> None:
        check_batch(self.batch, self.clips)
        for name in ("lanes", "lane_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        shares = ("video", "single_event_share", "no_match_share", "window_share")
        for name in (*shares, "window_no_match_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a value in [0, 1]")
        low, high = self.tube_frames
        if not 1 <= low <= high:
            raise ConfigError(f"tube_frames is {[low, high]}; expected 1 <= least <= greatest")
        known = [TUBE, *(task.value for task in Task)]
        if unknown := sorted(set(self.mix) - set(known)):
            raise ConfigError(f"mix has {', '.join(unknown)}; expected some of {', '.join(known)}")
        if min(self.mix.values(), default=0) < 0 or not any(self.mix.values()):
            raise ConfigError("mix is empty or has a negative weight")
        if self.window_no_match_share == 1:
            raise ConfigError("window_no_match_share is 1; expected a share below 1")
        for name in ("pair_weight", "match_weight"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 0")
        kinds = self.window_no_match_kinds
        if unknown := sorted(set(kinds) - set(NO_MATCH_KINDS)):
            raise ConfigError(
                f"window_no_match_kinds has {', '.join(unknown)}"
                f"; expected some of {', '.join(NO_MATCH_KINDS)}"
            )
        if min(kinds.values(), default=0) < 0 or not any(kinds.values()):
            raise ConfigError("window_no_match_kinds is empty or has a negative weight")


def check_batch(batch: int, clips: int | None) -> None:
    """Raise ConfigError unless a stage's batch, and its number of clips if given, are positive."""
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1")
    if clips is not None and clips < 1:
        raise ConfigError(f"clips is {clips}; expected at least 1")


@dataclass(frozen=True)
class ConversationBatch:
    """B conversations and their visual inputs.

    Attributes:
        conversations: The token side.
        features: Vision features, float16 [B, F, N, Dv] of clips or [B, N, Dv] of single frames.
        labels: As in event_alignment, int8 [B, F * n_fast, NUM_LABELS]; None for single frames.
        sources: Where each visual input comes from.
    """

    conversations: CollatedConversations
    features: Tensor
    labels: Tensor | None
    sources: tuple[str, ...]

    @property
    def modality(self) -> Modality:
        return Modality.IMAGE if self.features.ndim == 3 else Modality.VIDEO


@dataclass(frozen=True)
class VisualData:
    """Clips or videos and their vision features [clips, F, N, Dv]."""

    store: ClipStore
    features: np.ndarray


@dataclass(frozen=True)
class _Example:
    """One item of a ConversationBatch."""

    conversation: Conversation
    features: np.ndarray
    labels: np.ndarray | None
    source: str


class ConversationBatches:
    """``batches(step)``: conversations about clips of the store or about single frames of them.

    Args:
        clips: The clips.
        videos: The videos, None if the stage has no windows.
        encoder: Encodes samples.
        stage: The stage's settings.
        seed: Seeds every draw.
        shard: This process's items.
        grow: Batches in a step, see draws.
    """

    def __init__(
        self,
        clips: VisualData,
        videos: VisualData | None,
        encoder: ConversationEncoder,
        stage: ConversationStage,
        seed: int,
        shard: Shard = FULL_SHARD,
        grow: int = 1,
    ) -> None:
        self.store, self.features = clips.store, clips.features
        self.videos, self.encoder, self.stage = videos, encoder, stage
        self.draws = Draws(seed, stage.batch, shard, grow, lambda rng: rng.random() < stage.video)

    def __call__(self, step: int) -> ConversationBatch:
        """Return this process's shard of the step's batch: all about clips or all about frames."""
        about_clips = self.draws.kind(step)
        example = self._video_example if about_clips else self._frame_example
        examples = [example(rng) for rng in self.draws.items(step)]
        conversations = collate([e.conversation for e in examples])
        labels = [e.labels for e in examples if e.labels is not None]
        return ConversationBatch(
            conversations,
            torch.from_numpy(np.stack([e.features for e in examples])),
            torch.from_numpy(np.stack(labels)).flatten(1, 2) if labels else None,
            tuple(e.source for e in examples),
        )

    def _frame_example(self, rng: np.random.Generator) -> _Example:
        while True:
            index = int(rng.integers(len(self.store)))
            clip = self.store[index]
            frame = int(rng.integers(len(clip.frames)))
            samples = [
                (sample.task.value, sample)
                for _ in range(WORDINGS)
                for sample in image_samples(clip, frame, rng)
            ]
            ordered = weighted_order(samples, self.stage.mix, rng)
            if ordered:
                source = f"{self.store.source(index)} frame {frame}"
                features = np.asarray(self.features[index, frame])
                return _Example(self.encoder.encode(ordered, rng), features, None, source)

    def _video_example(self, rng: np.random.Generator) -> _Example:
        stage = self.stage
        if self.videos is not None and stage.window_share and rng.random() < stage.window_share:
            return self._window_example(self.videos, rng)
        return self._clip_example(rng)

    def _window_example(self, videos: VisualData, rng: np.random.Generator) -> _Example:
        while True:
            index = int(rng.integers(len(videos.store)))
            video = videos.store[index]
            slots = self.encoder.config.num_frames
            frames = sample_window(video.seed, video.stamps, slots, rng)
            window = window_of(video, frames)
            ordered = self._window_samples(window, rng)
            if ordered:
                side = self.encoder.config.fast_side
                return _Example(
                    self.encoder.encode(ordered, rng),
                    np.asarray(videos.features[index, frames]),
                    event_labels(window.clip, object_cells(window.clip, side), side),
                    f"{videos.store.source(index)} frame {frames[-1]}",
                )

    def _window_samples(self, window: VideoWindow, rng: np.random.Generator) -> list[Sample]:
        """Return the questions about a window in the order in which they are encoded."""
        stage, share = self.stage, self.stage.window_no_match_share
        units: list[tuple[str, tuple[Sample, ...]]] = []
        for _ in range(WORDINGS):
            units += [(s.task.value, (s,)) for s in window_event_samples(window, rng)]
            units += [(PAIR, pair) for pair in window_pairs(window, rng)]
            tubes = object_tube_samples(window.clip, rng, *stage.tube_frames)
            units += [(TUBE, (sample,)) for sample in tubes]
        if window.clip.events:
            answered = sum(
                unit[0].task in EVENT_TASKS and name not in (PAIR, TUBE) for name, unit in units
            )
            count = math.ceil(answered * share / (1 - share))
        else:
            count = EMPTY_WINDOW_QUESTIONS
        kinds = stage.window_no_match_kinds
        units += [(NO_MATCH, (s,)) for s in window_no_match_samples(window, count, kinds, rng)]
        weight = sum(stage.mix.get(task.value, 0) for task in EVENT_TASKS)
        mix = {**stage.mix, NO_MATCH: weight * share / (1 - share), PAIR: stage.pair_weight}
        return [sample for unit in weighted_order(units, mix, rng) for sample in unit]

    def _clip_example(self, rng: np.random.Generator) -> _Example:
        while True:
            index = int(rng.integers(len(self.store)))
            clip = self.store[index]
            if len(clip.events) < 2 and rng.random() >= self.stage.single_event_share:
                continue
            samples = []
            for _ in range(WORDINGS):
                for sample in clip_samples(clip, rng):
                    dropped = sample.answer.no_match and rng.random() >= self.stage.no_match_share
                    if not dropped and sample.task.modality is Modality.VIDEO:
                        samples.append((sample.task.value, sample))
                tubes = object_tube_samples(clip, rng, *self.stage.tube_frames)
                samples += [(TUBE, sample) for sample in tubes]
            ordered = weighted_order(samples, self.stage.mix, rng)
            if ordered:
                side = self.encoder.config.fast_side
                return _Example(
                    self.encoder.encode(ordered, rng),
                    np.asarray(self.features[index]),
                    event_labels(clip, object_cells(clip, side), side),
                    self.store.source(index),
                )


def weighted_order(
    samples: Sequence[tuple[str, S]], mix: Mapping[str, float], rng: np.random.Generator
) -> list[S]:
    """Return the samples in random order, those of heavier names earlier on average.

    Args:
        samples: Each with its name in ``mix``. How many have the same name makes no difference.
        mix: The weight of each name; samples of weight 0 are dropped.
        rng: The source of the order.
    """
    weighted = [(name, sample) for name, sample in samples if mix.get(name, 0) > 0]
    counts = Counter(name for name, _ in weighted)
    # Exponential clocks: the first to ring is sample i with probability weight_i / sum.
    times = [rng.exponential() * counts[name] / mix[name] for name, _ in weighted]
    return [weighted[i][1] for i in np.argsort(times)]


class ConversationStep(nn.Module):
    """Trains everything but the vision tower, and the heads."""

    def __init__(self, model: LlavaST, heads: EventHeads, stage: ConversationStage) -> None:
        super().__init__()
        self.model, self.heads, self.stage = model, heads, stage
        train_only(model, model)
        model.model.vision_tower.requires_grad_(False)

    def forward(self, batch: ConversationBatch) -> LossTerms:
        """Return the terms of the answers, of attention_alignment, and of event_alignment.

        The first two are prefixed with the modality, because the losses of images and videos differ
        in size.
        """
        model, stage = self.model, self.stage
        conversations, modality = batch.conversations, batch.modality
        start = _visual_start(model, conversations, modality)
        out = decode(model, conversations, batch.features.float(), modality)
        terms = answer_terms(
            model,
            conversations,
            out.last_hidden_state,
            stage.decision_weight,
            stage.match_weight,
        )
        hidden = out.hidden_states[middle_layer(model)]
        if stage.attention_weight > 0:
            terms |= attention_loss(model, conversations, hidden, start, stage.attention_weight)
        terms = {f"{modality.value}_{name}": term for name, term in terms.items()}
        if stage.event_weight > 0 and batch.labels is not None:
            fast = hidden[:, start : start + batch.labels.shape[1]]
            terms |= event_loss(self.heads, fast, batch.labels, stage.event_weight)
        return terms


def decode(
    model: LlavaST, conversations: CollatedConversations, features: Tensor, modality: Modality
) -> Any:
    """Return the decoder's output for a batch, with the hidden states of every layer."""
    embeddings = embed(model, conversations, features, modality)
    with use_lane_attention(model.model):
        return model.model(
            inputs_embeds=embeddings,
            attention_mask=conversations.attention_mask,
            position_ids=conversations.positions,
            use_cache=False,
            output_hidden_states=True,
        )


def answer_terms(
    model: LlavaST,
    conversations: CollatedConversations,
    hidden: Tensor,
    decision_weight: float,
    match_weight: float | None = None,
) -> LossTerms:
    """Return the loss of the answers' tokens.

    Args:
        model: The model.
        conversations: B conversations of L tokens.
        hidden: The last hidden states [B, L, D].
        decision_weight: Weight of the decision tokens; other tokens have 1.
        match_weight: Weight of those that are words; None: ``decision_weight``.

    Returns:
        ``answer_loss``, and, only logged, the means over kinds of tokens: among decision tokens
        ``match``, ``span`` and ``left``, among the others ``text``, ``time`` and ``space``.
    """
    config = model.config
    # Position i predicts token i + 1; no turn starts with a token of its answer.
    predicted = conversations.answer_mask[:, 1:]
    ids = conversations.ids[:, 1:][predicted]
    decides = conversations.decision_mask[:, 1:][predicted]
    targets = two_hot_targets(ids, conversations.values[:, 1:][predicted], config)
    losses = soft_cross_entropy(model.logits(hidden[:, :-1][predicted]), targets)
    coordinates = config.coordinates
    is_text, is_time = coordinates.is_text(ids), coordinates.is_time(ids)
    in_space = coordinates.is_space(ids)
    kinds = {
        "match": decides & is_text,
        "text": ~decides & is_text,
        "span": decides & is_time,
        "time": ~decides & is_time,
        "left": decides & in_space,
        "space": ~decides & in_space,
    }
    weights = torch.where(decides, decision_weight, 1.0)
    if match_weight is not None:
        weights = torch.where(kinds["match"], match_weight, weights)
    detached = losses.detach()
    by_kind = {
        name: logged_ratio((detached * kind).sum(), kind.sum()) for name, kind in kinds.items()
    }
    return {"answer_loss": LossTerm((losses * weights).sum(), weights.sum()), **by_kind}


def embed(
    model: LlavaST, conversations: CollatedConversations, features: Tensor, modality: Modality
) -> Tensor:
    """Return embeddings [B, L, D], as LlavaST.embed_prompt does for a single prompt."""
    projected = model.project(features)
    if modality is Modality.IMAGE:
        parts = [model.image_tokens(projected)]
    else:
        parts = list(model.pack(projected, range(features.shape[1])))
    part_at = dict(zip(accumulate((part.shape[-2] for part in parts), initial=0), parts))
    embeddings = model.embed_tokens(conversations.ids)
    for position, row, length in _prefix_blocks(model, conversations, modality):
        # Only what is written enters the graph: the packer of an unwritten stream must get no
        # gradient, as zero gradients would still be subject to weight decay.
        written = part_at[row].to(embeddings)
        embeddings = torch.cat(
            [embeddings[:, :position], written, embeddings[:, position + length :]], dim=1
        )
    for axis, placeholder in written_inputs(model.config).items():
        values = conversations.inputs[axis]
        if len(values):
            mixed = model.table(axis, "input").interpolate(values).to(embeddings)
            is_placeholder = (conversations.ids == placeholder)[..., None]
            embeddings = embeddings.masked_scatter(is_placeholder, mixed)
    return embeddings


def _prefix_blocks(
    model: LlavaST, conversations: CollatedConversations, modality: Modality
) -> tuple[Block, ...]:
    """The blocks of visual tokens to write, the same in every row of a batch."""
    ids = conversations.ids[0].cpu().numpy()
    return visual_blocks(ids, model.config, visual_token_counts(model.config, modality))


def _visual_start(model: LlavaST, conversations: CollatedConversations, modality: Modality) -> int:
    """The position of the first visual token.

    Blocks are adjacent, so this also holds where only the slow one is written.
    """
    block = _prefix_blocks(model, conversations, modality)[0]
    return block.position - block.row


def count_parameters(model: LlavaST) -> int:
    """The number of parameters of the model."""
    return sum(p.numel() for p in model.parameters())
