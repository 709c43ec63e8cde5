"""Frozen, validated settings: the model's geometry, the stream, the grounder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from llava_st_ros.coordinates import Axis, CoordinateVocabulary
from llava_st_ros.errors import BackendError, ConfigError

Compat = Literal["released", "paper"]


@dataclass(frozen=True)
class VisionConfig:
    """A SigLIP tower cut after ``num_layers`` layers (the published config keeps all but one)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class LanguageConfig:
    """Qwen2's sizes, named as in its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int  # rows of lm_head; the coordinate rows come after them
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0


@dataclass(frozen=True)
class PackerConfig:
    """The Spatial-Temporal Packer: width of its attention and the regions it packs."""

    embed_dim: int = 1024
    num_heads: int = 8
    spatial_region: int = 3
    temporal_region: int = 5


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the structural tokens, in the order in which the published code adds them."""

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
        """The id of the placeholder of an axis's values in a question: ``<TEMP-INPUT>``."""
        return getattr(self, f"{axis.table}_input")


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a checkpoint's geometry.

    ``compat`` chooses between the published code's behavior ("released": fast tokens and width
    inputs never reach the language model) and the paper's ("paper").
    ``num_frames`` is how many frames a window holds; frame i of a window uses row i of the
    temporal table, so it is at most ``num_temporal_tokens``.
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

    def __post_init__(self) -> None:
        region, grid = self.packer.spatial_region, self.grid
        if self.compat not in ("released", "paper"):
            raise ConfigError(
                f"compat {self.compat!r}; expected 'released' or 'paper'", "set llava_st.compat"
            )
        if grid == 0 or grid % (region * region):
            raise ConfigError(
                f"a grid of {grid} ({self.image_size} px in patches of {self.patch_size})"
                f"; expected one divisible by the spatial region twice ({region} x {region})",
                "change image_size or patch_size",
            )
        self.check_frames(self.num_frames)
        if self.num_frames > self.num_temporal_tokens:
            raise ConfigError(
                f"{self.num_frames} frames with {self.num_temporal_tokens} temporal rows"
                "; expected at most one frame a row",
                "lower num_frames",
            )
        for name, width, heads in (
            ("vision tower", self.vision.hidden_size, self.vision.num_attention_heads),
            ("packer", self.packer.embed_dim, self.packer.num_heads),
            ("decoder", self.language.hidden_size, self.language.num_attention_heads),
        ):
            if heads < 1 or width % heads:
                raise ConfigError(
                    f"a {name} of width {width} with {heads} heads"
                    "; expected a width divisible by the heads",
                )

    def check_frames(self, frames: int) -> None:
        """Raise ConfigError unless ``frames`` fill whole temporal regions."""
        if frames < 1 or frames % self.packer.temporal_region:
            raise ConfigError(
                f"{frames} frames; expected a positive multiple of the temporal region "
                f"({self.packer.temporal_region})",
                "change num_frames",
            )

    def check_window(self, frames: int, time_indices: Sequence[int]) -> None:
        """What packing asks: frames that fill whole temporal regions, and for each a row of the
        temporal table. Raises BackendError, ConfigError."""
        rows = self.num_temporal_tokens
        if not frames:
            raise BackendError("no frames; expected a window of frames", "push frames first")
        if len(time_indices) != frames or any(not 0 <= index < rows for index in time_indices):
            raise BackendError(
                f"{frames} frames with {len(time_indices)} time indices, "
                f"{min(time_indices, default=0)} to {max(time_indices, default=0)}"
                f"; expected for each a row of the temporal table, 0 to {rows - 1}",
                "index the frames by their place in the window",
            )
        self.check_frames(frames)

    @property
    def grid(self) -> int:
        """Patches along a side; a rest of the image smaller than a patch is not seen."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        return self.grid**2

    @property
    def slow_side(self) -> int:
        """Slow tokens on a side of the frame."""
        return self.grid // self.packer.spatial_region

    @property
    def fast_side(self) -> int:
        """Fast tokens on a side of the frame."""
        return self.slow_side // self.packer.spatial_region

    @property
    def slow_tokens_per_frame(self) -> int:
        return self.slow_side**2

    @property
    def fast_tokens_per_frame(self) -> int:
        return self.fast_side**2

    @property
    def num_fast_tokens(self) -> int:
        """Fast tokens of a whole window."""
        return self.num_frames * self.fast_tokens_per_frame

    @property
    def num_slow_tokens(self) -> int:
        """Slow tokens of a whole window."""
        return self.num_frames // self.packer.temporal_region * self.slow_tokens_per_frame

    @cached_property
    def coordinates(self) -> CoordinateVocabulary:
        """The ids of the coordinate tokens, which follow the text's."""
        return CoordinateVocabulary(
            self.language.vocab_size, self.num_temporal_tokens, self.num_spatial_tokens
        )

    @property
    def vocabulary(self) -> int:
        """The number of ids: text and coordinates."""
        return self.coordinates.size


