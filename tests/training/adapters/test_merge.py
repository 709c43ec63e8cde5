"""Merging adapters: the result equals peft's, and every invalid input is rejected in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llava_st_ros.calibration import Calibration
from llava_st_ros.cli.__main__ import main
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model import tensor_writer
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.training.adapters.merge import merge
from llava_st_ros.training.finetune.lora import LoraSettings, add_adapters, save_adapter
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer, tiny_video_prompt

pytestmark = pytest.mark.slow

TOKENIZER = tiny_tokenizer()
CONFIG = tiny_config(TOKENIZER, compat="paper")
TEMPORAL_TOKENS = 6  # <TEMP-INPUT> and the five tokens like it, which stage 2 adds
TABLE = "model.temporal_output_embeddings.weight"


def targets(model: LlavaST) -> list[str]:
    """The decoder's linear layers by their full names, as the published code lists them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name and "vision" not in name
    ]


def logits(model: LlavaST) -> torch.Tensor:
    """The logits of a video prompt with inputs, which every trained part affects."""
    config = model.config
    torch.manual_seed(7)
    features = torch.randn(config.num_frames, config.tokens_per_frame, config.vision.hidden_size)
    with torch.inference_mode():
        visual = model.pack(model.project(features), range(config.num_frames))
        prompt = tiny_video_prompt(config)
        embeddings = model.embed_prompt(prompt.token_ids, visual, prompt.inputs)
        return model.logits(model.decode(embeddings[None]))


def train_stage(
    model: LlavaST, folder: Path, seed: int, *, suffix: str = "safetensors", **lora: Any
) -> LlavaST:
    """Replace a stage of training: wrap ``model`` with peft, randomize what a stage trains and save
    it as the published code does. Returns the model that peft itself merges."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": targets(model), **lora}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(seed)
    non_lora = {}
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
            elif any(part in name for part in ("resampler", "embed_tokens", "put_embeddings")):
                parameter.add_(torch.randn_like(parameter) * 0.1)
                non_lora[name] = parameter.detach().cpu().clone()
    wrapped.save_pretrained(str(folder), safe_serialization=suffix == "safetensors")
    torch.save(non_lora, folder / "non_lora_trainables.bin")
    if suffix == "bin":
        found = folder / "adapter_model.safetensors"
        if found.exists():
            torch.save(load_file(found), folder / "adapter_model.bin")
            found.unlink()
    return wrapped.merge_and_unload()


@dataclasses.dataclass(frozen=True)
class Stages:
    """The folders of three stages, and the logits of peft's model after each."""

    folders: tuple[Path, ...]
    logits: tuple[torch.Tensor, ...]


@pytest.fixture(scope="module")
def trained_stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    root = tmp_path_factory.mktemp("stages")
    model = tiny_model(CONFIG)
    save_checkpoint(root / "stage1", model, CONFIG, TOKENIZER, "float32")
    outputs = [logits(model)]
    model = train_stage(model, root / "stage2", 2)
    outputs.append(logits(model))
    model = train_stage(
        model,
        root / "stage3",
        3,
        suffix="bin",
        use_rslora=True,
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3},
        alpha_pattern={"down_proj": 5, "q_proj": 7},
    )
    outputs.append(logits(model))
    folders = tuple(root / f"stage{i}" for i in (1, 2, 3))
    return Stages(folders, tuple(outputs))


@pytest.fixture
def stages(trained_stages: Stages, tmp_path: Path) -> tuple[Path, ...]:
    """A copy of the folders to modify."""
    return tuple(Path(shutil.copytree(f, tmp_path / f.name)) for f in trained_stages.folders)


