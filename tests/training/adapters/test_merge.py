"""Merging a chain: equal to what peft computes, whatever is wrong with it refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llava_st_ros.cli.__main__ import main
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import CheckpointError
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.training.adapters import merge as merging
from llava_st_ros.training.adapters.merge import merge
from llava_st_ros.training.finetune.lora import LoraSettings, add_adapters, save_adapter
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer, tiny_video_prompt

TOKENIZER = tiny_tokenizer()
CONFIG = tiny_config(TOKENIZER, compat="paper")
TEMPORAL_TOKENS = 6  # <TEMP-INPUT> and its five kin, which stage 2 adds
TABLE = "model.temporal_output_embeddings.weight"


def targets(model: LlavaST) -> list[str]:
    """The decoder's linear layers by their full names, as the published code lists them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name and "vision" not in name
    ]


def logits(model: LlavaST) -> torch.Tensor:
    """Of a video prompt with inputs: every trained part shows in them."""
    config = model.config
    torch.manual_seed(7)
    features = torch.randn(config.num_frames, config.tokens_per_frame, config.vision.hidden_size)
    with torch.inference_mode():
        visual = model.pack(model.project(features), range(config.num_frames))
        prompt = tiny_video_prompt(config)
        embeddings = model.embed_prompt(
            prompt.token_ids,
            visual,
            prompt.inputs,
        )
        return model.logits(model.decode(embeddings[None]))


