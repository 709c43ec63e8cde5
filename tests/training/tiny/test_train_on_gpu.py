"""scripts/train_on_gpu, on the CPU with a small recipe; and the plan that it prints."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llava_st_ros.cli.__main__ import main
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality
from llava_st_ros.simulation.clip_store import render_shards
from llava_st_ros.training.loop.errors import TrainingInterrupted
from llava_st_ros.training.loop.loop import LoopConfig
from llava_st_ros.training.tiny import pipeline, plan
from llava_st_ros.training.tiny.run_archive import pack
from llava_st_ros.training.tiny.settings import read_settings
from support.paths import ROOT
from support.threads import one_thread
from support.tiny_run import CLIPS, FRAMES, SETTINGS, SIZE, Moments

SCRIPT = ROOT / "scripts" / "train_on_gpu"


def run_script(**settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT],
        env={
            **{k: v for k, v in os.environ.items() if k != "OUT"},
            "PYTHON": sys.executable,
            "DEVICE": "cpu",
            **{name: str(value) for name, value in settings.items()},
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.renderer
def test_carried_run_is_finished_in_one_call(tmp_path: Path) -> None:
    """It renders the clips itself, and the result is that of an uninterrupted run."""
    config, data = tmp_path / "run.yaml", tmp_path / "data"
    config.write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    list(render_shards(data, "train", CLIPS, num_frames=FRAMES, size=SIZE, workers=1))
    # The script has one thread as well: sums in another order change what has no true gradient.
    with torch.compiler.set_stance("force_eager"), one_thread():
        pipeline.train(config, data, tmp_path / "whole", tmp_path / "expected")
        with pytest.raises(TrainingInterrupted, match="stage pictures is saved at step 1 of 2"):
            pipeline.train(config, data, tmp_path / "part", None, budget=Moments(7))
    pack(tmp_path / "part", list(SETTINGS["stages"]), tmp_path / "state")

    out = tmp_path / "out"
    done = run_script(
        OUT=out,
        CONFIG=config,
        STATE=tmp_path / "state",
        DATA=tmp_path / "rendered",
        WORK=tmp_path / "work",
        EVAL_CLIPS=1,
        OMP_NUM_THREADS=1,
    )
    assert done.returncode == 0, done.stderr
    assert "the recipe is finished" in done.stdout
    assert f"dense_alignment: done before, read from {tmp_path / 'work'}" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "run.json",
        "run.000",
        "checkpoint.tar",
        "report.tar",
    }
    with tarfile.open(out / "checkpoint.tar") as archive:
        weights = archive.extractfile("./model.safetensors")
        assert weights is not None
        found = load(weights.read())
    expected = load((tmp_path / "expected" / "model.safetensors").read_bytes())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Another process may add in another order, which shows in parameters without a true
        # gradient: 1e-6. A step more or less changes all of them by 1e-2, the rate.
        torch.testing.assert_close(
            found[name].float(), value.float(), rtol=2e-3, atol=1e-5, msg=name
        )
    with tarfile.open(out / "report.tar") as archive:
        members = {name: archive.extractfile(name) for name in archive.getnames()}
        assert members.keys() == {"log.jsonl", "curves.png", "validation.json"}
        texts = {name: file.read() for name, file in members.items() if file is not None}
    assert len(texts["log.jsonl"].splitlines()) == len(SETTINGS["stages"])
    assert json.load(io.BytesIO(texts["validation.json"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "OUT: set OUT to the folder of the results"),
        (
            {"OUT": "/nowhere", "MINUTES": "soon"},
            "MINUTES is soon; expected a whole number from 2 on",
        ),
        ({"OUT": "/nowhere", "MINUTES": "1"}, "MINUTES is 1; expected a whole number from 2 on"),
    ],
)
def test_wrong_settings_of_the_script_are_one_line(settings: dict[str, str], message: str) -> None:
    done = run_script(**settings)
    assert done.returncode != 0 and done.stderr.rstrip().endswith(message)
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def model() -> LlavaST:
    tokenizer = pipeline.learn_tokenizer(SETTINGS["model"])
    return LlavaST(pipeline.model_config(SETTINGS["model"], tokenizer))


def test_operations_are_those_that_torch_counts(model: LlavaST) -> None:
    config = model.config
    pixels = torch.zeros(1, 3, SIZE, SIZE)
    clip = torch.zeros(FRAMES, config.tokens_per_frame, config.vision.hidden_size)
    projected = torch.zeros(FRAMES, config.tokens_per_frame, config.language.hidden_size)

    def counted(function: object, *args: object) -> int:
        # The counter does not know the CPU's fused attention.
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            function(*args)  # type: ignore[operator]
        return counter.get_total_flops()

    assert counted(model.vision_features, pixels) == plan.tower_flops(config)
    assert counted(model.project, clip) == FRAMES * plan.projector_flops(config)
    found = counted(model.pack, projected, range(FRAMES))
    assert found == pytest.approx(plan.packer_flops(config), rel=0.02)
    _, stage = pipeline.read_stage("clips", SETTINGS["stages"]["clips"])
    assert isinstance(stage, pipeline.ConversationStage)
    # Without turns, the decoder attends within the prefix.
    prefix = pipeline.dataclasses.replace(stage, lanes=1, lane_tokens=1)
    length = plan.PROMPT_TOKENS + config.num_fast_tokens + config.num_slow_tokens + 1
    states = torch.zeros(1, length, config.language.hidden_size)
    found = counted(lambda: model.model(inputs_embeds=states, use_cache=False))
    assert found == pytest.approx(plan.decoder_flops(config, prefix, Modality.VIDEO), rel=0.03)
    # Event alignment: the prompt up to the last fast token, backward through the lower layer only.
    _, events = pipeline.read_stage(
        "events", {"kind": "event_alignment", "steps": 1, "rate": 0.1, "batch": 1}
    )
    states = states[:, : plan.PROMPT_TOKENS + config.num_fast_tokens]
    forward = counted(lambda: model.model(inputs_embeds=states, use_cache=False))
    others = FRAMES * plan.projector_flops(config) + 3 * plan.packer_flops(config)
    assert plan.sample_flops(events, config) == pytest.approx(others + 2 * forward, rel=0.03)


def test_plan_follows_growth_and_machine(model: LlavaST) -> None:
    _, stage = pipeline.read_stage("d", SETTINGS["stages"]["dense_alignment"])  # batches of 2
    config = LoopConfig(steps=1000, rate=0.1)
    flops = plan.sample_flops(stage, model.config)
    bound = plan.Machine(flops=flops, step_seconds=0.5, frames_per_second=10.0)
    (found,) = plan.plan_stages({"d": (config, stage)}, model.config, bound)
    # Two samples a step, a second each.
    assert (found.steps, found.samples, found.minutes) == (1000, 2000, pytest.approx(2000 / 60))
    launches = plan.Machine(flops=8 * flops, step_seconds=0.5, frames_per_second=10.0)
    for grow, minutes in ((1, 500 / 60), (2, 250 / 60), (4, 250 / 60)):
        (found,) = plan.plan_stages({"d": (config, stage)}, model.config, launches, grow)
        assert found.steps == 1000 // grow and found.samples == 2000
        assert found.minutes == pytest.approx(minutes)
    data = {"clips": 3, "videos": 2, "video_frames": 50}
    assert plan.rendering_minutes(data, model.config, launches) == pytest.approx(115 / 10 / 60)
    slow = plan.Machine(plan.tower_flops(model.config) / 2, 0.5, 10.0)  # two seconds a frame
    assert plan.features_minutes(data, model.config, slow) == pytest.approx(115 * 2 / 60)


def test_plan_says_when_the_time_is_too_short(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "config" / "training" / "tiny.yaml")
    arguments = ["train", "plan", "--config", config, "--device", "cpu", "--cores", "2"]
    assert main([*arguments, "--minutes", "9"]) == 0
    text = capsys.readouterr().out
    assert all(stage in text for stage in read_settings(Path(config))["stages"])
    assert "The estimate exceeds 9 minutes" in text
    assert main([*arguments, "--minutes", "900"]) == 0
    assert "exceeds" not in capsys.readouterr().out
    for minutes in ("nan", "0"):
        assert main([*arguments, "--minutes", minutes]) == 2
        assert f"the time budget is {minutes} minutes" in capsys.readouterr().err