def rejected(base: Path, adapters: Sequence[Path], out: Path) -> str:
    """The error's one line; also checks that nothing of the output is left."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(CheckpointError) as error:
        merge(base, adapters, out)
    assert "\n" not in str(error.value)
    assert sorted(out.parent.iterdir()) == before
    return str(error.value)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_lora(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def change_non_lora(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "non_lora_trainables.bin")


@pytest.mark.parametrize("count", [1, 2])
def test_logits_equal_those_of_peft_after_every_stage(
    trained_stages: Stages, tmp_path: Path, count: int
) -> None:
    merge(trained_stages.folders[0], trained_stages.folders[1 : count + 1], tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "out")
    ours, expected = logits(checkpoint.model), trained_stages.logits[count]
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert (trained_stages.logits[count] - trained_stages.logits[count - 1]).abs().max() > 0.1
    assert checkpoint.config.compat == "paper"
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.special == TOKENIZER.special
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_shards_and_a_single_file_hold_the_same_tensors(
    trained_stages: Stages, tmp_path: Path
) -> None:
    seen = []
    merge(trained_stages.folders[0], trained_stages.folders[1:], tmp_path / "single")
    merge(
        trained_stages.folders[0],
        trained_stages.folders[1:],
        tmp_path / "shards",
        shard_bytes=20_000,
        on_tensor=lambda done, total: seen.append((done, total)),
    )
    files = sorted(p.name for p in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    single = load_file(tmp_path / "single/model.safetensors")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in single.values())
    assert seen == [(i, len(single)) for i in range(1, len(single) + 1)]
    shards = load_checkpoint(tmp_path / "shards").model.state_dict()
    assert shards.keys() == single.keys()
    assert all(torch.equal(shards[name], single[name]) for name in single)


def test_the_stored_dtype_is_kept_and_updates_are_added_in_float32(
    trained_stages: Stages, stages: tuple[Path, ...], tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(stages[0])
    save_checkpoint(stages[0], checkpoint.model, CONFIG, TOKENIZER, "bfloat16")
    merge(stages[0], stages[1:2], tmp_path / "out")
    name = "model.layers.1.mlp.down_proj"
    base = load_file(stages[0] / "model.safetensors")[f"{name}.weight"]
    lora = load_file(stages[1] / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.{name}.lora_{x}.weight"].double() for x in "AB")
    found = load_file(tmp_path / "out/model.safetensors")
    expected = (base.double() + 2.0 * b @ a).to(torch.bfloat16)  # alpha 8 over rank 4
    assert found[f"{name}.weight"].dtype == torch.bfloat16
    assert (found[f"{name}.weight"] != expected).float().mean() < 1e-3  # ties of rounding
    assert {t.dtype for t in found.values()} == {torch.bfloat16}


def as_published_stage_1(folder: Path) -> torch.Tensor:
    """Remove what the published stage 1 does not have: the coordinate tables and tokens, and the
    rows of embeddings and lm_head that stage 2 adds. Returns lm_head's weight."""
    weights = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in weights.items() if "put_embeddings" not in n}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        kept[name] = kept[name][:-TEMPORAL_TOKENS].clone()
    save_file(kept, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    del values["num_temporal_tokens"], values["num_spatial_tokens"]
    del values["llava_st"]["special_tokens"]
    (folder / "config.json").write_text(json.dumps(values))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    coordinates = ("<TEMP-", "<HEIGHT-", "<WIDTH-")
    tokenizer["added_tokens"] = [
        t for t in tokenizer["added_tokens"] if not t["content"].startswith(coordinates)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return kept["lm_head.weight"]


def test_missing_tables_and_coordinate_tokens_are_added_to_stage_1(
    trained_stages: Stages, stages: tuple[Path, ...], tmp_path: Path
) -> None:
    head = as_published_stage_1(stages[0])
    merge(stages[0], stages[1:], tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.config == dataclasses.replace(
        CONFIG, end_token_ids=checkpoint.config.end_token_ids
    )
    assert isinstance(checkpoint.tokenizer, Tokenizer)
    assert checkpoint.tokenizer.encode("<TEMP-003><WIDTH-001>") == [
        CONFIG.coordinates.ids(Axis.TIME)[3],
        CONFIG.coordinates.ids(Axis.WIDTH)[1],
    ]
    merged = checkpoint.model.lm_head.weight
    assert torch.equal(merged[:-TEMPORAL_TOKENS], head)  # frozen in every stage
    expected = head.mean(0).expand(
        TEMPORAL_TOKENS, -1
    )  # as the published code initializes these rows
    assert torch.allclose(merged[-TEMPORAL_TOKENS:], expected, atol=1e-6)
    stage3 = torch.load(stages[2] / "non_lora_trainables.bin", weights_only=True)
    assert torch.equal(checkpoint.model.state_dict()[TABLE], stage3[f"base_model.model.{TABLE}"])


def test_parameter_names_of_other_wrappers_are_recognized(
    trained_stages: Stages, stages: tuple[Path, ...], tmp_path: Path
) -> None:
    merge(stages[0], stages[1:2], tmp_path / "expected")
    change_lora(stages[1], lambda t: rename(t, ".weight", ".default.weight"))
    change_non_lora(stages[1], lambda t: rename(t, "base_model.model.", "model."))
    merge(stages[0], stages[1:2], tmp_path / "out")
    expected, found = (load_file(tmp_path / n / "model.safetensors") for n in ("expected", "out"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    for name in list(tensors):
        tensors[name.replace(old, new)] = tensors.pop(name)


def test_modules_to_save_replace_the_base_weights(trained_stages: Stages, tmp_path: Path) -> None:
    model = load_checkpoint(trained_stages.folders[0]).model
    model = train_stage(model, tmp_path / "saved", 5, modules_to_save=["mm_projector"])
    merge(trained_stages.folders[0], [tmp_path / "saved"], tmp_path / "out")
    assert torch.allclose(
        logits(load_checkpoint(tmp_path / "out").model), logits(model), rtol=1e-4, atol=1e-4
    )


class Harmful:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["non_lora_trainables.bin", "adapter_model.bin"])
def test_a_pickle_with_code_is_rejected_and_not_run(
    stages: tuple[Path, ...], tmp_path: Path, name: str
) -> None:
    torch.save({"a": torch.ones(1), "b": Harmful(tmp_path / "run")}, stages[2] / name)
    line = rejected(stages[0], stages[1:], tmp_path / "out")
    assert name in line and "more than tensors" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": "text"}, {3: torch.ones(2)}])
def test_a_pickle_of_anything_but_named_tensors_is_rejected(
    stages: tuple[Path, ...], tmp_path: Path, content: Any
) -> None:
    torch.save(content, stages[1] / "non_lora_trainables.bin")
    assert "named tensors and nothing else" in rejected(stages[0], stages[1:], tmp_path / "out")


def test_a_file_in_the_legacy_torch_format_is_read(
    trained_stages: Stages, stages: tuple[Path, ...], tmp_path: Path
) -> None:
    path = stages[1] / "non_lora_trainables.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    merge(stages[0], stages[1:2], tmp_path / "out")
    found = logits(load_checkpoint(tmp_path / "out").model)
    assert torch.allclose(found, trained_stages.logits[1], rtol=1e-4, atol=1e-4)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
EMBED = "base_model.model.model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{Q}A.weight"), "q_proj has no lora_A"),
        (lambda t: t.pop(f"{Q}B.weight"), "q_proj has no lora_B"),
        (lambda t: (t.pop(f"{Q}A.weight"), t.pop(f"{Q}B.weight")), "no LoRA tensors for 1 tensor"),
        (
            lambda t: rename(t, "layers.1.", "layers.7."),
            "the checkpoint has no parameter for 7 tensors",
        ),
        (lambda t: t.update({f"{Q}B.weight": torch.ones(33, 4)}), "[33, 32]; expected [32, 32]"),
        (lambda t: t.update({f"{Q}A.weight": torch.ones(5, 32)}), "[4, in] and [out, 4]"),
        (lambda t: t.update({f"{Q}B.bias": torch.ones(32)}), "q_proj.lora_B.bias"),
        (lambda t: t.update({f"{Q}magnitude_vector": torch.ones(32)}), "magnitude_vector"),
        (lambda t: t.update({f"{Q}A.weight": torch.ones(4, 32).long()}), "floating point"),
        (lambda t: t.update({f"{Q}A.weight": torch.full((4, 32), 3e38)}), "not finite as float32"),
        (lambda t: t.clear(), "contains no LoRA tensor"),
    ],
)
def test_lora_tensors_that_do_not_fit_are_rejected(
    stages: tuple[Path, ...], tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    change_lora(stages[1], change)
    assert words in rejected(stages[0], stages[1:], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"an_invention": 3}, "an_invention is 3"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj is 0"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"peft_type": "NOTHING"}, "NOTHING"),
    ],
)
def test_adapters_other_than_plain_lora_are_rejected(
    stages: tuple[Path, ...], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    change_json(stages[1] / "adapter_config.json", **change)
    assert words in rejected(stages[0], stages[1:], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"base_model.model.model.unknown.weight": torch.ones(2)}), "unknown"),
        (lambda t: t.update({f"base_model.model.{TABLE}": torch.ones(10, 5)}), "[10, 5]"),
        (lambda t: t.update({EMBED: t[EMBED][:-3].clone()}), "a later stage never removes tokens"),
    ],
)
def test_full_tensors_that_do_not_fit_are_rejected(
    stages: tuple[Path, ...], tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    change_non_lora(stages[2], change)
    assert words in rejected(stages[0], stages[1:], tmp_path / "out")


def test_adapters_in_an_impossible_order_are_rejected(
    stages: tuple[Path, ...], tmp_path: Path
) -> None:
    one, two, three = stages
    out = tmp_path / "out"
    assert "stage2 is an adapter" in rejected(two, [three], out)
    assert "no adapter_config.json" in rejected(one, [two, one], out)
    assert "an adapter is named twice" in rejected(one, [two, two], out)
    assert "no adapter;" in rejected(one, [], out)
    change_json(three / "adapter_config.json", base_model_name_or_path="runs/stage2")
    assert "was trained on runs/stage2, and" in rejected(one, [three, two], out)
    merge(one, [two, three], out)


def test_a_missing_stage_is_rejected(stages: tuple[Path, ...], tmp_path: Path) -> None:
    as_published_stage_1(stages[0])
    change_non_lora(stages[1], lambda t: [t.pop(n) for n in list(t) if "put_embeddings" in n])
    words = rejected(stages[0], stages[1:2], tmp_path / "out")
    assert "has coordinate tables" in words and "neither" in words


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (0, "config.json"),
        (0, "model.safetensors"),
        (1, "adapter_model.safetensors"),
        (1, "non_lora_trainables.bin"),
        (1, "adapter_config.json"),
    ],
)
def test_missing_and_truncated_files_are_named(
    stages: tuple[Path, ...], tmp_path: Path, stage: int, name: str
) -> None:
    path = stages[stage] / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert name in rejected(stages[0], stages[1:], tmp_path / "out")
    path.unlink()
    assert name.split(".")[0] in rejected(stages[0], stages[1:], tmp_path / "out")
    shutil.rmtree(stages[stage])
    assert stages[stage].name in rejected(stages[0], stages[1:], tmp_path / "out")