def train_stage(
    model: LlavaST, folder: Path, seed: int, *, suffix: str = "safetensors", **lora: Any
) -> LlavaST:
    """Wrap by peft, put random numbers where a stage trains, save as the published code does, and
    return what peft itself merges."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": targets(model), **lora}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(seed)
    whole = {}
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
            elif any(part in name for part in ("resampler", "embed_tokens", "put_embeddings")):
                parameter.add_(torch.randn_like(parameter) * 0.1)
                whole[name] = parameter.detach().cpu().clone()
    wrapped.save_pretrained(str(folder), safe_serialization=suffix == "safetensors")
    torch.save(whole, folder / "non_lora_trainables.bin")
    if suffix == "bin":
        found = folder / "adapter_model.safetensors"
        if found.exists():
            torch.save(load_file(found), folder / "adapter_model.bin")
            found.unlink()
    return wrapped.merge_and_unload()


@dataclasses.dataclass(frozen=True)
class Chain:
    """Folders of the stages, and peft's logits after each."""

    folders: tuple[Path, ...]
    logits: tuple[torch.Tensor, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp("chain")
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
    return Chain(folders, tuple(outputs))


@pytest.fixture
def chain(made: Chain, tmp_path: Path) -> tuple[Path, ...]:
    """A copy to spoil."""
    return tuple(Path(shutil.copytree(f, tmp_path / f.name)) for f in made.folders)


def refused(base: Path, adapters: Sequence[Path], out: Path) -> str:
    """The one line of the refusal; nothing is left of the output."""
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


def change_whole(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "non_lora_trainables.bin")


@pytest.mark.parametrize("stages", [1, 2])
def test_logits_equal_pefts_after_every_stage(made: Chain, tmp_path: Path, stages: int) -> None:
    merge(made.folders[0], made.folders[1 : stages + 1], tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "out")
    ours, expected = logits(checkpoint.model), made.logits[stages]
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert (made.logits[stages] - made.logits[stages - 1]).abs().max() > 0.1
    assert checkpoint.config.compat == "paper"
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.special == TOKENIZER.special
    assert not list(tmp_path.glob("*.part"))


def test_shards_hold_what_one_file_holds(made: Chain, tmp_path: Path) -> None:
    seen = []
    merge(made.folders[0], made.folders[1:], tmp_path / "whole")
    merge(
        made.folders[0],
        made.folders[1:],
        tmp_path / "parts",
        shard_bytes=20_000,
        on_tensor=lambda done, total: seen.append((done, total)),
    )
    files = sorted(p.name for p in (tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "parts/model.safetensors.index.json").read_text())
    whole = load_file(tmp_path / "whole/model.safetensors")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert seen == [(i, len(whole)) for i in range(1, len(whole) + 1)]
    parts = load_checkpoint(tmp_path / "parts").model.state_dict()
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_the_stored_dtype_stays_and_the_sum_is_made_in_float32(
    made: Chain, chain: tuple[Path, ...], tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(chain[0])
    save_checkpoint(chain[0], checkpoint.model, CONFIG, TOKENIZER, "bfloat16")
    merge(chain[0], chain[1:2], tmp_path / "out")
    name = "model.layers.1.mlp.down_proj"
    base = load_file(chain[0] / "model.safetensors")[f"{name}.weight"]
    lora = load_file(chain[1] / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.{name}.lora_{x}.weight"].double() for x in "AB")
    found = load_file(tmp_path / "out/model.safetensors")
    expected = (base.double() + 2.0 * b @ a).to(torch.bfloat16)  # alpha 8 over rank 4
    assert found[f"{name}.weight"].dtype == torch.bfloat16
    assert (found[f"{name}.weight"] != expected).float().mean() < 1e-3  # ties of rounding
    assert {t.dtype for t in found.values()} == {torch.bfloat16}


def as_published_stage_1(folder: Path) -> torch.Tensor:
    """No tables and no tokens for coordinates yet, the first linear of which the head has rows;
    returns the head."""
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


def test_stage_1_without_tables_and_coordinate_tokens_gains_them(
    made: Chain, chain: tuple[Path, ...], tmp_path: Path
) -> None:
    head = as_published_stage_1(chain[0])
    merge(chain[0], chain[1:], tmp_path / "out")
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
    expected = head.mean(0).expand(TEMPORAL_TOKENS, -1)  # as the published code starts these rows
    assert torch.allclose(merged[-TEMPORAL_TOKENS:], expected, atol=1e-6)
    stage3 = torch.load(chain[2] / "non_lora_trainables.bin", weights_only=True)
    assert torch.equal(checkpoint.model.state_dict()[TABLE], stage3[f"base_model.model.{TABLE}"])


def test_names_of_any_wrapping_are_understood(
    made: Chain, chain: tuple[Path, ...], tmp_path: Path
) -> None:
    merge(chain[0], chain[1:2], tmp_path / "expected")
    change_lora(chain[1], lambda t: rename(t, ".weight", ".default.weight"))
    change_whole(chain[1], lambda t: rename(t, "base_model.model.", "model."))
    merge(chain[0], chain[1:2], tmp_path / "out")
    expected, found = (load_file(tmp_path / n / "model.safetensors") for n in ("expected", "out"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    for name in list(tensors):
        tensors[name.replace(old, new)] = tensors.pop(name)


def test_modules_to_save_replace(made: Chain, tmp_path: Path) -> None:
    model = load_checkpoint(made.folders[0]).model
    model = train_stage(model, tmp_path / "saved", 5, modules_to_save=["mm_projector"])
    merge(made.folders[0], [tmp_path / "saved"], tmp_path / "out")
    assert torch.allclose(
        logits(load_checkpoint(tmp_path / "out").model), logits(model), rtol=1e-4, atol=1e-4
    )


class Harmful:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["non_lora_trainables.bin", "adapter_model.bin"])
def test_a_pickle_with_code_is_refused_and_not_run(
    chain: tuple[Path, ...], tmp_path: Path, place: str
) -> None:
    torch.save({"a": torch.ones(1), "b": Harmful(tmp_path / "run")}, chain[2] / place)
    line = refused(chain[0], chain[1:], tmp_path / "out")
    assert place in line and "more than tensors" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": "text"}, {3: torch.ones(2)}])
def test_a_pickle_of_other_things_is_refused(
    chain: tuple[Path, ...], tmp_path: Path, content: Any
) -> None:
    torch.save(content, chain[1] / "non_lora_trainables.bin")
    assert "tensors by name and nothing else" in refused(chain[0], chain[1:], tmp_path / "out")


def test_an_old_torch_file_is_read(made: Chain, chain: tuple[Path, ...], tmp_path: Path) -> None:
    path = chain[1] / "non_lora_trainables.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    merge(chain[0], chain[1:2], tmp_path / "out")
    found = logits(load_checkpoint(tmp_path / "out").model)
    assert torch.allclose(found, made.logits[1], rtol=1e-4, atol=1e-4)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
EMBED = "base_model.model.model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{Q}A.weight"), "q_proj without lora_A"),
        (lambda t: t.pop(f"{Q}B.weight"), "q_proj without lora_B"),
        (lambda t: (t.pop(f"{Q}A.weight"), t.pop(f"{Q}B.weight")), "no LoRA tensors for 1 tensor"),
        (lambda t: rename(t, "layers.1.", "layers.7."), "no place in the checkpoint for 7 tensors"),
        (lambda t: t.update({f"{Q}B.weight": torch.ones(33, 4)}), "[33, 32]; expected [32, 32]"),
        (lambda t: t.update({f"{Q}A.weight": torch.ones(5, 32)}), "[4, in] and [out, 4]"),
        (lambda t: t.update({f"{Q}B.bias": torch.ones(32)}), "q_proj.lora_B.bias"),
        (lambda t: t.update({f"{Q}magnitude_vector": torch.ones(32)}), "magnitude_vector"),
        (lambda t: t.update({f"{Q}A.weight": torch.ones(4, 32).long()}), "floating point"),
        (lambda t: t.update({f"{Q}A.weight": torch.full((4, 32), 3e38)}), "not finite as float32"),
        (lambda t: t.clear(), "without a LoRA tensor"),
    ],
)
def test_lora_tensors_that_do_not_fit(
    chain: tuple[Path, ...], tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    change_lora(chain[1], change)
    assert words in refused(chain[0], chain[1:], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora True; expected plain LoRA"),
        ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True}, "lora_bias True"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"an_invention": 3}, "an_invention 3"),
        ({"lora_alpha": "much"}, "lora_alpha 'much'"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj 0"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"peft_type": "NO_MATCH_TEXT"}, "NO_MATCH_TEXT"),
    ],
)
def test_kinds_of_adapter_that_are_not_plain_lora(
    chain: tuple[Path, ...], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    change_json(chain[1] / "adapter_config.json", **change)
    assert words in refused(chain[0], chain[1:], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"base_model.model.model.unheard.weight": torch.ones(2)}), "unheard"),
        (lambda t: t.update({f"base_model.model.{TABLE}": torch.ones(10, 5)}), "[10, 5]"),
        (lambda t: t.update({EMBED: t[EMBED][:-3].clone()}), "in the order of training"),
    ],
)
def test_whole_tensors_that_do_not_fit(
    chain: tuple[Path, ...], tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    change_whole(chain[2], change)
    assert words in refused(chain[0], chain[1:], tmp_path / "out")


def test_orders_that_cannot_be(chain: tuple[Path, ...], tmp_path: Path) -> None:
    one, two, three = chain
    out = tmp_path / "out"
    assert "stage2 is an adapter" in refused(two, [three], out)
    assert "no adapter_config.json" in refused(one, [two, one], out)
    assert "named twice" in refused(one, [two, two], out)
    assert "no adapter;" in refused(one, [], out)
    change_json(three / "adapter_config.json", base_model_name_or_path="runs/stage2")
    assert "trained on stage2, before it" in refused(one, [three, two], out)
    merge(one, [two, three], out)


def test_stages_left_out(chain: tuple[Path, ...], tmp_path: Path) -> None:
    as_published_stage_1(chain[0])
    change_whole(chain[1], lambda t: [t.pop(n) for n in list(t) if "put_embeddings" in n])
    words = refused(chain[0], chain[1:2], tmp_path / "out")
    assert "without coordinate tables" in words


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
def test_files_that_miss_or_are_cut(
    chain: tuple[Path, ...], tmp_path: Path, stage: int, name: str
) -> None:
    path = chain[stage] / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert name in refused(chain[0], chain[1:], tmp_path / "out")
    path.unlink()
    assert name.split(".")[0] in refused(chain[0], chain[1:], tmp_path / "out")
    shutil.rmtree(chain[stage])
    assert chain[stage].name in refused(chain[0], chain[1:], tmp_path / "out")


def test_an_output_that_exists_stays(chain: tuple[Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    assert "exists" in refused(chain[0], chain[1:], out)
    assert (out / "precious").read_text() == "x"


def test_a_full_disk_is_seen_before_and_while_writing(
    chain: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        assert "0.0 GB free for" in refused(chain[0], chain[1:], tmp_path / "out")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "save_file", full)
    assert "No space left" in refused(chain[0], chain[1:], tmp_path / "out")


def test_a_killed_runs_rest_is_replaced(
    made: Chain, chain: tuple[Path, ...], tmp_path: Path
) -> None:
    part = tmp_path / "out.part"
    part.mkdir()
    (part / "model-00001-of-00009.safetensors").write_text("half")
    merge(chain[0], chain[1:], tmp_path / "out")
    assert not part.exists()
    assert [p.name for p in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_strays_of_stage_1_stay(chain: tuple[Path, ...], tmp_path: Path) -> None:
    weights = load_file(chain[0] / "model.safetensors")
    weights["model.image_newline"] = torch.arange(32.0)
    save_file(weights, chain[0] / "model.safetensors")
    (chain[0] / "generation_config.json").write_text('{"eos_token_id": [5]}')
    merge(chain[0], chain[1:], tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("model.image_newline"), torch.arange(32.0))
    assert 5 in load_checkpoint(tmp_path / "out").config.end_token_ids


def test_our_own_stages_adapter_is_such_a_folder(made: Chain, tmp_path: Path) -> None:
    """What `llava-st train finetune` keeps beside its checkpoint."""
    base = load_checkpoint(made.folders[0]).model
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
    merge(made.folders[0], [tmp_path / "adapter"], tmp_path / "out")
    found = logits(load_checkpoint(tmp_path / "out").model)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - made.logits[0]).abs().max() > 0.1


def test_the_command_merges_and_refuses(
    made: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [str(folder) for folder in made.folders]
    assert main(["train", "merge", *stages, "--out", str(tmp_path / "out")]) == 0
    assert torch.allclose(
        logits(load_checkpoint(tmp_path / "out").model), made.logits[2], rtol=1e-4, atol=1e-4
    )
    capsys.readouterr()
    assert main(["train", "merge", *stages, "--out", str(tmp_path / "out")]) == 2
    assert "exists" in capsys.readouterr().err
