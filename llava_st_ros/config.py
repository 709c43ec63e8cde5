"""Frozen, validated settings: the geometry of a checkpoint, the stream and the grounder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from llava_st_ros.calibration import Calibration
from llava_st_ros.coordinates import Axis, CoordinateVocabulary
from llava_st_ros.errors import BackendError, ConfigError, shown

Compat = Literal["released", "paper"]
# Bounds of a geometry, far above every real network: they bound the time and memory that an
# invalid config can cost.
MAX_SIZE = 2**24
MAX_LAYERS = 512
MAX_IMAGE_SIZE = 8192  # pixels
# Any network that was ever trained is far inside of these.
REAL_RANGES = {
    "layer_norm_eps": (1e-15, 0.1),
    "rms_norm_eps": (1e-15, 0.1),
    "rope_theta": (1.0, 1e15),
}


@dataclass(frozen=True)
class VisionConfig:
    """A SigLIP tower of which the first ``num_layers`` run (all but one in the published model)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_sizes(self, "vision tower")
        _check_heads("vision tower", self.hidden_size, self.num_attention_heads)


@dataclass(frozen=True)
class LanguageConfig:
    """The sizes of Qwen2, named as in its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int  # rows of lm_head; the coordinate rows follow
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0

    def __post_init__(self) -> None:
        _check_sizes(self, "decoder")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        _check_heads("decoder", self.hidden_size, heads)
        if heads % groups:
            raise ConfigError(
                f"the decoder has {heads} heads and {groups} key and value heads; expected a "
                "divisor of the heads"
            )
        if self.hidden_size // heads % 2:
            raise ConfigError(
                f"the decoder's heads have width {self.hidden_size // heads}; expected an even one"
            )


@dataclass(frozen=True)
class PackerConfig:
    """The Spatial-Temporal Packer (STP): the width of its attention and the regions it packs."""

    embed_dim: int = 1024
    num_heads: int = 8
    spatial_region: int = 3
    temporal_region: int = 5

    def __post_init__(self) -> None:
        _check_sizes(self, "packer")
        _check_heads("packer", self.embed_dim, self.num_heads)


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the structural tokens, in the order in which the published code adds them."""

    im_start: int
    im_end: int
    im_patch: int
    vid_start: int
    vid_end: int
    vid_patch: int
    slow_vid_start: int
    slow_vid_end: int
    temporal_input: int
    temporal_output: int
    spatial_height_input: int
    spatial_height_output: int
    spatial_width_input: int
    spatial_width_output: int

    def input_of(self, axis: Axis) -> int:
        """Return the id of an axis's placeholder in questions, e.g. ``<TEMP-INPUT>``."""
        return getattr(self, f"{axis.table}_input")


