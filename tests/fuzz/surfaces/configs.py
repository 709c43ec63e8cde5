"""A checkpoint's config.json and the YAML files of training, changed in bytes and in values."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import safe_open

from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.checkpoint_config import check_layers, read_checkpoint_json, read_config
from llava_st_ros.config import ModelConfig
from llava_st_ros.model.checkpoint import check_tensors
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.training.finetune.settings import read_finetune_settings
from llava_st_ros.training.tiny.pipeline import model_config, read_stage
from llava_st_ros.training.tiny.settings import read_settings
from support.paths import ROOT

CHECKPOINT = ROOT / "models/llava-st-tiny"
YAML_FILES = {
    "tiny": ROOT / "config/training/tiny.yaml",
    "finetune": ROOT / "config/training/7b/multi_task.yaml",
}
# Networks that the code does not implement, in the spellings of transformers 4 and 5.
OTHER_NETWORKS: tuple[dict[str, Any], ...] = (
    {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
    {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}},
    {"rope_parameters": {"type": "llama3", "rope_theta": 1e6}},
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    {"partial_rotary_factor": 0.5},
    {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    {"use_sliding_window": True, "sliding_window": 128},
    {"layer_types": ["sliding_attention"] * 4},
    {"hidden_act": "gelu"},
    {"tie_word_embeddings": True},
    {"mm_projector_type": "linear"},
    {"mm_vision_select_layer": -1},
)
YAML_TEXTS = (
    "&a [*a]",
    "!!int x",
    "!!python/object/apply:os.system [true]",
    "2026-99-99",
    "0x" + "f" * 400,
    "{[a, b]: c}",
    "[" * 2000,
    "? {a: b}\n: c",
    "- a\nb: c",
    "!!binary x",
    "---\na: 1\n---\nb: 2",
)


class Configs(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._json = (CHECKPOINT / "config.json").read_bytes()
        self._yaml = {kind: path.read_bytes() for kind, path in YAML_FILES.items()}
        with safe_open(str(CHECKPOINT / "model.safetensors"), framework="np") as file:
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        self._tokenizer = Tokenizer.load(CHECKPOINT)
        self._base = read_config(json.loads(self._json), self._shapes)

    def make(self, rng: np.random.Generator) -> Case:
        kind = int(rng.integers(6))
        if kind == 0:
            data, step = mutate_bytes(rng, self._json)
            return Case(("json", data), f"config.json, {step}")
        if kind in (1, 2):
            values, step = mutate_json(rng, json.loads(self._json))
            text = json.dumps(values).encode()
            return Case(("json", text), f"config.json, {step}")
        if kind == 3:
            other = OTHER_NETWORKS[int(rng.integers(len(OTHER_NETWORKS)))]
            text = json.dumps({**json.loads(self._json), **other}).encode()
            return Case(("other", text), f"config.json, another network: {other}")
        name = sorted(self._yaml)[int(rng.integers(len(self._yaml)))]
        if kind == 4:
            values, step = mutate_json(rng, yaml.safe_load(self._yaml[name]))
            return Case((name, json.dumps(values).encode()), f"{name}, {step}")
        data = self._yaml[name]
        if rng.integers(2):
            key = str(rng.choice(["seed:", "steps:", "batch:", "mix:", "lora:"]))
            text = str(rng.choice(YAML_TEXTS))
            changed = data.decode().replace(key, f"{key} {text} #", 1)
            return Case((name, changed.encode()), f"{name}, {key} {text[:40]}")
        data, step = mutate_bytes(rng, data)
        return Case((name, data), f"{name}, {step}")

    def check(self, data: Any) -> None:
        kind, content = data
        if kind in self._yaml:
            path = self.folder / "run.yaml"
            path.write_bytes(content)
            if kind == "tiny":
                self._check_run(path)
            else:
                _check_numbers(read_finetune_settings(path))
            return
        path = self.folder / "config.json"
        path.write_bytes(content)
        config = read_config(read_checkpoint_json(path), self._shapes)
        check_layers(config, self._shapes)
        with torch.device("meta"):
            check_tensors(config, LlavaST(config), self._shapes)
        if kind == "other":
            raise WrongAcceptanceError("a network that the code does not implement")
        _check_numbers(config)
        self._check_sizes(config)

    def _check_run(self, path: Path) -> None:
        settings = read_settings(path)
        for name, values in settings["stages"].items():
            _check_numbers(read_stage(name, values))
        _check_numbers(model_config(settings["model"], self._tokenizer))

    def _check_sizes(self, config: ModelConfig) -> None:
        """What the tensors determine is as before; what they do not is plausible."""
        base = self._base
        same = (
            (config.vision.hidden_size, base.vision.hidden_size),
            (config.language.hidden_size, base.language.hidden_size),
            (config.language.num_hidden_layers, base.language.num_hidden_layers),
            (config.packer.embed_dim, base.packer.embed_dim),
            (config.num_temporal_tokens, base.num_temporal_tokens),
            (config.num_spatial_tokens, base.num_spatial_tokens),
        )
        if any(found != expected for found, expected in same):
            raise WrongAcceptanceError(f"sizes that the tensors do not have: {same}")
        # The last layer of a vision tower may be left out.
        if not base.vision.num_layers - 1 <= config.vision.num_layers <= base.vision.num_layers:
            raise WrongAcceptanceError(
                f"vision layers that the tensors do not have: {config.vision}"
            )
        heads = config.vision.num_attention_heads, config.language.num_attention_heads
        if min(*heads, config.packer.num_heads, config.packer.spatial_region) < 1:
            raise WrongAcceptanceError("no heads or no region")
        if not 0 < config.language.rms_norm_eps < 1 or not config.language.rope_theta >= 1:
            raise WrongAcceptanceError(f"{config.language}")


def _check_numbers(value: Any) -> None:
    """No setting is NaN or infinite."""
    if is_dataclass(value):
        for field in fields(value):
            if getattr(value, field.name) != field.default:  # infinite minutes are the default
                _check_numbers(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            _check_numbers(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise WrongAcceptanceError(f"a setting is {value}")


SURFACE = Configs
