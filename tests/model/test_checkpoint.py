"""Checkpoints: which load, how invalid ones are rejected, and that saving loses nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from llava_st_ros.checkpoint_config import LM_HEAD, PACKER_WIDTH, read_config, write_config
from llava_st_ros.config import ModelConfig, SpecialTokens
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.model import checkpoint
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer

VISION = "model.vision_tower.vision_tower.vision_model."
TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    config = tiny_config(TOKENIZER, compat="paper", end_token_ids=(3,))
    save_checkpoint(folder, tiny_model(config), config, TOKENIZER, "float32")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to modify."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shard(folder: Path) -> dict[str, str]:
    """Split the weights over two files with an index; returns the weight map."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    half = len(names) // 2
    files = {"model-00001-of-00002.safetensors": names[:half]}
    files["model-00002-of-00002.safetensors"] = names[half:]
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    weight_map = {name: file for file, part in files.items() for name in part}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


def rejected(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_model_can_be_loaded(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    config = tiny_config(TOKENIZER, compat="paper")
    original = tiny_model(config)
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert all(
        not tensor.is_meta for tensor in (*loaded.model.parameters(), *loaded.model.buffers())
    )
    assert loaded.config.end_token_ids == (3, TOKENIZER.encode("<|im_end|>")[0])
    assert loaded.config.packer == config.packer
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.special == TOKENIZER.special
    pixels = torch.randn(1, 3, 38, 38)
    with torch.inference_mode():
        rows = torch.randn(1, 6, 32)
        assert torch.equal(loaded.model.encode_images(pixels), original.encode_images(pixels))
        assert torch.equal(loaded.model.decode(rows), original.decode(rows))


def test_a_sharded_checkpoint_equals_a_single_file(folder: Path) -> None:
    single = load_checkpoint(folder).model.state_dict()
    shard(folder)
    shards = load_checkpoint(folder).model.state_dict()
    assert single.keys() == shards.keys()
    assert all(torch.equal(single[name], shards[name]) for name in single)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_hold_the_rounded_weights(folder: Path, dtype: str) -> None:
    checkpoint = load_checkpoint(folder)
    save_checkpoint(folder, checkpoint.model, checkpoint.config, checkpoint.tokenizer, dtype)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {getattr(torch, dtype)}
    again = load_checkpoint(folder)
    assert again.config == checkpoint.config
    for name, value in checkpoint.model.state_dict().items():
        loaded = again.model.state_dict()[name]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, value.to(getattr(torch, dtype)).float()), name


def test_a_parametrized_table_is_saved_as_its_value(tmp_path: Path) -> None:
    class Double(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * 2

    config = tiny_config()
    model = tiny_model(config)
    table = model.table(Axis.TIME, "output")
    expected = table.weight.detach() * 2
    parametrize.register_parametrization(table, "weight", Double())
    save_checkpoint(tmp_path, model, config, None, "float32")
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded.model.table(Axis.TIME, "output").weight, expected)
    assert loaded.tokenizer is None


def test_a_failed_save_keeps_the_old_checkpoint(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    checkpoint = load_checkpoint(folder)
    with torch.no_grad():
        checkpoint.model.lm_head.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not finite as float16"):
        save_checkpoint(folder, checkpoint.model, checkpoint.config, TOKENIZER, "float16")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(CheckpointError, match="dtype is 'int8'"):
        save_checkpoint(folder, checkpoint.model, checkpoint.config, TOKENIZER, "int8")


def test_unused_tensors_of_published_files_are_ignored(folder: Path) -> None:
    layer = f"{VISION}encoder.layers."

    def add(weights: dict[str, torch.Tensor]) -> None:
        weights["model.image_newline"] = torch.zeros(32)
        weights[VISION + "post_layernorm.weight"] = torch.zeros(24)
        weights[VISION + "head.probe"] = torch.zeros(1, 1, 24)
        for name in [n for n in weights if n.startswith(f"{layer}1.")]:
            weights[name.replace(f"{layer}1.", f"{layer}2.")] = weights[name].clone()

    change_weights(folder, add)
    assert len(load_checkpoint(folder).model.model.vision_tower.encoder.layers) == 2


def test_overrides_replace_settings_of_the_config(folder: Path) -> None:
    assert load_checkpoint(folder).config.compat == "paper"
    changed = load_checkpoint(folder, overrides={"compat": "released", "num_frames": 5}).config
    assert (changed.compat, changed.num_frames) == ("released", 5)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda w: w.pop("model.norm.weight"), ["missing 1 tensor (model.norm.weight)"]),
        (lambda w: w.update(surprise=torch.zeros(1)), ["extra 1 tensor (surprise)"]),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(31)}),
            ["misshapen 1 tensor", "model.norm.weight [31] for [32]"],
        ),
        (
            lambda w: [w.pop(name) for name in list(w) if "token_packer_slow" in name],
            ["missing", "tensors (model.vision_resampler.token_packer_slow", ", ...)"],
        ),
        (
            lambda w: w.update({f"{VISION}encoder.layers.x.bias": torch.zeros(1)}),
            ["extra 1 tensor"],
        ),
        (
            lambda w: w.update({"lm_head.weight": torch.zeros(7, 32)}),
            ["<TEMP-000>", "7, as in lm_head.weight"],
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}),
            ["model.norm.weight is of type I8"],
        ),
    ],
)
def test_wrong_tensors_are_named(folder: Path, change: Any, names: list[str]) -> None:
    change_weights(folder, change)
    message = rejected(folder)
    for name in names:
        assert name in message


