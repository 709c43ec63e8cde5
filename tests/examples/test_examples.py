"""The scripts of examples/, each run as a user runs it, on small inputs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_st_ros.model.checkpoint import load_checkpoint
from llava_st_ros.training.st_align.writing import write_image, write_video
from support.paths import ROOT
from support.st_align_files import moving_square

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
TRACK = r"track \d+ GROUNDED at \d+\.\d\d s: \[\d\.\d\d,\d\.\d\d \d\.\d\d,\d\.\d\d\]"


def run_example(name: str, *arguments: object) -> str:
    """Run an example in a process of its own; returns what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


WITH_ARGUMENTS = sorted(set(EXAMPLES.glob("*.py")) - {EXAMPLES / "subscribe_to_tracks.py"})


@pytest.mark.parametrize("path", WITH_ARGUMENTS, ids=lambda path: path.stem)
def test_an_example_without_arguments_shows_its_usage(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode in (1, 2)) and path.name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video of 12 frames, 1.1 s."""
    write_video(tmp_path / "clip.mp4", moving_square(0), 10.0)
    return tmp_path / "clip.mp4"


def test_every_example_says_how_to_run_it() -> None:
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(names) == 6
    for name in names:
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert f"python examples/{name}" in text.split('"""')[1]
        assert len(text.splitlines()) < 60


def test_push_frames_prints_tracks_and_events_of_a_video(
    video: Path, random_checkpoint: Path
) -> None:
    output = run_example("push_frames.py", video, "the square moves", "--model", random_checkpoint)
    assert re.search(TRACK, output)
    assert re.search(r"event \d+ PROVISIONAL: \d\.\d\d to \d\.\d\d s, the square moves", output)
    assert re.search(r"event \d+ ENDED: ", output)


def test_push_frames_reads_a_folder_of_images(tmp_path: Path, random_checkpoint: Path) -> None:
    for index, image in enumerate(moving_square(0)):
        write_image(tmp_path / f"{index:02d}.png", image)
    output = run_example("push_frames.py", tmp_path, "the square", "--model", random_checkpoint)
    assert re.search(TRACK, output)


def test_write_a_backend_measures_every_call(video: Path, random_checkpoint: Path) -> None:
    output = run_example("write_a_backend.py", video, "the square moves", random_checkpoint)
    answer, *timings = output.splitlines()
    assert "Object bounding box: " in answer
    assert {line.split()[0] for line in timings} == {
        "encode_frame",
        "pack",
        "embed",
        "prefill",
        "extend",
    }
    assert all(re.search(r" [1-9]\d* calls, +\d+\.\d\d ms on average$", line) for line in timings)


def test_finetune_on_clips_writes_a_merged_checkpoint(
    video: Path, tmp_path: Path, random_checkpoint: Path
) -> None:
    clips, out = tmp_path / "clips.csv", tmp_path / "out"
    clips.write_text(f"{video.name},0.2,0.6,the square moves\n" * 3)
    assert f"wrote {out}" in run_example("finetune_on_clips.py", clips, random_checkpoint, out)
    before = load_checkpoint(random_checkpoint).model.state_dict()
    after = load_checkpoint(out)
    assert after.tokenizer is not None
    changed = {n for n, v in after.model.state_dict().items() if not torch.equal(v, before[n])}
    assert any("self_attn.q_proj" in name for name in changed)
    assert any("output_embeddings" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)
    assert (tmp_path / "out.work/adapter/adapter_model.safetensors").is_file()


def test_evaluate_a_bag_prints_a_score_per_query(random_checkpoint: Path) -> None:
    bag = ROOT / "demo" / "bag"
    output = run_example("evaluate_a_bag.py", bag, "--model", random_checkpoint, "--period", 10)
    values = [float(line.split()[1]) for line in output.splitlines() if line.startswith("vIoU")]
    assert len(values) == 3
    mean = re.search(r"final vIoU [^0-9]*(\d\.\d+)", output)
    assert mean and float(mean[1]) == pytest.approx(sum(values) / 3, abs=2e-3)