def test_an_existing_output_folder_is_kept(stages: tuple[Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    assert "exists" in rejected(stages[0], stages[1:], out)
    assert (out / "precious").read_text() == "x"


def test_a_full_disk_is_reported_before_and_while_writing(
    stages: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        assert "the disk has 0.0 GB free; the weights need" in rejected(
            stages[0], stages[1:], tmp_path / "out"
        )

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_writer, "save_file", full)
    assert "No space left" in rejected(stages[0], stages[1:], tmp_path / "out")


def test_what_a_killed_run_left_is_removed(stages: tuple[Path, ...], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    killed = """
import os, pathlib, signal, sys
from llava_st_ros.atomic_files import atomic_folder
with atomic_folder(pathlib.Path(sys.argv[1])) as part:
    (part / "model-00001-of-00009.safetensors").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "out")], check=False)
    assert len(sorted(tmp_path.iterdir())) == len(before) + 1
    merge(stages[0], stages[1:], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])
    assert [p.name for p in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_unused_tensors_of_stage_1_are_kept(stages: tuple[Path, ...], tmp_path: Path) -> None:
    weights = load_file(stages[0] / "model.safetensors")
    weights["model.image_newline"] = torch.arange(32.0)
    save_file(weights, stages[0] / "model.safetensors")
    (stages[0] / "generation_config.json").write_text('{"eos_token_id": [5]}')
    merge(stages[0], stages[1:], tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("model.image_newline"), torch.arange(32.0))
    assert 5 in load_checkpoint(tmp_path / "out").config.end_token_ids


def test_a_calibration_of_stage_1_is_dropped(stages: tuple[Path, ...], tmp_path: Path) -> None:
    config = stages[0] / "config.json"
    section = json.loads(config.read_text())["llava_st"]
    fitted = {"standing": {"video": {"match": {"scale": 2.0}}}}
    change_json(config, llava_st={**section, "calibration": fitted})
    assert load_checkpoint(stages[0]).config.calibration.standing.video.match.scale == 2.0
    merge(stages[0], stages[1:], tmp_path / "out")
    assert load_checkpoint(tmp_path / "out").config.calibration == Calibration()


def test_an_adapter_of_our_own_stages_can_be_merged(trained_stages: Stages, tmp_path: Path) -> None:
    """The adapter that `llava-st train finetune` writes."""
    base = load_checkpoint(trained_stages.folders[0]).model
    settings = LoraSettings(rank=4, alpha=8, dropout=0.0)
    wrapped = add_adapters(base, settings)
    torch.manual_seed(11)
    trained = {}
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "resampler" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
                trained[name] = parameter.detach().clone()
    save_adapter(tmp_path / "adapter", settings, trained)
    expected = logits(wrapped.merge_and_unload())
    merge(trained_stages.folders[0], [tmp_path / "adapter"], tmp_path / "out")
    found = logits(load_checkpoint(tmp_path / "out").model)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - trained_stages.logits[0]).abs().max() > 0.1


def test_the_command_merges_once_and_rejects_an_existing_output(
    trained_stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(folder) for folder in trained_stages.folders]
    assert main(["train", "merge", *folders, "--out", str(tmp_path / "out")]) == 0
    assert torch.allclose(
        logits(load_checkpoint(tmp_path / "out").model),
        trained_stages.logits[2],
        rtol=1e-4,
        atol=1e-4,
    )
    capsys.readouterr()
    assert main(["train", "merge", *folders, "--out", str(tmp_path / "out")]) == 2
    assert "exists" in capsys.readouterr().err


def test_stages_whose_folders_have_the_same_name_are_merged(
    trained_stages: Stages, tmp_path: Path
) -> None:
    """The Trainer of transformers names the folder of every stage after its last step."""
    folders = []
    for number, source in enumerate(trained_stages.folders, start=1):
        folder = tmp_path / f"run{number}" / "checkpoint-1000"
        shutil.copytree(source, folder)
        if folders:
            change_json(folder / "adapter_config.json", base_model_name_or_path=str(folders[-1]))
        folders.append(folder)
    merge(folders[0], folders[1:], tmp_path / "out")
    merged = load_checkpoint(tmp_path / "out").model
    torch.testing.assert_close(logits(merged), trained_stages.logits[2], rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="name the adapters in the order of training"):
        merge(folders[0], folders[:0:-1], tmp_path / "out2")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"target_modules": "([a-z"}, "is not a regular expression"),
        ({"rank_pattern": {"*q_proj": 3}}, "is not a regular expression"),
        ({"alpha_pattern": [3]}, "alpha_pattern"),
        ({"r": 1e400}, "r is inf"),
        ({"r": 10**400}, "r is inf"),
        ({"target_modules": [1]}, "LoRA tensors for .* which adapter_config.json does not target"),
        ({"exclude_modules": ".*q_proj"}, "adapter_config.json does not target"),
        ({"target_modules": 5}, "adapter_config.json"),
        ({"peft_type": ["LORA"]}, "adapter_config.json"),
    ],
)
def test_an_invalid_adapter_config_is_one_line(
    stages: tuple[Path, ...], tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    change_json(stages[1] / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError, match=found) as error:
        merge(stages[0], stages[1:], tmp_path / "out")
    assert "\n" not in str(error.value)


def test_an_adapter_config_with_a_byte_order_mark_is_read(
    stages: tuple[Path, ...], tmp_path: Path
) -> None:
    path = stages[1] / "adapter_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    merge(stages[0], stages[1:2], tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_two_tensors_for_one_parameter_are_rejected(
    stages: tuple[Path, ...], tmp_path: Path
) -> None:
    def repeat(tensors: dict[str, torch.Tensor]) -> None:
        key = next(iter(tensors))
        other = key.removeprefix("base_model.") if "base_model." in key else f"base_model.{key}"
        tensors[other] = tensors[key] + 1

    change_non_lora(stages[1], repeat)
    assert "has two tensors for" in rejected(stages[0], stages[1:], tmp_path / "out")


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_pickle_is_one_line(stages: tuple[Path, ...], tmp_path: Path, seed: int) -> None:
    path = stages[1] / "non_lora_trainables.bin"
    data = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    start = data.index(b"data.pkl")
    for position in torch.randint(start, start + 600, (4,), generator=generator).tolist():
        data[position] = int(torch.randint(0, 256, (1,), generator=generator))
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):  # never another error
        merge(stages[0], stages[1:], tmp_path / "out")


def test_a_tensor_that_repeats_one_element_is_rejected(
    stages: tuple[Path, ...], tmp_path: Path
) -> None:
    torch.save({TABLE: torch.zeros(1).expand(2**40)}, stages[1] / "non_lora_trainables.bin")
    with pytest.raises(CheckpointError, match="has not all elements of"):
        merge(stages[0], stages[1:], tmp_path / "out")
