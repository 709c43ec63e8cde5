"""Fine-tuning on ST-Align records at a tiny scale: the loss, the trained parameters, the files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file

from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.records import Modality
from llava_st_ros.training.adapters.merge import merge
from llava_st_ros.training.finetune.settings import FinetuneSettings, read_finetune_settings
from llava_st_ros.training.finetune.stage import finetune, loop_config, make_batches, make_step
from llava_st_ros.training.finetune.step import FinetuneStep
from llava_st_ros.training.loop import run_state
from llava_st_ros.training.st_align.batches import RecordBatch
from llava_st_ros.training.st_align.sampler import RecordFile
from support.paths import ROOT
from support.st_align_files import change, write_files
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow

STAGE: dict[str, Any] = {
    "mix": [{"json": "videos.json"}, {"json": "pictures.json"}],
    "rates": {"adapters": 1e-2, "packers": 1e-2, "embeddings": 1e-2, "tables": 1e-2},
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
    "batch": 4,
    "records_per_process": 4,
    "epochs": 2,
    "dtype": "float32",
    "chunk": 4,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random ``checkpoint`` in the paper's mode and ``data`` to train on."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer, compat="paper")
    save_checkpoint(folder / "checkpoint", tiny_model(config), config, tokenizer, "float32")
    write_files(folder / "data")
    return folder


def settings(folder: Path, **changes: Any) -> tuple[Path, FinetuneSettings]:
    path = folder / "stage.yaml"
    path.write_text(yaml.safe_dump({**STAGE, **changes}))
    return path, read_finetune_settings(path)


def make_step_and_batch(
    base: Path, tmp_path: Path, **changes: Any
) -> tuple[FinetuneStep, RecordBatch]:
    _, stage = settings(tmp_path, **changes)
    loaded = load_checkpoint(base / "checkpoint")
    torch.manual_seed(0)
    step = make_step(loaded.model, stage)
    batches = make_batches(loaded, stage, base / "data", tmp_path, Accelerator())
    return step, batches(0)


def loss(step: FinetuneStep, batch: RecordBatch) -> torch.Tensor:
    term = step(batch)["answer_loss"]
    return term.numerator / term.denominator


@pytest.mark.parametrize("compat", ["paper", "released"])
def test_the_loss_of_a_batch_is_the_mean_over_its_records(
    base: Path, tmp_path: Path, compat: str
) -> None:
    """A padded batch of images and videos, several turns each, against a computation by hand."""
    step, batch = make_step_and_batch(base, tmp_path)
    step.model.config = dataclasses.replace(step.model.config, compat=compat)
    model, config = step.model.eval(), step.model.config
    assert {c.prompt.modality for c in batch.conversations} == set(Modality)
    expected = []
    for conversation, frames in zip(batch.conversations, batch.frames):
        with torch.no_grad():
            images = frames.images[frames.indices].astype(np.float32).transpose(0, 3, 1, 2)
            encoded = model.encode_images(torch.from_numpy(images / 127.5 - 1))
            prompt = conversation.prompt
            if prompt.modality is Modality.IMAGE:
                visual = model.image_tokens(encoded)[0]
            else:
                visual = model.pack(encoded, range(10))
            embedded = model.embed_prompt(prompt.token_ids, visual, prompt.inputs)
            log_probability = model.logits(model.decode(embedded[None]))[0].log_softmax(-1).numpy()
        losses = []
        for position in np.flatnonzero(conversation.labels_mask):
            token, value = prompt.token_ids[position], conversation.coordinate_values[position]
            if np.isnan(value):
                losses.append(-log_probability[position - 1, token])
                continue
            offset, rows = config.coordinates.offset(Axis.TIME), 10
            if token >= config.coordinates.offset(Axis.WIDTH):
                offset, rows = config.coordinates.offset(Axis.WIDTH), 12
            elif token >= config.coordinates.offset(Axis.HEIGHT):
                offset, rows = config.coordinates.offset(Axis.HEIGHT), 12
            row = float(value) * (rows - 1)
            low, high = int(np.floor(row)), int(np.ceil(row))
            mixed = (1 - (row - low)) * log_probability[position - 1, offset + low]
            losses.append(-(mixed + (row - low) * log_probability[position - 1, offset + high]))
        expected.append(np.mean(losses))
    with torch.no_grad():
        assert loss(step, batch).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_only_the_named_parts_are_trained_and_one_batch_can_be_overfitted(
    base: Path, tmp_path: Path
) -> None:
    step, batch = make_step_and_batch(base, tmp_path)
    before = {name: p.detach().clone() for name, p in step.named_parameters()}
    trained = [p for p in step.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        value = loss(step, batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.6 * losses[0]
    changed = {n for n, p in step.named_parameters() if not torch.equal(p, before[n])}
    parts = ("lora_A", "lora_B", "vision_resampler", "embed_tokens", "put_embeddings")
    assert {part for part in parts if any(part in name for name in changed)} == set(parts)
    assert all(any(part in name for part in parts) for name in changed)
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    adapted = {n.split(".lora_")[0].rsplit(".", 1)[1] for n in changed if ".lora_" in n}
    assert adapted == set(kinds)
    assert not any("vision_tower" in name or "lm_head" in name for name in changed)


def test_neighboring_rows_receive_gradients(base: Path, tmp_path: Path) -> None:
    step, batch = make_step_and_batch(base, tmp_path)
    loss(step, batch).backward()
    (table,) = (
        p for n, p in step.named_parameters() if "temporal_output" in n and n.endswith("original")
    )
    assert (table.grad.abs().sum(1) > 0).all()


def test_recomputing_activations_changes_no_gradient(base: Path, tmp_path: Path) -> None:
    gradients = []
    for recompute in (False, True):
        step, batch = make_step_and_batch(base, tmp_path, gradient_checkpointing=recompute)
        loss(step, batch).backward()
        gradients.append({n: p.grad for n, p in step.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_the_first_stage_trains_packers_and_embeddings_without_lora(
    base: Path, tmp_path: Path
) -> None:
    step, _ = make_step_and_batch(base, tmp_path, rates={"packers": 1e-4, "embeddings": 1e-4})
    names = {name for name, p in step.named_parameters() if p.requires_grad}
    assert all("vision_resampler" in n or "embed_tokens" in n for n in names)
    assert len([n for n in names if "embed_tokens" in n]) == 1
    assert not any("lora" in name for name, _ in step.named_parameters())


def test_frozen_weights_in_half_precision_keep_their_dtype(base: Path, tmp_path: Path) -> None:
    _, stage = settings(tmp_path)
    model = load_checkpoint(base / "checkpoint", dtype=torch.bfloat16).model
    step = make_step(model, stage)
    types = {name: p.dtype for name, p in step.named_parameters()}
    for name, parameter in step.named_parameters():
        expected = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert types[name] is expected, name
    batch = make_step_and_batch(base, tmp_path)[1]
    with torch.autocast("cpu", torch.bfloat16):
        loss(step, batch).backward()


def run(base: Path, folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Run a complete stage; returns its log."""
    path, _ = settings(folder, **changes)
    finetune(path, base / "checkpoint", base / "data", folder / "work", folder / "out")
    return log(folder)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "work/log.jsonl").read_text().splitlines()]


