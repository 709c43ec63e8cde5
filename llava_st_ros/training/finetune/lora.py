"""LoRA on the language model (by peft), and adapter files in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.training.adapters.files import LORA_TENSORS, NON_LORA_TENSORS

# Every linear layer of the decoder except lm_head, as in the published training.
LANGUAGE_LAYERS = r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
# How peft's wrapper and torch's parametrizations show in parameter names.
_PEFT_PREFIX = "base_model.model."
_PARAMETRIZED, _PLAIN = ".parametrizations.weight.original", ".weight"


@dataclass(frozen=True)
class LoraSettings:
    """LoRA's rank, scale and dropout; the defaults are the published ones.

    The adapters' update is scaled by ``alpha / rank``.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


def add_adapters(model: LlavaST, settings: LoraSettings) -> PeftModel:
    """Freeze ``model`` and wrap it with LoRA adapters, which at first change no output.

    The adapters are float32 even if the layers are in half precision.
    """
    return get_peft_model(model, _config(settings))


def published_adapter_name(name: str) -> str:
    """Map a parameter's name in training to its name in the published adapter files.

    These have the names of peft's wrapper: ``base_model.model.model.embed_tokens.weight``.
    """
    name = name[max(0, name.find(_PEFT_PREFIX)) :]
    return name.replace(_PARAMETRIZED, _PLAIN).replace(".default.weight", ".weight")


def save_adapter(folder: Path, settings: LoraSettings, trained: Mapping[str, Tensor]) -> None:
    """Write trained parameters as an adapter folder in the published layout.

    Args:
        folder: The adapter folder; its files are replaced atomically, one by one.
        settings: The LoRA settings of the training.
        trained: The trained parameters by their names in training: LoRA factors and parameters
            that were trained in full, which go into a file of their own.
    """
    tensors = {published_adapter_name(name): value.contiguous() for name, value in trained.items()}
    lora = sorted(name for name in tensors if ".lora_" in name)
    non_lora = sorted(tensors.keys() - set(lora))
    folder.mkdir(parents=True, exist_ok=True)
    _config(settings).save_pretrained(str(folder))
    for stem, names in ((NON_LORA_TENSORS, non_lora), (LORA_TENSORS, lora)):
        with atomic_file(folder / f"{stem}.safetensors") as part:
            save_file({name: tensors[name] for name in names}, part, metadata={"format": "pt"})


def _config(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=LANGUAGE_LAYERS,
        bias="none",
    )