def test_missing_and_damaged_files_are_named(saved: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(saved, tmp_path / name))

    assert "no folder" in rejected(tmp_path / "nowhere")
    folder = copy("truncated")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "truncated or not a safetensors file" in rejected(folder)
    (folder / "model.safetensors").write_bytes(b"")
    assert "truncated or not a safetensors file" in rejected(folder)
    folder = copy("no-config")
    (folder / "config.json").unlink()
    assert "no config.json" in rejected(folder)
    folder = copy("bad-config")
    (folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in rejected(folder)
    (folder / "config.json").write_text("[]")
    assert "a JSON object" in rejected(folder)
    folder = copy("no-weights")
    (folder / "model.safetensors").unlink()
    assert "has no weights" in rejected(folder)


def test_a_pickle_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    ran = folder / "ran"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
    message = rejected(folder)
    assert "pytorch_model.bin" in message
    assert "can run any code" in message
    assert not ran.exists()


def test_errors_of_an_index_are_named(folder: Path) -> None:
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.more": "model-00002-of-00002.safetensors"})
    assert "1 tensor (model.more)" in rejected(folder)
    write_index(folder, {**weight_map, "lm_head.weight": "../elsewhere.safetensors"})
    assert "'../elsewhere.safetensors'" in rejected(folder)
    write_index(folder, [])
    assert "weight_map" in rejected(folder)
    write_index(folder, weight_map)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors, which does not exist" in rejected(folder)


def test_a_tokenizer_of_another_vocabulary_is_rejected(folder: Path) -> None:
    tiny_tokenizer(num_temporal=5).save(folder)
    assert "time tokens: 5" in rejected(folder)
    tiny_tokenizer(num_spatial=100).save(folder)
    assert "height and width tokens: 100" in rejected(folder)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"llava_st": {}, "mm_vision_tower": "someone/else"},
            "vision tower 'someone/else' is unknown",
        ),
        ({"llava_st": 3}, "llava_st is 3"),
        ({"num_temporal_tokens": None}, "num_temporal_tokens is None"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"hidden_size": 40}, "misshapen"),
        ({"num_hidden_layers": 3}, "2 layers of the decoder; config.json has 3"),
        ({"num_hidden_layers": 1}, "2 layers of the decoder; config.json has 1"),
    ],
)
def test_an_invalid_config_is_named(folder: Path, changes: dict[str, Any], names: str) -> None:
    change_config(folder, **changes)
    assert names in rejected(folder)


def test_an_invalid_geometry_is_named(folder: Path) -> None:
    section = json.loads((folder / "config.json").read_text())["llava_st"]
    change_config(folder, llava_st={**section, "image_size": 48})
    with pytest.raises(ConfigError, match="a grid of 12"):
        load_checkpoint(folder)
    change_config(folder, llava_st={**section, "num_frames": 7})
    with pytest.raises(ConfigError, match="7 frames"):
        load_checkpoint(folder)
    change_config(folder, llava_st={**section, "vision": {**section["vision"], "color": 1}})
    assert "['color']" in rejected(folder)


def test_config_json_holds_every_setting() -> None:
    config = tiny_config(TOKENIZER, compat="paper", end_token_ids=(3, 4))
    values = json.loads(json.dumps(write_config(config)))
    assert read_config(values, {}) == config


PUBLISHED = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
    "hidden_act": "silu",
    "eos_token_id": 151645,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": "fast_slow_resampler",
    "mm_vision_select_layer": -2,
    "num_spatial_tokens": 100,
    "num_temporal_tokens": 100,
}


def test_the_published_geometry_needs_no_section() -> None:
    special = SpecialTokens(*range(151646, 151660))
    shapes = {LM_HEAD: (151660, 3584), PACKER_WIDTH: (1024, 3584)}
    config: ModelConfig = read_config(PUBLISHED, shapes, special)
    assert (config.grid, config.num_fast_tokens, config.num_slow_tokens) == (27, 900, 1620)
    assert config.coordinates.text_rows == 151660  # lm_head's rows, not config.json's
    assert config.vocabulary == 151960
    assert (config.compat, config.num_frames, config.end_token_ids) == ("released", 100, (151645,))
    assert (config.packer.embed_dim, config.packer.num_heads) == (1024, 8)
    assert (config.vision.hidden_size, config.vision.num_layers) == (1152, 26)
    with pytest.raises(CheckpointError, match="structural tokens"):
        read_config(PUBLISHED, shapes)


