"""Checkpoints with random weights in the layout of the published 7B.

The layout is that of the official weights: tensor names, shards with an index, bfloat16, tensors
that are not loaded, Qwen2's tokenizer files followed by LLaVA-ST's added tokens, and a config.json
that leaves the same settings to the tensors and the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers.implementations import ByteLevelBPETokenizer

from llava_st_ros.checkpoint_config import (
    SECTION,
    read_checkpoint_json,
    read_config,
    write_config,
)
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import CheckpointError
from llava_st_ros.export.plan import GEOMETRIES
from llava_st_ros.files.json_files import read_json
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.text.answer_format import FIXED_WORDS
from llava_st_ros.text.tokenizer import (
    CHAT_END,
    CHAT_START,
    STRUCTURE,
)

VISION = "model.vision_tower.vision_tower.vision_model"
ADDED_BY_QWEN = ("<|endoftext|>", CHAT_START, CHAT_END)
NORM = re.compile(r"norm\d?\.|\.ln_[qkv]\.")
EMBEDDING = re.compile(r"(embed_tokens|input_embeddings|position_embedding)\.weight$")
FROM_THE_TENSORS = ("special_tokens", "packer", "compat")


def published_geometry() -> ModelConfig:
    """Return the geometry of the official LLaVA-ST-Qwen2-7B."""
    return read_config(read_checkpoint_json(GEOMETRIES / "llava-st-qwen2-7b.json"), {})


def write_published_layout(
    folder: Path, config: ModelConfig, *, shard_bytes: int, tokenizer: bool = True, seed: int = 0
) -> None:
    """Write a checkpoint.

    Args:
        folder: The folder to create.
        config: The model's geometry.
        shard_bytes: Maximum size of a weights file.
        tokenizer: Whether to write the tokenizer. Without it, config.json holds the structural
            tokens' ids, as in a parity case.
        seed: Seed of the weights.
    """
    folder.mkdir(parents=True)
    values = write_config(config)
    if tokenizer:
        _write_tokenizer(folder, config)
        values[SECTION] = {k: v for k, v in values[SECTION].items() if k not in FROM_THE_TENSORS}
    values["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    torch.manual_seed(seed)
    state = {name: _random(name, shape) for name, shape in _shapes(config)}
    save_torch_state_dict(state, folder, max_shard_size=shard_bytes)


def _shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every tensor of the published files, with those that are not loaded.

    These are the vision tower's last layer and post_layernorm, and ``image_newline``.
    """
    with torch.device("meta"):
        state = LlavaST(config).state_dict()
    for name, value in state.items():
        yield name, tuple(value.shape)
        if name.startswith(f"{VISION}.encoder.layers.0."):
            last = config.vision.num_layers
            yield name.replace("layers.0.", f"layers.{last}."), tuple(value.shape)
    for leaf in ("weight", "bias"):
        yield f"{VISION}.post_layernorm.{leaf}", (config.vision.hidden_size,)
    yield "model.image_newline", (config.language.hidden_size,)


def _random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return weights that keep activations near 1 and make every part affect the output."""
    values = torch.empty(shape, dtype=torch.bfloat16)
    if NORM.search(name):
        return values.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
    if len(shape) == 1:
        return values.normal_(std=0.1)
    if EMBEDDING.search(name):
        return values.normal_(std=0.5)
    return values.normal_(std=(values.numel() / shape[0]) ** -0.5)


def _write_tokenizer(folder: Path, config: ModelConfig) -> None:
    """Write vocab.json, merges.txt and added_tokens.json with the ids of ``config``.

    The vocabulary contains the words of answers and is filled up with unreachable tokens.
    """
    words = config.special_tokens.im_start - len(ADDED_BY_QWEN)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        iter([" ".join(FIXED_WORDS)] * 2), vocab_size=words, min_frequency=2
    )
    trained.save_model(str(folder))
    path = folder / "vocab.json"
    vocabulary = read_json(path, CheckpointError)
    vocabulary |= {f"filler{index}": index for index in range(len(vocabulary), words)}
    path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    added = (*ADDED_BY_QWEN, *STRUCTURE.values(), *config.coordinates.tokens())
    text = json.dumps({token: words + index for index, token in enumerate(added)})
    (folder / "added_tokens.json").write_text(text, encoding="utf-8")
