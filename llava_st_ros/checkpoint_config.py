"""ModelConfig from a checkpoint's config.json and tensor shapes, and config.json from ModelConfig.

The published config.json says nothing of the vision tower's sizes, the packer's width or the
structural tokens' ids. Our own checkpoints hold them in a section ``llava_st``; for a published one
they come from the tower's name, the tensors' shapes and the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from llava_st_ros.config import (
    LanguageConfig,
    ModelConfig,
    PackerConfig,
    SpecialTokens,
    VisionConfig,
)
from llava_st_ros.errors import CheckpointError

SECTION = "llava_st"
KNOWN_TOWERS: Mapping[str, Mapping[str, Any]] = {
    "siglip-so400m-patch14-384": {
        "image_size": 384,
        "patch_size": 14,
        "vision": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_layers": 26,  # of 27
            "num_attention_heads": 16,
        },
    },
}
# What this code computes; another value means another network.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
    "tie_word_embeddings": (False, None),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": ("fast_slow_resampler",),
    "mm_vision_select_layer": (-2,),
    "use_downsample_image": (False, None),
}
LM_HEAD = "lm_head.weight"
PACKER_WIDTH = "model.vision_resampler.token_packer.devide_attention.to_q.0.weight"


def read_config(
    values: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    special_tokens: SpecialTokens | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """From config.json's ``values`` and the tensors' ``shapes``.

    ``overrides`` has the form of the ``llava_st`` section and wins over it; ``special_tokens`` are
    the tokenizer's. Raises CheckpointError where something is unknown or missing, ConfigError
    where the geometry cannot work.
    """
    for name, allowed in FIXED.items():
        if name in values and values[name] not in allowed:
            raise CheckpointError(
                f"config.json: {name} {values[name]!r}; expected {allowed[0]!r}",
                "this network is not LLaVA-ST as published; use a checkpoint that is",
            )
    section = _mapping({SECTION: values.get(SECTION, {})}, SECTION)
    section = {**section, **(overrides or {})}
    if not {"image_size", "patch_size", "vision"} <= section.keys():
        section = {**_tower(values), **section}

    packer = dict(_mapping(section, "packer"))
    if "embed_dim" not in packer and len(shapes.get(PACKER_WIDTH, ())) == 2:
        packer["embed_dim"] = shapes[PACKER_WIDTH][0]
    language = {f.name: values[f.name] for f in fields(LanguageConfig) if f.name in values}
    if "rope_theta" not in language and isinstance(values.get("rope_parameters"), Mapping):
        language["rope_theta"] = values["rope_parameters"].get("rope_theta")
    if len(shapes.get(LM_HEAD, ())) == 2:
        language["vocab_size"] = shapes[LM_HEAD][0]
    if "special_tokens" in section:
        special_tokens = _build(SpecialTokens, section["special_tokens"], "special_tokens")
    if special_tokens is None:
        raise CheckpointError(
            "no ids of the structural tokens"
            "; expected a tokenizer beside the weights or llava_st.special_tokens in config.json",
            "add the tokenizer's files",
        )
    temporal = _integer(values, "num_temporal_tokens")
    return ModelConfig(
        image_size=_integer(section, "image_size"),
        patch_size=_integer(section, "patch_size"),
        vision=_build(VisionConfig, section["vision"], "vision"),
        language=_build(LanguageConfig, language, "the top level"),
        packer=_build(PackerConfig, packer, "packer"),
        special_tokens=special_tokens,
        num_temporal_tokens=temporal,
        num_spatial_tokens=_integer(values, "num_spatial_tokens"),
        num_frames=_integer(section, "num_frames") if "num_frames" in section else temporal,
        compat=section.get("compat", "released"),
        end_token_ids=_end_tokens(section.get("end_token_ids", values.get("eos_token_id"))),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError where it is missing, not JSON, or not an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no {path.name} in {path.parent}; expected a Hugging Face-layout folder"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {error}; expected readable JSON", "fetch the file again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON {type(values).__name__}; expected a JSON object")
    return values


def write_config(config: ModelConfig) -> dict[str, Any]:
    """config.json's content: the published keys and the section ``llava_st``."""
    sizes = asdict(config)
    language, spatial, temporal = (
        sizes.pop(name) for name in ("language", "num_spatial_tokens", "num_temporal_tokens")
    )
    return {
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        **language,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "mm_vision_tower": "siglip",
        "mm_hidden_size": config.vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": "fast_slow_resampler",
        "mm_perceiver_latents": config.slow_tokens_per_frame,
        "mm_perceiver_latents_fast": config.fast_tokens_per_frame,
        "mm_vision_select_layer": -2,
        "num_spatial_tokens": spatial,
        "num_temporal_tokens": temporal,
        SECTION: sizes,
    }


def _tower(values: Mapping[str, Any]) -> Mapping[str, Any]:
    name = values.get("mm_vision_tower", values.get("vision_tower", ""))
    known = KNOWN_TOWERS.get(str(name).rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise CheckpointError(
            f"config.json: a vision tower {name!r} of unknown sizes"
            f"; expected one of {', '.join(KNOWN_TOWERS)}, or its sizes",
            "add a section llava_st with image_size, patch_size and vision {hidden_size, "
            "intermediate_size, num_layers, num_attention_heads}",
        )
    return known


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name, {})
    if not isinstance(found, Mapping):
        raise CheckpointError(f"config.json: {name} {found!r}; expected a JSON object")
    return found


def _integer(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = "no " + name if name not in values else f"{name} {value!r}"
        raise CheckpointError(
            f"config.json: {found}; expected a positive integer", "add it to config.json"
        )
    return value


def _end_tokens(value: Any) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"config.json: end token ids {value!r}; expected integers")
    return tuple(ids)


def _build(cls: type, values: Any, where: str) -> Any:
    """A frozen dataclass of numbers from a JSON object, every name and type checked."""
    if not isinstance(values, Mapping):
        values = _mapping({where: values}, where)
    known = {f.name: f for f in fields(cls)}
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING]
    unknown = [name for name in values if name not in known]
    if missing or unknown:
        raise CheckpointError(
            f"config.json: {where} with missing {missing} and unknown {unknown}"
            f"; expected exactly {', '.join(known)}",
        )
    for name, value in values.items():
        real = known[name].type == "float"
        allowed = (int, float) if real else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed) or value < 0:
            raise CheckpointError(
                f"config.json: {where}.{name} {value!r}"
                + "; expected "
                + ("a number" if real else "an integer, not negative"),
            )
    return cls(**values)