def test_a_stage_writes_a_checkpoint_and_an_adapter(base: Path, tmp_path: Path) -> None:
    lines = run(base, tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]  # two epochs of six records, four per step
    before = load_checkpoint(base / "checkpoint").model
    after = load_checkpoint(tmp_path / "out")
    assert after.tokenizer is not None
    same = {
        name
        for name, value in after.model.state_dict().items()
        if torch.equal(value, before.state_dict()[name])
    }
    assert {n for n in same if "vision_tower" in n or "lm_head" in n or "mm_projector" in n} == {
        n for n in before.state_dict() if "vision_tower" in n or "lm_head" in n or "mm_proj" in n
    }
    assert not any("_proj.weight" in n and n.startswith("model.layers") for n in same)
    # Merging the adapter that it wrote gives the same checkpoint.
    merge(base / "checkpoint", [tmp_path / "work/adapter"], tmp_path / "merged")
    merged = load_checkpoint(tmp_path / "merged").model
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, after.model.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_the_merged_checkpoint_has_the_logits_of_base_and_adapters(
    base: Path, tmp_path: Path
) -> None:
    run(base, tmp_path)
    _, stage = settings(tmp_path)
    # The trained step, from the run's last saved state, against the checkpoint that it wrote.
    step, batch = make_step_and_batch(base, tmp_path)
    trained = load_file(tmp_path / f"work/state/stage-{3:07d}" / run_state.WEIGHTS_FILE)
    assert not step.load_state_dict(trained, strict=False).unexpected_keys
    plain = make_step(
        load_checkpoint(tmp_path / "out").model,
        dataclasses.replace(stage, rates={"packers": 1.0}),
    )
    logits = []
    for one in (step.eval(), plain.eval()):
        with torch.no_grad():
            visual = [
                one.visual_tokens(f, c.prompt.modality)
                for f, c in zip(batch.frames, batch.conversations)
            ]
            embedded, mask = one.model.embed_batch([c.prompt for c in batch.conversations], visual)
            logits.append(one.model.logits(one.model.decode(embedded, mask)[mask]))
    assert (logits[0] - logits[1]).abs().max() < 1e-5 * logits[0].abs().max()


