"""Interrupted, killed and damaged runs resume and reach the same result."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.training.loop import run_state, time_budget
from llava_st_ros.training.loop.errors import TrainingInterrupted
from llava_st_ros.training.loop.loop import run
from llava_st_ros.training.loop.losses import LossTerms
from llava_st_ros.training.loop.time_budget import TimeBudget
from llava_st_ros.training.tiny import pipeline
from support.paths import ROOT
from support.small_run import Points, logged, points, send_signal_at, small_config, small_net

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """The weights and the log of an uninterrupted run."""
    net, folder = small_net(), tmp_path_factory.mktemp("uninterrupted")
    run("small", net, points, small_config(), folder)
    return net.state_dict(), logged(folder)


def assert_same(
    net: torch.nn.Module, folder: Path, uninterrupted: tuple[dict[str, Any], list[Any]]
) -> None:
    weights, lines = uninterrupted
    for name, value in net.state_dict().items():
        assert torch.allclose(value, weights[name], rtol=1e-5, atol=1e-7), name
    found = logged(folder)
    assert [line["step"] for line in found] == [line["step"] for line in lines]
    for line, expected in zip(found, lines):
        assert line.pop("stage") == expected["stage"]
        numbers = {key: value for key, value in expected.items() if key != "stage"}
        assert line == pytest.approx(numbers, rel=1e-5), line["step"]


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").iterdir())


def test_killed_run_resumes_to_the_same_losses(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], list[Any]]
) -> None:
    killed = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "small_run.py"), str(tmp_path)],
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert states(tmp_path) == ["small-0000002", "small-0000004"]
    assert [line["step"] for line in logged(tmp_path)] == [1, 2, 3, 4, 5]  # step 5 is repeated
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"stage": "small", "st')  # a line cut off by the kill
    net = small_net()
    assert run("small", net, points, small_config(), tmp_path) == 8
    assert_same(net, tmp_path, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_run_after_the_current_step(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], list[Any]], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    message = rf"{number.name} in stage small: saved at step 4 of 8"
    with pytest.raises(TrainingInterrupted, match=message) as stopped:
        run("small", send_signal_at(small_net(), 3, number), points, small_config(), tmp_path)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    net = small_net()
    seen: list[int] = []

    def batches(step: int) -> Points:
        seen.append(step)
        return points(step)

    run("small", net, batches, small_config(), tmp_path)
    assert seen == [4, 5, 6, 7]
    assert_same(net, tmp_path, uninterrupted)


def test_used_up_budget_stops_the_run_after_the_current_step(
    tmp_path: Path,
    uninterrupted: tuple[dict[str, Any], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: now))
    budget, net = TimeBudget(1.5), small_net()

    def pass_time(*_: object) -> None:
        nonlocal now
        now += 30.0

    net.register_forward_pre_hook(pass_time)
    message = (
        r"^1\.5 minutes are used up: stage small is saved at step 3 of 8; "
        r"run the same command again to resume$"
    )
    with pytest.raises(TrainingInterrupted, match=message) as stopped:
        run("small", net, points, small_config(), tmp_path, budget=budget)
    assert stopped.value.code == 75
    assert states(tmp_path) == ["small-0000002", "small-0000003"]
    net = small_net()
    run("small", net, points, small_config(), tmp_path, budget=TimeBudget())
    assert_same(net, tmp_path, uninterrupted)


def test_budget_that_ends_with_the_stage_interrupts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: now))
    budget, net = TimeBudget(1.0), small_net()

    def pass_time(*_: object) -> None:
        nonlocal now
        now += 20.0

    net.register_forward_pre_hook(pass_time)
    assert run("small", net, points, small_config(steps=3), tmp_path, budget=budget) == 3
    with pytest.raises(TrainingInterrupted, match="minutes are used up: stage x is not trained"):
        budget.check("stage x is not trained yet")


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan])
def test_budget_without_time_is_rejected(minutes: float) -> None:
    with pytest.raises(ConfigError, match="expected a value above 0"):
        TimeBudget(minutes)


def test_command_exits_with_the_signals_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: object, **__: object) -> None:
        raise TrainingInterrupted("SIGTERM in stage x", "run it again", 143)

    monkeypatch.setattr(pipeline, "train", train)
    threads = torch.get_num_threads()
    assert main(["train", "run", "--out", "o", "--threads", str(threads)]) == 143
    assert capsys.readouterr().err.splitlines() == ["llava-st: SIGTERM in stage x; run it again"]


def test_finished_stage_is_not_trained_again(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], list[Any]]
) -> None:
    run("small", small_net(), points, small_config(), tmp_path)
    net = small_net()

    def fail(step: int) -> Points:
        raise AssertionError(step)

    assert run("small", net, fail, small_config(), tmp_path) == 8
    assert_same(net, tmp_path, uninterrupted)
    run_state.discard(tmp_path, "small")
    assert states(tmp_path) == []


def test_restarted_stage_keeps_the_log_lines_of_other_stages(tmp_path: Path) -> None:
    for name in ("small", "small-2"):
        run(name, small_net(), points, small_config(steps=4), tmp_path)
    run_state.discard(tmp_path, "small")
    assert states(tmp_path) == ["small-2-0000002", "small-2-0000004"]
    run("small", small_net(), points, small_config(steps=3), tmp_path)
    found = [(line["stage"], line["step"]) for line in logged(tmp_path)]
    assert found == [("small-2", s) for s in (1, 2, 3, 4)] + [("small", s) for s in (1, 2, 3)]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def drop_counters(path: Path) -> None:
    path.write_text(json.dumps({"step": 4}))


def flip_a_bit(path: Path) -> None:
    """Flip the lowest bit of a byte of the values, which no parser notices."""
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def change_a_digit(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 4', '"step": 5'))


DAMAGE = [
    ("trained.safetensors", flip_a_bit),
    ("optimizers.safetensors", flip_a_bit),
    ("run.json", change_a_digit),
    ("trained.safetensors", truncate),
    ("optimizers.safetensors", truncate),
    ("optimizers.safetensors", Path.unlink),
    ("run.json", Path.unlink),
    ("run.json", drop_counters),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_run_resumes_from_the_state_before_a_damaged_one(
    tmp_path: Path,
    uninterrupted: tuple[dict[str, Any], list[Any]],
    file: str,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at(tmp_path, 4)
    damage(tmp_path / "state" / "small-0000004" / file)
    kill_while_writing(tmp_path / "state" / "small-0000006")
    net = small_net()
    run("small", net, points, small_config(), tmp_path)
    assert_same(net, tmp_path, uninterrupted)
    assert states(tmp_path) == ["small-0000006", "small-0000008"]
    assert f"{file}" in (said := capsys.readouterr().err)
    assert "resuming from small-0000002" in said


def kill_while_writing(state: Path) -> None:
    """Leave what a process leaves that is killed while it writes a state."""
    program = (
        "import os, pathlib, signal, sys\n"
        "from llava_st_ros.atomic_files import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = len(states(state.parent.parent))
    killed = subprocess.run([sys.executable, "-c", program, str(state)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not state.exists() and len(states(state.parent.parent)) == before + 1


def stop_at(folder: Path, step: int) -> None:
    with pytest.raises(TrainingInterrupted):
        run(
            "small",
            send_signal_at(small_net(), step - 1, signal.SIGTERM),
            points,
            small_config(),
            folder,
        )


def test_run_whose_states_are_all_damaged_is_rejected(tmp_path: Path) -> None:
    stop_at(tmp_path, 4)
    for state in (tmp_path / "state").iterdir():
        truncate(state / "trained.safetensors")
    with pytest.raises(CheckpointError, match=r"small-0000004/.*small-0000002/.*delete") as error:
        run("small", small_net(), points, small_config(), tmp_path)
    assert "\n" not in str(error.value)
    assert states(tmp_path) == ["small-0000002", "small-0000004"]
    assert len(logged(tmp_path)) == 4


def test_state_of_another_model_is_rejected(tmp_path: Path) -> None:
    stop_at(tmp_path, 4)
    other = small_net()
    other.unused = torch.nn.Linear(4, 5)
    with pytest.raises(CheckpointError, match=r"in 2 parameters, unused\.bias first"):
        run("small", other, points, small_config(), tmp_path)
    frozen = small_net()
    frozen.unused.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"in 2 parameters, unused\.bias first"):
        run("small", frozen, points, small_config(), tmp_path)
    assert len(states(tmp_path)) == 2 and len(logged(tmp_path)) == 4


def test_state_of_other_settings_is_rejected(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], list[Any]]
) -> None:
    saved = {"batch": 6, "tube_frames": (1, 2)}
    net = send_signal_at(small_net(), 3, signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        run("small", net, points, small_config(), tmp_path, settings=saved)
    for settings, rate, words in (
        (
            {**saved, "batch": 3},
            0.01,
            r"small-0000004 was saved with batch 6, but the run has batch 3; ",
        ),
        (
            {"batch": 6},
            0.01,
            r"saved with tube_frames \[1, 2\], but the run has tube_frames None; ",
        ),
        (saved, 0.02, r"saved with rate 0\.01, but the run has rate 0\.02; "),
    ):
        with pytest.raises(CheckpointError, match=words):
            run("small", small_net(), points, small_config(rate=rate), tmp_path, settings=settings)
    net = small_net()
    # Settings that do not affect the result may change.
    run("small", net, points, small_config(minutes=1e9, save_steps=None), tmp_path, settings=saved)
    assert_same(net, tmp_path, uninterrupted)


def test_frozen_parameters_are_not_saved(tmp_path: Path) -> None:
    net = small_net()
    net.unused.requires_grad_(False)
    run("small", net, points, small_config(steps=2), tmp_path)
    kept = run_state.trained_parameters(net)
    assert "unused.weight" not in kept and torch.equal(kept["inside.weight"], net.inside.weight)
    shutil.rmtree(tmp_path / "state")
    assert run_state.load(tmp_path, "small", net, [], {}).step == 0


def test_damaged_state_is_not_the_last_readable_one(tmp_path: Path) -> None:
    assert run_state.last_readable(tmp_path, "small") is None
    run("small", small_net(), points, small_config(), tmp_path)
    last, before = (tmp_path / "state" / f"small-000000{step}" for step in (8, 6))
    assert run_state.last_readable(tmp_path, "small") == last
    (last / "run.json").write_text("{}")
    assert run_state.last_readable(tmp_path, "small") == before
    assert run_state.last_readable(tmp_path, "smal") is None


def test_state_is_saved_every_save_minutes(tmp_path: Path) -> None:
    class Watching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.states = small_net(), list[int]()

        def forward(self, batch: Points) -> LossTerms:
            self.states.append(len(list(tmp_path.glob("state/*"))))
            return self.net(batch)

    for minutes, expected in ((0.0, [0, 1, 2, 2]), (60.0, [0, 0, 0, 0])):
        step = Watching()
        config = small_config(steps=4, save_steps=None, save_minutes=minutes)
        run("slow", step, points, config, tmp_path)
        assert step.states == expected
        run_state.discard(tmp_path, "slow")
