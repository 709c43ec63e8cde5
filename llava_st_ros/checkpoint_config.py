"""Conversion between ModelConfig and a checkpoint's config.json.

The published config.json does not contain the sizes of the vision tower, the width of the packer
and the ids of the structural tokens. Checkpoints of this package have them in a section
``llava_st``; for published checkpoints they are derived from the name of the tower, the shapes of
the tensors and the tokenizer.
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
# What this code implements; another value is another network.
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
    """Return the geometry of a checkpoint.

    Args:
        values: The content of config.json.
        shapes: Shapes of the tensors by name.
        special_tokens: The structural tokens of the checkpoint's tokenizer.
        overrides: Keys of the ``llava_st`` section, with precedence over it.

    Raises:
        CheckpointError: A value is missing, unknown or unsupported.
        ConfigError: The sizes do not fit together.
    """
    for name, allowed in FIXED.items():
        if name in values and values[name] not in allowed:
            raise CheckpointError(
                f"config.json: {name} is {values[name]!r}; expected {allowed[0]!r}",
                "only checkpoints of the published LLaVA-ST network are supported",
            )
    section = _mapping({SECTION: values.get(SECTION, {})}, SECTION)
    section = {**section, **(overrides or {})}
    if not {"image_size", "patch_size", "vision"} <= section.keys():
        section = {**_tower(values), **section}

    if "special_tokens" in section:
        special_tokens = _build(SpecialTokens, section["special_tokens"], "special_tokens")
    if special_tokens is None:
        raise CheckpointError(
            "the ids of the structural tokens are unknown: there is no tokenizer, and config.json "
            "has no llava_st.special_tokens",
            "copy the tokenizer files into the checkpoint folder",
        )
    temporal = _integer(values, "num_temporal_tokens")
    return ModelConfig(
        image_size=_integer(section, "image_size"),
        patch_size=_integer(section, "patch_size"),
        vision=_build(VisionConfig, section["vision"], "vision"),
        language=_build(LanguageConfig, _language(values, shapes), "the top level"),
        packer=_build(PackerConfig, _packer(section, shapes), "packer"),
        special_tokens=special_tokens,
        num_temporal_tokens=temporal,
        num_spatial_tokens=_integer(values, "num_spatial_tokens"),
        num_frames=_integer(section, "num_frames") if "num_frames" in section else temporal,
        compat=section.get("compat", "released"),
        end_token_ids=_end_tokens(section.get("end_token_ids", values.get("eos_token_id"))),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError if it is missing, unreadable or not an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}; expected a folder in the Hugging Face layout"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path} as JSON: {error}", "download the file again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} contains a {type(values).__name__}; expected a JSON object")
    return values


def write_config(config: ModelConfig) -> dict[str, Any]:
    """Return the content of config.json: the published keys and the section ``llava_st``."""
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


def _language(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    language = {f.name: values[f.name] for f in fields(LanguageConfig) if f.name in values}
    if "rope_theta" not in language and isinstance(values.get("rope_parameters"), Mapping):
        language["rope_theta"] = values["rope_parameters"].get("rope_theta")
    if len(shapes.get(LM_HEAD, ())) == 2:
        language["vocab_size"] = shapes[LM_HEAD][0]
    return language


def _packer(section: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    packer = dict(_mapping(section, "packer"))
    if "embed_dim" not in packer and len(shapes.get(PACKER_WIDTH, ())) == 2:
        packer["embed_dim"] = shapes[PACKER_WIDTH][0]
    return packer


def _tower(values: Mapping[str, Any]) -> Mapping[str, Any]:
    name = values.get("mm_vision_tower", values.get("vision_tower", ""))
    known = KNOWN_TOWERS.get(str(name).rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise CheckpointError(
            f"config.json: vision tower {name!r} is unknown; "
            f"expected one of {', '.join(KNOWN_TOWERS)}",
            "for another one add a section llava_st with image_size, patch_size and vision "
            "{hidden_size, intermediate_size, num_layers, num_attention_heads}",
        )
    return known


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name, {})
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {name} is {value!r}; expected a JSON object")
    return value


def _integer(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = f"{name} is {value!r}" if name in values else f"{name} is missing"
        raise CheckpointError(f"config.json: {found}; expected a positive integer")
    return value


def _end_tokens(value: Any) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"config.json: the end token ids are {value!r}; expected integers")
    return tuple(ids)


def _build(cls: type, values: Any, section: str) -> Any:
    """Make a dataclass of numbers from a JSON object; check names, types and signs."""
    if not isinstance(values, Mapping):
        values = _mapping({section: values}, section)
    fields_by_name = {f.name: f for f in fields(cls)}
    missing = [n for n, f in fields_by_name.items() if n not in values and f.default is MISSING]
    unknown = [name for name in values if name not in fields_by_name]
    if missing or unknown:
        raise CheckpointError(
            f"config.json: {section} has missing keys {missing} and unknown keys {unknown}; "
            f"expected exactly {', '.join(fields_by_name)}"
        )
    for name, value in values.items():
        is_real = fields_by_name[name].type == "float"
        types = (int, float) if is_real else (int,)
        if isinstance(value, bool) or not isinstance(value, types) or value < 0:
            expected = "a number >= 0" if is_real else "an integer >= 0"
            raise CheckpointError(
                f"config.json: {section}.{name} is {value!r}; expected {expected}"
            )
    return cls(**values)
