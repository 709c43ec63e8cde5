"""Conversion between ModelConfig and a checkpoint's config.json.

The published config.json does not contain the sizes of the vision tower, the width of the packer
and the ids of the structural tokens. Checkpoints of this package have them in a section
``llava_st``; for published checkpoints they are derived from the name of the tower, the shapes of
the tensors and the tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

from llava_st_ros.calibration import Calibration
from llava_st_ros.config import (
    LanguageConfig,
    ModelConfig,
    PackerConfig,
    SpecialTokens,
    VisionConfig,
)
from llava_st_ros.errors import CheckpointError, ConfigError, shown
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.schema import build

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
    "use_sliding_window": (False, None),
    "tie_word_embeddings": (False, None),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": ("fast_slow_resampler",),
    "mm_vision_select_layer": (-2,),
    "use_downsample_image": (False, None),
    "quantization_config": (None,),
}
# Where transformers keeps settings of rotary positions: up to version 4, and from version 5 on.
ROPE_SECTIONS = ("rope_scaling", "rope_parameters")
FULL_ATTENTION = "full_attention"
_ONLY_PUBLISHED = "only checkpoints of the published LLaVA-ST network are supported"
_LAYER = re.compile(r"model\.(vision_tower\.vision_tower\.vision_model\.encoder\.)?layers\.(\d+)\.")
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
                f"config.json: {name} is {shown(values[name])}; expected {allowed[0]!r}",
                _ONLY_PUBLISHED,
            )
    rope_theta = _rope_theta(values)
    _check_attention(values)
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
        language=_build(LanguageConfig, _language(values, shapes, rope_theta), "the top level"),
        packer=_build(PackerConfig, _packer(section, shapes), "packer"),
        special_tokens=special_tokens,
        num_temporal_tokens=temporal,
        num_spatial_tokens=_integer(values, "num_spatial_tokens"),
        num_frames=_integer(section, "num_frames") if "num_frames" in section else temporal,
        compat=section.get("compat", "released"),
        end_token_ids=_end_tokens(section.get("end_token_ids", values.get("eos_token_id"))),
        calibration=build(
            Calibration, section.get("calibration", {}), "config.json: calibration", CheckpointError
        ),
    )


def read_checkpoint_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint folder.

    NaN and infinity are accepted: Hugging Face's files may have them in settings that are not used
    here, and ``read_config`` checks the numbers that are used.

    Raises:
        CheckpointError: The file is missing, unreadable or not a JSON object.
    """
    if path.parent.is_dir() and not path.exists():
        raise CheckpointError(
            f"{path.parent} has no {path.name}; expected a folder in the Hugging Face layout"
        )
    values: dict[str, Any] = read_json(path, CheckpointError, "download the file again", nan=True)
    return values