# What transformers 5 writes for the same network.
FIVE = {
    "rope_theta": None,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "layer_types": ["full_attention"] * 28,
    "sliding_window": None,
    "use_sliding_window": False,
    "head_dim": 128,
    "dtype": "bfloat16",
}
SHAPES = {LM_HEAD: (151660, 3584), PACKER_WIDTH: (1024, 3584)}
SPECIAL = SpecialTokens(*range(151646, 151660))


@pytest.mark.parametrize(
    "changes",
    [
        FIVE,
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}}},
        {"rope_scaling": {"type": "default"}},
        {"rope_scaling": {"rope_type": "default", "rope_theta": 1000000}},
        {"rope_scaling": {}, "partial_rotary_factor": 1.0},
        {"mm_vision_tower": "/c/hub/models--google--siglip-so400m-patch14-384/snapshots/9fdffc5/"},
        {"mm_vision_tower": "C:\\models\\siglip-so400m-patch14-384"},
        {"initializer_range": float("nan")},  # not used
    ],
)
def test_every_spelling_of_the_published_network_is_read(changes: dict[str, Any]) -> None:
    plain = read_config(PUBLISHED, SHAPES, SPECIAL)
    assert read_config({**PUBLISHED, **changes}, SHAPES, SPECIAL) == plain


def test_the_base_of_the_rotary_positions_is_read_in_both_spellings() -> None:
    section = {"rope_theta": 5e5, "rope_type": "default"}
    values = {**PUBLISHED, "rope_parameters": section, "rope_theta": None}
    assert read_config(values, SHAPES, SPECIAL).language.rope_theta == 5e5
    with pytest.raises(CheckpointError, match="different bases of the rotary positions"):
        read_config({**PUBLISHED, "rope_parameters": section}, SHAPES, SPECIAL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_parameters": {"type": "yarn", "rope_theta": 1e6}}, "type 'yarn'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": {"full_attention": {"rope_type": "llama3"}}}, "'llama3'"),
        (
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_theta": 1e4}}},
            "rope_parameters has full_attention",
        ),
        ({"rope_scaling": {"type": "default", "mrope_section": [16, 24]}}, "mrope_section"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"layer_types": ["full_attention"] * 27 + ["sliding_attention"]}, "'sliding_attention'"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types has 3 layers"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"head_dim": 64}, "head_dim is 64"),
        ({"head_dim": {}}, "head_dim is a mapping of 0"),
        ({"head_dim": "8"}, "head_dim is '8'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": 1e-9}, "rope_theta is 1e-09"),
        ({"rms_norm_eps": 2**31}, "rms_norm_eps is 2147483648"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ({"hidden_size": 10**299}, "hidden_size"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"num_key_value_heads": 3}, "28 heads and 3 key and value heads"),
        ({"llava_st": {"packer": {"embed_dim": 1024, "spatial_region": 0}}}, "spatial_region is 0"),
        ({"llava_st": {"packer": {"embed_dim": 1024, "temporal_region": 0}}}, "region is 0"),
        ({"llava_st": {"packer": {"embed_dim": 1024, "num_heads": 0}}}, "num_heads is 0"),
        ({"llava_st": {"image_size": 10**8}}, "image_size"),
    ],
)
def test_what_the_code_does_not_implement_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=message) as error:
        read_config({**PUBLISHED, **changes}, SHAPES, SPECIAL)
    assert str(error.value).startswith(("config.json", "the model's image_size"))
    assert len(str(error.value)) < 300


def test_layers_are_compared_with_the_tensors_before_a_network_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(folder, num_hidden_layers=500)
    monkeypatch.setattr(checkpoint, "LlavaST", None)  # would take seconds to build
    assert "2 layers of the decoder; config.json has 500" in rejected(folder)


def test_a_vision_tower_with_more_layers_than_are_left_out_is_rejected(folder: Path) -> None:
    layer = f"{VISION}encoder.layers."

    def add(weights: dict[str, torch.Tensor]) -> None:
        for name in [n for n in weights if n.startswith(f"{layer}1.")]:
            for number in (2, 3):
                weights[name.replace(f"{layer}1.", f"{layer}{number}.")] = weights[name].clone()

    change_weights(folder, add)
    assert "4 layers of the vision tower; config.json has 2" in rejected(folder)


@pytest.mark.parametrize("file", ["x" * 300, "a\0b", "../a", "\ud800", "", 3])
def test_a_file_of_the_index_with_an_impossible_name_is_named(folder: Path, file: object) -> None:
    (folder / "model.safetensors").unlink()
    write_index(folder, {"lm_head.weight": file})
    assert "expected a file in the same folder" in rejected(folder)


def test_json_with_a_byte_order_mark_is_read(folder: Path) -> None:
    for path in folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_checkpoint(folder).tokenizer is not None
