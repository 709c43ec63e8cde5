"""LoRA on the language model, by peft, in the layout of the published adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.model.llava_st import LlavaST

# Every linear layer of the decoder but lm_head, as published.
LANGUAGE_LAYERS = r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
ADAPTER, NON_LORA = "adapter_model.safetensors", "non_lora_trainables.safetensors"
# How a module that wraps another, or a parametrisation, shows in a parameter's name.
_INSIDE_TUNER = "base_model.model."
_PARAMETRISED = (".parametrizations.weight.original", ".weight")


@dataclass(frozen=True)
class LoraSettings:
    """``alpha`` / ``rank`` scales what the adapters add; the defaults are the published ones."""

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


def add_adapters(model: LlavaST, settings: LoraSettings) -> PeftModel:
    """Wrap ``model``, whose own parameters are frozen; the adapters begin without effect.

    They are float32 where the layers are of a half type.
    """
    return get_peft_model(model, _config(settings))


def published(name: str) -> str:
    """A parameter's name in the module that was trained -> as the published files spell it.

    They name parameters as peft's wrapper does: ``base_model.model.model.embed_tokens.weight``.
    """
    name = name[max(0, name.find(_INSIDE_TUNER)) :]
    return name.replace(*_PARAMETRISED).replace(".default.weight", ".weight")


def save_adapter(folder: Path, settings: LoraSettings, trained: Mapping[str, Tensor]) -> None:
    """Write a stage's ``trained`` parameters (by their names in training) as published: adapters
    beside their config, the rest as non_lora_trainables. A file appears when it is whole."""
    named = {published(name): value.contiguous() for name, value in trained.items()}
    adapters = {name: value for name, value in named.items() if ".lora_" in name}
    folder.mkdir(parents=True, exist_ok=True)
    _config(settings).save_pretrained(str(folder))
    for file, tensors in ((NON_LORA, named.keys() - adapters.keys()), (ADAPTER, adapters.keys())):
        with atomic_file(folder / file) as part:
            save_file({n: named[n] for n in sorted(tensors)}, part, metadata={"format": "pt"})


def _config(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=LANGUAGE_LAYERS,
        bias="none",
    )