def check_layers(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the numbers of layers with those of the tensors, before a network is built.

    Args:
        config: The checkpoint's config.
        shapes: The shapes of the checkpoint's tensors, by name.

    Raises:
        CheckpointError: The tensors have fewer layers than config.json or more; the vision tower's
            may have the last one, which the network leaves out (``mm_vision_select_layer``).
    """
    found = {"vision tower": 0, "decoder": 0}
    for name in shapes:
        if match := _LAYER.match(name):
            part = "vision tower" if match[1] else "decoder"
            found[part] = max(found[part], int(match[2]) + 1)
    for part, expected, left_out in (
        ("vision tower", config.vision.num_layers, 1),
        ("decoder", config.language.num_hidden_layers, 0),
    ):
        if not expected <= found[part] <= expected + left_out:
            raise CheckpointError(
                f"the weights have {found[part]} layers of the {part}; config.json has {expected}",
                "use the config.json that belongs to the weights",
            )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """Return the content of config.json: the published keys and the section ``llava_st``."""
    sizes = asdict(config)
    language, spatial, temporal = (
        sizes.pop(name) for name in ("language", "num_spatial_tokens", "num_temporal_tokens")
    )
    if config.calibration == Calibration():
        del sizes["calibration"]
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


def without_calibration(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json for other weights: a calibration belongs to its own."""
    section = values.get(SECTION)
    if not isinstance(section, Mapping):
        return dict(values)
    return {**values, SECTION: {k: v for k, v in section.items() if k != "calibration"}}


def _language(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_theta: Any
) -> dict[str, Any]:
    language = {f.name: values[f.name] for f in fields(LanguageConfig) if f.name in values}
    if rope_theta is not None:
        language["rope_theta"] = rope_theta
    if len(shapes.get(LM_HEAD, ())) == 2:
        language["vocab_size"] = shapes[LM_HEAD][0]
    return language


def _packer(section: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    packer = dict(_mapping(section, "packer"))
    if "embed_dim" not in packer and len(shapes.get(PACKER_WIDTH, ())) == 2:
        packer["embed_dim"] = shapes[PACKER_WIDTH][0]
    return packer


def _rope_theta(values: Mapping[str, Any]) -> Any:
    """The base of the rotary positions, unchecked; None if config.json does not give it.

    Raises:
        CheckpointError: The positions are scaled or partial, in any spelling, or two bases differ.
    """
    bases = {"rope_theta": values.get("rope_theta")}
    for name in ROPE_SECTIONS:
        section = values.get(name) or {}
        if not isinstance(section, Mapping):
            raise CheckpointError(f"config.json: {name} is {shown(section)}; expected an object")
        if section.keys() == {FULL_ATTENTION}:  # by type of layer
            section = section[FULL_ATTENTION] or {}
        for key, value in section.items():
            if key == "rope_theta":
                bases[f"{name}.rope_theta"] = value
            elif not _is_plain_rope(key, value):
                raise CheckpointError(
                    f"config.json: {name} has {key} {shown(value)}; expected plain rotary "
                    "positions",
                    _ONLY_PUBLISHED,
                )
    if not _is_plain_rope("partial_rotary_factor", values.get("partial_rotary_factor")):
        raise CheckpointError(
            f"config.json: partial_rotary_factor is {shown(values['partial_rotary_factor'])}; "
            "expected 1",
            _ONLY_PUBLISHED,
        )
    given = {name: base for name, base in bases.items() if base is not None}
    numbers = {float(b) if isinstance(b, (int, float)) else str(b) for b in given.values()}
    if len(numbers) > 1:
        listed = ", ".join(f"{name} {shown(base)}" for name, base in given.items())
        raise CheckpointError(f"config.json has different bases of the rotary positions: {listed}")
    return next(iter(given.values()), None)


def _is_plain_rope(key: str, value: Any) -> bool:
    """Whether a setting of rotary positions leaves them as this code computes them."""
    allowed: Mapping[str, tuple[Any, ...]] = {
        "rope_type": (None, "default"),
        "type": (None, "default"),
        "partial_rotary_factor": (None, 1),
    }
    return value in allowed.get(key, (None,)) and not isinstance(value, bool)


def _check_attention(values: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless every layer of the decoder is full attention of usual width."""
    types = values.get("layer_types")
    if types is not None and (
        not isinstance(types, list) or any(kind != FULL_ATTENTION for kind in types)
    ):
        others = [k for k in types if k != FULL_ATTENTION] if isinstance(types, list) else [types]
        raise CheckpointError(
            f"config.json: layer_types has {shown(others[0])}; expected {FULL_ATTENTION!r} only",
            _ONLY_PUBLISHED,
        )
    if types is not None and len(types) != values.get("num_hidden_layers"):
        raise CheckpointError(
            f"config.json: layer_types has {len(types)} layers, num_hidden_layers is "
            f"{shown(values.get('num_hidden_layers'))}"
        )
    head, width, heads = (
        values.get(name) for name in ("head_dim", "hidden_size", "num_attention_heads")
    )
    is_sized = isinstance(width, int) and isinstance(heads, int)  # _build checks them
    is_number = isinstance(head, (int, float)) and not isinstance(head, bool)
    if head is not None and is_sized and not (is_number and head * heads == width):
        raise CheckpointError(
            f"config.json: head_dim is {shown(head)}; expected hidden_size / num_attention_heads, "
            f"{shown(width)} / {shown(heads)}",
            _ONLY_PUBLISHED,
        )


def _tower_name(path: str) -> str:
    """The model's name in a hub name, a folder, or a snapshot folder of the hub's cache."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if len(parts) > 2 and parts[-2] == "snapshots":  # models--ORG--NAME/snapshots/REVISION
        parts = parts[:-2]
    return parts[-1].rsplit("--", 1)[-1] if parts else ""


def _tower(values: Mapping[str, Any]) -> Mapping[str, Any]:
    name = values.get("mm_vision_tower", values.get("vision_tower", ""))
    known = KNOWN_TOWERS.get(_tower_name(str(name)))
    if known is None:
        raise CheckpointError(
            f"config.json: vision tower {shown(name)} is unknown; "
            f"expected one of {', '.join(KNOWN_TOWERS)}",
            "for another one add a section llava_st with image_size, patch_size and vision "
            "{hidden_size, intermediate_size, num_layers, num_attention_heads}",
        )
    return known


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name, {})
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {name} is {shown(value)}; expected a JSON object")
    return value


def _integer(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = f"{name} is {shown(value)}" if name in values else f"{name} is missing"
        raise CheckpointError(f"config.json: {found}; expected a positive integer")
    return value


def _end_tokens(value: Any) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(
            f"config.json: the end token ids are {shown(value)}; expected integers"
        )
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
        is_number = isinstance(value, types) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            expected = "a number >= 0" if is_real else "an integer >= 0"
            raise CheckpointError(
                f"config.json: {section}.{name} is {shown(value)}; expected {expected}"
            )
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"config.json: {error.problem}") from error
