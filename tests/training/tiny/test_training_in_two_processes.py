"""Two processes under accelerate give the result of one, with every kind of stage."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava_st_ros.simulation.clip_store import render_shards
from llava_st_ros.training.tiny import pipeline
from support.paths import ROOT
from support.tiny_run import CLIPS, FRAMES, SETTINGS, SIZE

pytestmark = pytest.mark.slow

# With --cpu, accelerate starts a single process unless MPI starts the others.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
LAUNCH += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]


def stages(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of a run's log by stage."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["stage"], []).append(record)
    return found


def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    list(render_shards(data, "train", CLIPS, num_frames=FRAMES, size=SIZE, workers=1))
    settings = copy.deepcopy(SETTINGS)
    for stage in settings["stages"].values():
        # Three items: two in the first process, one in the second.
        stage |= {"steps": 3, "batch": 3, "log_every": 1, "accumulate": 2}
    config = data / "run.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))

    arguments = ["--config", config, "--data", data, "--work", tmp_path / "two"]
    arguments += ["--out", tmp_path / "two" / "out", "--threads", "1"]
    launched = subprocess.run(
        [*LAUNCH, "-m", "llava_st_ros.cli", "train", "run", *arguments],
        cwd=ROOT,
        # Compiling takes minutes and does not change results.
        env={**os.environ, "TORCH_COMPILE_DISABLE": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("2 x cpu") == 1  # only the main process prints
    with torch.compiler.set_stance("force_eager"):
        pipeline.train(config, data, tmp_path / "one", tmp_path / "one" / "out")
    one, two = stages(tmp_path / "one"), stages(tmp_path / "two")
    assert list(one) == list(two) == list(SETTINGS["stages"])
    for stage, lines in one.items():
        assert [line["step"] for line in two[stage]] == [1, 2, 3]
        for line, other in zip(lines, two[stage]):
            assert line.keys() == other.keys()
            for key in line.keys() - {"stage", "minutes", "samples_per_second"}:
                assert other[key] == pytest.approx(line[key], rel=1e-4, abs=1e-6), (stage, key)
        a, b = (load_file(tmp_path / n / f"{stage}.safetensors") for n in ("one", "two"))
        assert a.keys() == b.keys()
        for name, value in a.items():
            # Adam turns gradients that are pure rounding errors into steps: biases of keys, and
            # embeddings of words that are rare in the batch.
            apart = ((b[name] - value).abs() > 1e-4).float().mean()
            assert apart < 1e-3 or name.endswith(("ln_k.bias", "in_proj_bias")), (stage, name)
    assert sorted(p.name for p in (tmp_path / "two" / "out").iterdir()) == sorted(
        p.name for p in (tmp_path / "one" / "out").iterdir()
    )