def test_bad_records_are_skipped_in_a_complete_run(base: Path, tmp_path: Path) -> None:
    data = write_files(tmp_path / "data")
    change(data / "videos.json", 1, video="videos/none.mp4")
    change(data / "pictures.json", 0, variables={})
    path, _ = settings(tmp_path)
    finetune(path, base / "checkpoint", data, tmp_path / "work", tmp_path / "out")
    listed = (tmp_path / "work/bad_records_0.txt").read_text()
    assert listed.count("bad record") == 2
    assert "bad record pictures.json:0: 2 <HEIGHT-INPUT> but 0 values" in listed
    assert "bad record videos.json:1: no file" in listed


def test_worker_processes_do_not_change_the_result(base: Path, tmp_path: Path) -> None:
    """The noise of dropout included."""
    states = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        path, _ = settings(folder, lora={"rank": 4, "alpha": 8, "dropout": 0.3})
        finetune(path, base / "checkpoint", base / "data", folder / "work", folder / "out", workers)
        states.append(load_checkpoint(folder / "out").model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_an_error_in_a_worker_process_ends_the_run_with_its_message(
    base: Path, tmp_path: Path
) -> None:
    """The worker processes end, too."""
    data = write_files(tmp_path / "data")
    for path in (data / "videos").iterdir():
        path.unlink()
    path, _ = settings(tmp_path, min_bad_records=2)
    paths = (base / "checkpoint", data, tmp_path / "work", tmp_path / "out")
    with pytest.raises(DataError, match=r"more than 2 bad records: 3 of 6 .*no file"):
        finetune(path, *paths, workers=1)
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "out").exists()


def test_the_batch_does_not_depend_on_the_number_of_processes() -> None:
    stage = FinetuneSettings(
        "s", (RecordFile("a.json"),), {"packers": 1.0}, batch=192, records_per_process=2
    )
    assert [stage.accumulate(n) for n in (1, 8, 48, 96)] == [96, 12, 2, 1]
    configs = [loop_config(stage, 1000, n) for n in (8, 48)]
    assert configs[0].steps == configs[1].steps == 6
    with pytest.raises(ConfigError, match="a multiple of 10"):
        stage.accumulate(5)


def test_the_7b_stages_are_as_published() -> None:
    stages = {
        path.stem: read_finetune_settings(path) for path in (ROOT / "config/training/7b").glob("*")
    }
    assert set(stages) == {"content_alignment", "coordinate_alignment", "multi_task"}
    assert stages["content_alignment"].rates == {"packers": 1e-4, "embeddings": 1e-4}
    for name in ("coordinate_alignment", "multi_task"):
        stage = stages[name]
        assert (stage.lora.rank, stage.lora.alpha) == (128, 256)
        assert stage.rates["adapters"] == 2e-4
        assert stage.rates["packers"] == stage.rates["embeddings"] == stage.rates["tables"] == 2e-5
        assert stage.accumulate(48) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": {"lm_head": 1.0}}, "rates has lm_head"),
        ({"rates": {"packers": "fast"}}, "rates: packers is 'fast'; expected a number"),
        ({"rates": {"packers": 0}}, "the rate of packers is 0"),
        ({"lora": []}, "lora is \\[\\]; expected a mapping"),
        ({"mix": 3}, "mix is 3; expected a list"),
        ({"epochs": "x" * 5000}, "epochs is .* characters.*; expected a number"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"bach": 3}, "bach"),
        ({"mix": [{"jsn": "a"}]}, "jsn"),
        ({"batch": 0}, "batch is 0"),
        ({"mix": []}, "mix is empty"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **changes)


def test_half_precision_weights_need_mixed_precision(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype bfloat16 requires mixed precision"):
        run(base, tmp_path, dtype="bfloat16")


def test_two_processes_train_the_same_model_as_one(base: Path, tmp_path: Path) -> None:
    data = write_files(tmp_path / "data")
    change(data / "pictures.json", 0, variables={})  # listed by each process: counts them
    folders = {1: tmp_path / "one", 2: tmp_path / "two"}
    for processes, folder in folders.items():
        folder.mkdir()
        path, _ = settings(folder, records_per_process=2)
        arguments = ["--config", path, "--checkpoint", base / "checkpoint", "--data", data]
        arguments += ["--work", folder / "work", "--out", folder / "out"]
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--num_processes", str(processes)]
        command += ["--multi_gpu"] if processes > 1 else []
        done = subprocess.run(
            [*command, "-m", "llava_st_ros.cli", "train", "finetune", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(list((folder / "work").glob("bad_records_*.txt"))) == processes
    for line, other in zip(log(folders[1]), log(folders[2])):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)
    one, two = (load_checkpoint(folder / "out").model.state_dict() for folder in folders.values())
    # Attention is invariant to the bias of its keys: its gradient is rounding noise, which Adam
    # scales up to full steps.
    noisy = ("ln_k.bias", "in_proj_bias")
    distances = {name: float((two[name] - value).abs().max()) for name, value in one.items()}
    assert not {n: d for n, d in distances.items() if d > 1e-4 and not n.endswith(noisy)}