@dataclass(frozen=True)
class ModelConfig:
    """The geometry of a checkpoint.

    Attributes:
        image_size: Side of the vision tower's input in pixels.
        patch_size: Side of a patch in pixels.
        vision: The vision tower.
        language: The language model.
        packer: The Spatial-Temporal Packer.
        special_tokens: Ids of the structural tokens.
        num_temporal_tokens: Rows of the temporal table.
        num_spatial_tokens: Rows of each of the two spatial tables.
        num_frames: Frames in a window. Slot i uses row i of the temporal table, so this is at most
            ``num_temporal_tokens``.
        compat: "released" follows the published code, in which fast tokens and width inputs do not
            reach the language model; "paper" follows the paper.
        end_token_ids: Ids that end an answer, besides ``<|im_end|>``.
        calibration: How its probabilities are corrected.

    Raises:
        ConfigError: The sizes do not fit together.
    """

    image_size: int
    patch_size: int
    vision: VisionConfig
    language: LanguageConfig
    packer: PackerConfig
    special_tokens: SpecialTokens
    num_temporal_tokens: int = 100
    num_spatial_tokens: int = 100
    num_frames: int = 100
    compat: Compat = "released"
    end_token_ids: tuple[int, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        _check_sizes(self, "model")
        if self.image_size > MAX_IMAGE_SIZE:
            raise ConfigError(
                f"image_size is {self.image_size} px; expected at most {MAX_IMAGE_SIZE}"
            )
        region, grid = self.packer.spatial_region, self.grid
        if self.compat not in ("released", "paper"):
            raise ConfigError(f"compat is {self.compat!r}; expected 'released' or 'paper'")
        if grid == 0 or grid % (region * region):
            raise ConfigError(
                f"{self.image_size} px in patches of {self.patch_size} px are a grid of {grid}; "
                f"expected a multiple of the spatial region squared ({region} x {region})",
                "change image_size or patch_size",
            )
        self.check_frames(self.num_frames)
        if self.num_frames > self.num_temporal_tokens:
            raise ConfigError(
                f"num_frames is {self.num_frames}; "
                f"expected at most num_temporal_tokens, {self.num_temporal_tokens}"
            )

    def check_frames(self, frames: int) -> None:
        """Raise ConfigError unless ``frames`` is a positive multiple of the temporal region."""
        if frames < 1 or frames % self.packer.temporal_region:
            raise ConfigError(
                f"{frames} frames; expected a positive multiple of the temporal region "
                f"({self.packer.temporal_region})"
            )

    def check_window(self, frames: int, time_indices: Sequence[int]) -> None:
        """Check the input of the packer.

        Args:
            frames: The number of frames.
            time_indices: The row of the temporal table of each frame.

        Raises:
            BackendError: There are no frames, or their time indices are not rows of the table.
            ConfigError: ``frames`` is not a multiple of the temporal region.
        """
        rows = self.num_temporal_tokens
        if not frames:
            raise BackendError("the window has no frames", "push frames first")
        if len(time_indices) != frames or any(not 0 <= index < rows for index in time_indices):
            raise BackendError(
                f"{frames} frames with {len(time_indices)} time indices, "
                f"{min(time_indices, default=0)} to {max(time_indices, default=0)}; "
                f"expected one row of the temporal table, 0 to {rows - 1}, per frame"
            )
        self.check_frames(frames)

    @property
    def grid(self) -> int:
        """Patches per side; a remainder smaller than a patch is cropped."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        return self.grid**2

    @property
    def slow_side(self) -> int:
        """Slow tokens per side of a frame."""
        return self.grid // self.packer.spatial_region

    @property
    def fast_side(self) -> int:
        """Fast tokens per side of a frame."""
        return self.slow_side // self.packer.spatial_region

    @property
    def slow_tokens_per_frame(self) -> int:
        return self.slow_side**2

    @property
    def fast_tokens_per_frame(self) -> int:
        return self.fast_side**2

    @property
    def num_fast_tokens(self) -> int:
        """Fast tokens of a window."""
        return self.num_frames * self.fast_tokens_per_frame

    @property
    def num_slow_tokens(self) -> int:
        """Slow tokens of a window."""
        return self.num_frames // self.packer.temporal_region * self.slow_tokens_per_frame

    @cached_property
    def coordinates(self) -> CoordinateVocabulary:
        """The ids of the coordinate tokens, which follow the text ids."""
        return CoordinateVocabulary(
            self.language.vocab_size, self.num_temporal_tokens, self.num_spatial_tokens
        )

    @property
    def vocabulary(self) -> int:
        """The number of ids, text and coordinates."""
        return self.coordinates.size


HISTORY = 0.9  # fraction of the window that a robot or a recording fills before a video query


@dataclass(frozen=True)
class StreamConfig:
    """How the stream of a camera is buffered and sampled.

    Attributes:
        window_seconds: Length of the window.
        history: Fraction of the window that must be filled before a standing video query is
            evaluated.
        buffer_frames: Maximum number of buffered frames.
        buffer_bytes: Maximum size of the buffered images, and of their features once they are
            encoded. The published model's features of a window are 500 MiB in 16 bits.
        reset_seconds: A stamp that jumps back by more than this, or ahead by more than this and the
            frame's arrival explains, does not continue the stream (see StreamClock).

    Raises:
        ConfigError: A value is out of range.
    """

    window_seconds: float = 6.0
    history: float = 0.0
    buffer_frames: int = 600
    buffer_bytes: int = 1024 * 2**20
    reset_seconds: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(self, "window_seconds", "buffer_frames", "buffer_bytes", "reset_seconds")
        if not 0.0 <= self.history <= 1.0:
            raise ConfigError(f"history is {self.history}; expected a value in [0, 1]")


@dataclass(frozen=True)
class GrounderConfig:
    """How queries are answered, and how answers become tracks and events.

    Attributes:
        stream: How frames are buffered and sampled.
        max_new_tokens: Token budget of an answer.
        constrained: Decode with the task's grammar.
        no_match_threshold: A standing query is answered "no match" when P(no match) is at or above
            this; 1 for never.
        evidence_floor: The most probable match of a standing query is decoded if P(match) is at or
            above this, even if the answer is "no match": as evidence for later decisions.
        evidence_on: Probability, by all answers that saw a moment, from which something is taken to
            happen. Its events reach it somewhere.
        evidence_off: Probability below which it is taken to be over; at most ``evidence_on``.
        confirmations: Number of answers that must agree on an event before it is CONFIRMED; fewer
            for a query whose period leaves fewer windows that see a moment.
        provisional_events: Publish events before they are CONFIRMED, too.
        max_queries: Most standing queries; a further one is rejected.
        min_confidence: Groundings with a lower confidence are treated as "no match".
        association_iou: Minimum mean IoU over shared stamps for an answer to continue a track.
        track_timeout_seconds: A track that is absent from all answers for this long is dropped.
        memory_seconds: An object that is not tracked any more keeps its id for this long.
        event_gap_seconds: Two spans closer than this are one event.

    Raises:
        ConfigError: A value is out of range.
    """

    stream: StreamConfig = field(default_factory=StreamConfig)
    max_new_tokens: int = 1024
    constrained: bool = True
    no_match_threshold: float = 0.5
    evidence_floor: float = 0.2
    evidence_on: float = 0.45
    evidence_off: float = 0.15
    confirmations: int = 2
    provisional_events: bool = True
    max_queries: int = 64
    min_confidence: float = 0.0
    association_iou: float = 0.3
    track_timeout_seconds: float = 3.0
    memory_seconds: float = 30.0
    event_gap_seconds: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "max_new_tokens",
            "max_queries",
            "confirmations",
            "association_iou",
            "track_timeout_seconds",
            "memory_seconds",
            "event_gap_seconds",
        )
        probabilities = ("no_match_threshold", "evidence_floor", "min_confidence")
        for name in probabilities:
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} is {value}; expected a value in [0, 1]")
        for name in ("evidence_on", "evidence_off"):
            value = getattr(self, name)
            if not 0.0 < value <= 1.0:
                raise ConfigError(f"{name} is {value}; expected a value in (0, 1]")
        if self.evidence_off > self.evidence_on:
            raise ConfigError(
                f"evidence_off is {self.evidence_off}; expected at most evidence_on, "
                f"{self.evidence_on}"
            )


def _check_sizes(config: Any, part: str) -> None:
    """Raise ConfigError unless a geometry's numbers are in range; makes reals floats."""
    for f in fields(config):
        value = getattr(config, f.name)
        if f.type == "int":
            limit = MAX_LAYERS if f.name in ("num_layers", "num_hidden_layers") else MAX_SIZE
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise ConfigError(
                    f"the {part}'s {f.name} is {shown(value)}; expected an integer from 1 to "
                    f"{limit}"
                )
        elif f.type == "float":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            low, high = REAL_RANGES[f.name]
            if not is_number or not low <= value <= high:  # false for NaN, too
                raise ConfigError(
                    f"the {part}'s {f.name} is {shown(value)}; expected a number from {low:g} to "
                    f"{high:g}"
                )
            object.__setattr__(config, f.name, float(value))


def _check_heads(part: str, width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(
            f"the {part} has width {width} and {heads} heads; "
            "expected a width divisible by the number of heads"
        )


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} is {value}; expected a positive number")
