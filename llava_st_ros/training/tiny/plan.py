"""What a recipe costs: floating-point operations and an estimate of its time on a machine.

Operations are those of matrix products and attention, counted from the geometry; a backward pass
costs two forward passes. Steps of so small a model are not bound by arithmetic on a GPU but by the
host, which launches some thousand kernels for each, so a step takes the longer of the two times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Modality
from llava_st_ros.training.loop.loop import LoopConfig
from llava_st_ros.training.tiny.attention_targets import visual_token_counts
from llava_st_ros.training.tiny.pipeline import DenseStage, EventStage, PackerStage, Stage
from llava_st_ros.training.tiny.stages import ConversationStage

TRAINED = 3  # times the operations of a forward pass
PROMPT_TOKENS = 15  # before the visual block


@dataclass(frozen=True)
class Machine:
    """The speed of a machine, roughly.

    Attributes:
        flops: Floating-point operations per second in the products of this model.
        step_seconds: The least time of a step: the host's.
        frames_per_second: Frames that all cores together render.
        frame_seconds: The least time of a frame's vision features: reading and writing them.
    """

    flops: float
    step_seconds: float
    frames_per_second: float
    frame_seconds: float = 1e-4


def machine(device: str, cores: int) -> Machine:
    """Return estimates for "cuda" or "cpu" with this number of cores.

    CPU: the two-hour run of docs/training.md on two cores. CUDA: a tenth of an H100's TF32 rate,
    since the model is narrow, and eager launches of about as many kernels as were timed on an H200
    (25 ms for 28 decoder layers, forward).
    """
    frames_per_second = 110.0 * cores
    if device == "cuda":
        return Machine(40e12, 0.05, frames_per_second)
    return Machine(0.06e12 * cores, 0.05, frames_per_second)


@dataclass(frozen=True)
class StagePlan:
    """The cost of a stage.

    Attributes:
        name: The stage.
        steps: Optimizer steps.
        samples: Frames, clips or conversations, over all steps.
        flops: Floating-point operations of a step.
        minutes: Estimated time.
    """

    name: str
    steps: int
    samples: int
    flops: float
    minutes: float


def plan_stages(
    stages: dict[str, tuple[LoopConfig, Stage]], config: ModelConfig, speed: Machine, grow: int = 1
) -> list[StagePlan]:
    """Return the cost of every stage.

    Args:
        stages: As ``pipeline.read_stage`` returns them, by name.
        config: The model's geometry.
        speed: The machine.
        grow: Batches of the recipe in a step.
    """
    plans = []
    for name, (loop_config, stage) in stages.items():
        grown = loop_config.grown(grow)
        batch = stage.batch * grow * grown.accumulate
        flops = sample_flops(stage, config) * batch
        seconds = grown.steps * max(flops / speed.flops, speed.step_seconds * grown.accumulate)
        minutes = min(seconds / 60, grown.minutes)
        plans.append(StagePlan(name, grown.steps, grown.steps * batch, flops, minutes))
    return plans


def rendering_minutes(data: dict[str, Any], config: ModelConfig, speed: Machine) -> float:
    """Return the estimated time of rendering, from the YAML's section ``data``."""
    return _frames(data, config) / speed.frames_per_second / 60


def features_minutes(data: dict[str, Any], config: ModelConfig, speed: Machine) -> float:
    """Return the estimated time of the vision features of all frames, computed once."""
    seconds = max(tower_flops(config) / speed.flops, speed.frame_seconds)
    return _frames(data, config) * seconds / 60


def _frames(data: dict[str, Any], config: ModelConfig) -> int:
    """The number of frames of all clips and videos of the YAML's section ``data``."""
    frames: int = data["clips"] * config.num_frames + data["videos"] * data["video_frames"]
    return frames


def sample_flops(stage: Stage, config: ModelConfig) -> float:
    """Return the operations of one item of a stage's batch, forward and backward."""
    frames = config.num_frames
    if isinstance(stage, DenseStage):
        return TRAINED * (tower_flops(config) + projector_flops(config))
    if isinstance(stage, PackerStage):
        return frames * projector_flops(config) + TRAINED * packer_flops(config)
    if isinstance(stage, EventStage):
        tokens = PROMPT_TOKENS + config.num_fast_tokens
        layers, layer = config.language.num_hidden_layers, _layer_flops(config, tokens, tokens**2)
        decoder = (layers // 2) * TRAINED * layer + (layers - layers // 2) * layer
        return frames * projector_flops(config) + TRAINED * packer_flops(config) + decoder
    assert isinstance(stage, ConversationStage)
    clip = frames * projector_flops(config) + packer_flops(config)
    clip += decoder_flops(config, stage, Modality.VIDEO)
    image = projector_flops(config) + decoder_flops(config, stage, Modality.IMAGE)
    return TRAINED * (stage.video * clip + (1 - stage.video) * image)


def tower_flops(config: ModelConfig) -> float:
    """Return the operations of the vision tower for a frame."""
    vision, tokens = config.vision, config.tokens_per_frame
    width, inner = vision.hidden_size, vision.intermediate_size
    layer = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    return vision.num_layers * layer + 2 * tokens * 3 * config.patch_size**2 * width


def projector_flops(config: ModelConfig) -> float:
    """Return the operations of the projector for a frame."""
    width = config.language.hidden_size
    return 2 * config.tokens_per_frame * (config.vision.hidden_size * width + width**2)


def packer_flops(config: ModelConfig) -> float:
    """Return the operations of the three packers for a clip."""
    width, inner = config.language.hidden_size, config.packer.embed_dim
    projection = 2 * (width * inner + 2 * inner**2)  # a two-layer network, and one of attention
    output = 2 * (inner**2 + inner * width)
    patches = config.num_frames * config.tokens_per_frame
    packed = config.num_frames * config.slow_tokens_per_frame  # by the first packer
    total = 0.0
    for regions, points in (
        (patches, packed),
        (packed, config.num_fast_tokens),
        (packed, config.num_slow_tokens),
    ):
        total += regions * (2 * projection + 4 * inner) + points * (projection + output)
    return total


def decoder_flops(config: ModelConfig, stage: ConversationStage, modality: Modality) -> float:
    """Return the operations of the decoder for a conversation with full lanes."""
    prefix = PROMPT_TOKENS + sum(visual_token_counts(config, modality))
    lanes, tokens = stage.lanes, stage.lane_tokens
    pairs = prefix**2 + lanes * tokens * (prefix + tokens)
    return config.language.num_hidden_layers * _layer_flops(config, prefix + lanes * tokens, pairs)


def _layer_flops(config: ModelConfig, tokens: int, pairs: int) -> float:
    """Return the operations of a decoder layer for tokens, of which ``pairs`` attend."""
    language = config.language
    width = language.hidden_size
    keys = width * language.num_key_value_heads // language.num_attention_heads
    weights = 2 * width**2 + 2 * width * keys + 3 * width * language.intermediate_size
    return 2 * tokens * weights + 4 * width * pairs