@dataclass(frozen=True)
class StreamConfig:
    """How a camera's stream is kept and sampled. Times in seconds, sizes in bytes."""

    window_seconds: float = 6.0
    history: float = 0.0  # share of the window to be seen before a standing video query is asked
    buffer_frames: int = 600
    buffer_bytes: int = 256 * 2**20
    reset_seconds: float = 1.0  # a stamp that jumps back further than this starts a new stream

    def __post_init__(self) -> None:
        _require_positive(self, "window_seconds", "buffer_frames", "buffer_bytes", "reset_seconds")
        if not 0.0 <= self.history <= 1.0:
            raise ConfigError(f"history {self.history}; expected a share in [0, 1]")


@dataclass(frozen=True)
class GrounderConfig:
    """How questions are answered and answers become tracks and events."""

    stream: StreamConfig = field(default_factory=StreamConfig)
    max_new_tokens: int = 1024
    constrained: bool = True  # follow the task's grammar
    # From this probability on, that nothing matches is a standing query's answer; 1: never. Lower
    # than one half: most of a stream is not what one asks about.
    no_match_threshold: float = 0.2
    min_confidence: float = 0.0  # groundings below it are reported but make no track
    association_iou: float = 0.3  # mean IoU on shared stamps above which it is the same object
    track_timeout_seconds: float = 3.0  # a track without an answer for this long is dropped
    event_gap_seconds: float = 1.0  # two spans closer than this are one event

    def __post_init__(self) -> None:
        _require_positive(
            self, "max_new_tokens", "association_iou", "track_timeout_seconds", "event_gap_seconds"
        )
        for name in ("no_match_threshold", "min_confidence"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} {value}; expected a value in [0, 1]")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GrounderConfig:
        """From a nested mapping, as YAML gives it; unknown keys raise ConfigError."""
        values = dict(values)
        stream = values.pop("stream", {}) or {}
        return cls(stream=StreamConfig(**_known(StreamConfig, stream)), **_known(cls, values))

    @classmethod
    def from_yaml(cls, path: str | Path) -> GrounderConfig:
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {error}; expected a readable YAML file") from error
        if not isinstance(loaded, Mapping):
            raise ConfigError(f"{path}: {type(loaded).__name__}; expected a mapping")
        return cls.from_mapping(loaded)


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name: f for f in fields(cls)}
    for name, value in values.items():
        if name not in names:
            raise ConfigError(f"setting {name!r}; expected one of {', '.join(sorted(names))}")
        default = names[name].default
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(default, bool) != isinstance(value, bool) or (
            isinstance(default, (int, float)) and not isinstance(default, bool) and not number
        ):
            raise ConfigError(f"{name}: {value!r}; expected a value like {default!r}")
    return dict(values)


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} {value}; expected a positive number")
