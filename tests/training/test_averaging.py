"""Averaging checkpoints: values worked out by hand; invalid input is rejected in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_st_ros.calibration import Calibration
from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import CheckpointError, ConfigError, LlavaStError
from llava_st_ros.model import tensor_writer
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.text.tokenizer import train_tokenizer
from llava_st_ros.training import averaging
from llava_st_ros.training.averaging import average
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = tiny_config(TOKENIZER, compat="paper")
NORM = "model.norm.weight"  # 32 values
HEAD = "lm_head.weight"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("first", "second", "third")):
        save_checkpoint(root / name, tiny_model(CONFIG, seed), CONFIG, TOKENIZER, "float16")
    return tuple(root / name for name in ("first", "second", "third"))


@pytest.fixture
def folders(saved: tuple[Path, ...], tmp_path: Path) -> tuple[Path, ...]:
    """A copy of the checkpoints to modify."""
    return tuple(Path(shutil.copytree(f, tmp_path / f.name)) for f in saved)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def set_norm(folder: Path, *values: float, dtype: torch.dtype = torch.float16) -> None:
    """Set the first values of NORM, and the dtype of all of it."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NORM] = tensors[NORM].to(dtype)
        tensors[NORM][: len(values)] = torch.tensor(values, dtype=dtype)

    change_tensors(folder, change)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def set_calibration(folder: Path, scale: float) -> None:
    section = json.loads((folder / "config.json").read_text())["llava_st"]
    fitted = {"standing": {"video": {"match": {"scale": scale}}}}
    change_config(folder, llava_st={**section, "calibration": fitted})


def averaged(folders: tuple[Path, ...], weights: Any, out: Path) -> dict[str, torch.Tensor]:
    average(folders, weights, out)
    return load_file(out / WEIGHTS)


def rejected(folders: tuple[Path, ...], out: Path, weights: Any = None) -> LlavaStError:
    """The error, which is one line; also checks that nothing of the output is left."""
    before = sorted(out.parent.iterdir())
    with pytest.raises((CheckpointError, ConfigError)) as error:
        average(folders, weights, out)
    assert "\n" not in str(error.value)
    assert sorted(out.parent.iterdir()) == before
    return error.value


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_values_worked_out_by_hand(folders: tuple[Path, ...], tmp_path: Path) -> None:
    set_norm(folders[0], 1.0, -2.0, 0.5)
    set_norm(folders[1], 3.0, 2.0, 0.5)
    set_norm(folders[2], 8.0, 8.0, -1.0)
    for number, (weights, expected) in enumerate(
        [
            ((0.25, 0.75, 0.0), [2.5, 1.0, 0.5]),
            ((0.5, 0.25, 0.25), [3.25, 1.5, 0.125]),
            ((-1.0, 2.0, 0.0), [5.0, 6.0, 0.5]),  # extrapolated
        ]
    ):
        found = averaged(folders, weights, tmp_path / f"out{number}")[NORM]
        assert found[:3].tolist() == expected


def test_the_loaded_model_has_the_average_of_the_loaded_models(
    saved: tuple[Path, ...], tmp_path: Path
) -> None:
    average(saved, None, tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "out")
    states = [load_checkpoint(folder).model.state_dict() for folder in saved]
    for name, value in checkpoint.model.state_dict().items():
        mean = torch.stack([state[name] for state in states]).mean(0)
        torch.testing.assert_close(value, mean, rtol=2**-11, atol=2**-24)  # float16
    first = load_checkpoint(saved[0])
    assert checkpoint.config == first.config
    assert checkpoint.tokenizer is not None and first.tokenizer is not None
    assert checkpoint.tokenizer.digest == first.tokenizer.digest
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (saved[0] / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_average_of_a_checkpoint_with_itself_is_itself(tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "one"
    save_checkpoint(folder, tiny_model(CONFIG), CONFIG, TOKENIZER, dtype)
    stored = load_file(folder / WEIGHTS)[NORM].dtype
    set_norm(folder, -0.0, 0.0, torch.finfo(stored).smallest_normal / 2, 60_000.0, dtype=stored)
    expected = load_file(folder / WEIGHTS)
    # The second three sum to 1 - 1e-7.
    for number, weights in enumerate([(0.1, 0.2, 0.7), (0.3333333,) * 3, None]):
        found = averaged((folder,) * 3, weights, tmp_path / f"out{number}")
        assert found.keys() == expected.keys()
        assert all(same_bits(found[name], expected[name]) for name in expected)


def test_weights_1_and_0_give_one_of_them(folders: tuple[Path, ...], tmp_path: Path) -> None:
    set_norm(folders[0], -0.0)
    for number, weights in enumerate([(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]):
        found = averaged(folders, weights, tmp_path / f"out{number}")
        expected = load_file(folders[weights.index(1.0)] / WEIGHTS)
        assert all(same_bits(found[name], expected[name]) for name in expected)


def test_sums_are_rounded_once_to_the_dtype_of_the_first(
    folders: tuple[Path, ...], tmp_path: Path
) -> None:
    smallest = 2.0**-24  # of float16; each half of it would be rounded to 0
    set_norm(folders[0], smallest, 1.0)
    set_norm(folders[1], smallest, 1.0 + 2.0**-20, dtype=torch.float32)
    found = averaged(folders[:2], (0.5, 0.5), tmp_path / "half")[NORM]
    assert found.dtype == torch.float16 and found[:2].tolist() == [smallest, 1.0]
    found = averaged(folders[1::-1], (0.5, 0.5), tmp_path / "single")[NORM]
    assert found.dtype == torch.float32 and found[:2].tolist() == [smallest, 1.0 + 2.0**-21]


def test_float64_is_averaged_in_float64_and_inputs_are_unchanged(
    folders: tuple[Path, ...], tmp_path: Path
) -> None:
    set_norm(folders[0], 1.0 + 2.0**-50, dtype=torch.float64)
    set_norm(folders[1], 1.0, dtype=torch.float64)
    before = [(folder / WEIGHTS).read_bytes() for folder in folders]
    found = averaged(folders[:2], (0.25, 0.75), tmp_path / "out")[NORM]
    assert found.dtype == torch.float64 and found[0] == 1.0 + 2.0**-52
    assert [(folder / WEIGHTS).read_bytes() for folder in folders] == before


def test_shards_and_blocks_do_not_change_values(
    saved: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    single = averaged(saved, (0.5, 0.3, 0.2), tmp_path / "single")
    monkeypatch.setattr(averaging, "BLOCK_VALUES", 7)
    average(
        saved,
        (0.5, 0.3, 0.2),
        tmp_path / "shards",
        shard_bytes=20_000,
        on_tensor=lambda done, total: seen.append((done, total)),
    )
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in single.values())
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3 and set(index["weight_map"].values()) == set(files)
    assert seen == [(i, len(single)) for i in range(1, len(single) + 1)]
    shards: dict[str, torch.Tensor] = {}
    for file in files:
        shards |= load_file(tmp_path / "shards" / file)
    assert shards.keys() == single.keys()
    assert all(same_bits(shards[name], single[name]) for name in single)
    again = averaged((tmp_path / "shards", tmp_path / "single"), None, tmp_path / "out")
    assert all(same_bits(again[name], single[name]) for name in single)


def test_calibrations_and_unused_tensors_are_left_out(
    folders: tuple[Path, ...], tmp_path: Path
) -> None:
    set_calibration(folders[1], 2.0)
    set_calibration(folders[2], 3.0)
    (folders[0] / "generation_config.json").write_text('{"temperature": 1}')
    change_tensors(folders[0], lambda t: t.update({"model.image_newline": torch.ones(32)}))
    left_out = average(folders, None, tmp_path / "out")
    assert left_out.calibrations == folders[1:]
    assert left_out.tensors == ("model.image_newline",)
    assert load_checkpoint(tmp_path / "out").config.calibration == Calibration()
    assert (tmp_path / "out/generation_config.json").read_text() == '{"temperature": 1}'

    set_calibration(folders[0], 4.0)
    left_out = average(folders[:2], None, tmp_path / "again")
    assert left_out.calibrations == folders[:2]
    assert "calibration" not in json.loads((tmp_path / "again/config.json").read_text())["llava_st"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.5,), "1 weight for 3 checkpoints; expected one for each"),
        ((0.25,) * 4, "4 weights for 3 checkpoints"),
        ((), "0 weights for 3 checkpoints"),
        ((0.5, float("nan"), 0.5), "weight 2 is nan; expected a finite number"),
        ((0.5, 0.5, float("inf")), "weight 3 is inf"),
        ((0.5, 0.4, 0.0), "the weights sum to 0.9; expected 1"),
        ((0.333, 0.333, 0.333), "the weights sum to 0.999; expected 1"),
        ((1e308, 1e308, -1e308), "the weights sum to"),
        ((0.0, 0.0, 0.0), "the weights sum to 0; expected 1"),
    ],
)
def test_weights_that_do_not_fit_are_rejected(
    saved: tuple[Path, ...], tmp_path: Path, weights: tuple[float, ...], words: str
) -> None:
    assert words in str(rejected(saved, tmp_path / "out", weights))


def test_fewer_than_two_checkpoints_are_rejected(saved: tuple[Path, ...], tmp_path: Path) -> None:
    assert "1 checkpoint to average; expected at least 2" in str(
        rejected(saved[:1], tmp_path / "out", (1.0,))
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rms_norm_eps": 1e-5, "rope_theta": 5.0},
            "language.rms_norm_eps (1e-06 and 1e-05), language.rope_theta (",
        ),
        ({"rope_theta": 5.0}, "differ in language.rope_theta (1000000.0 and 5.0)"),
        ({"llava_st": {"compat": "released"}}, "differ in compat ('paper' and 'released')"),
        ({"llava_st": {"num_frames": 5}}, "differ in num_frames (10 and 5)"),
        ({"llava_st": {"end_token_ids": [3]}}, "differ in end_token_ids ("),
    ],
)
def test_other_settings_are_named(
    folders: tuple[Path, ...], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    section = json.loads((folders[1] / "config.json").read_text())["llava_st"]
    changes = {**changes, "llava_st": {**section, **changes.get("llava_st", {})}}
    change_config(folders[1], **changes)
    line = str(rejected(folders[:2], tmp_path / "out"))
    assert words in line and line.startswith(f"{folders[0]} and {folders[1]} differ in ")


def test_other_sizes_and_tokenizers_are_named(folders: tuple[Path, ...], tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = dataclasses.replace(CONFIG, num_temporal_tokens=11)
    tokenizer = tiny_tokenizer(num_temporal=11)
    save_checkpoint(other, tiny_model(config), config, tokenizer)
    line = str(rejected((folders[0], other), tmp_path / "out"))
    assert "differ in num_temporal_tokens (10 and 11), tokenizer;" in line

    words = [chr(97 + i % 26) + chr(97 + i // 26) for i in range(400)]
    tokenizer = train_tokenizer([" ".join(words)], TOKENIZER.vocab_size, 10, 12)
    assert tokenizer.special == TOKENIZER.special and tokenizer.digest != TOKENIZER.digest
    tokenizer.save(folders[2])
    assert "differ in tokenizer; average" in str(rejected(folders, tmp_path / "out"))

    (folders[1] / "tokenizer.json").unlink()
    (folders[1] / "tokenizer_config.json").unlink()
    line = str(rejected(folders[:2], tmp_path / "out"))
    assert line.startswith(f"{folders[1]} has no tokenizer, another checkpoint has one")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NORM), f"missing 1 tensor ({NORM})"),
        (lambda t: t.update({NORM: torch.ones(31)}), f"misshapen 1 tensor ({NORM} [31] for [32])"),
        (lambda t: t.update({"model.unknown": torch.ones(2)}), "extra 1 tensor (model.unknown)"),
        (lambda t: t.update({NORM: torch.ones(32).long()}), "expected floating point weights"),
        (lambda t: t[NORM].fill_(float("nan")), f"{NORM} has a value that is NaN or infinite"),
        (lambda t: t[HEAD][1].fill_(float("inf")), f"{HEAD} has a value that is NaN or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_checkpoint(
    folders: tuple[Path, ...], tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    change_tensors(folders[1], change)
    line = str(rejected(folders, tmp_path / "out"))
    assert words in line and line.startswith(f"{folders[1]}: ")


def test_a_sum_out_of_range_is_rejected(folders: tuple[Path, ...], tmp_path: Path) -> None:
    set_norm(folders[0], 60_000.0)
    set_norm(folders[1], -60_000.0)
    line = str(rejected(folders[:2], tmp_path / "out", (2.0, -1.0)))
    assert line == f"{NORM} is not finite as float16 after averaging"


def test_other_folders_are_rejected(folders: tuple[Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine = Path(shutil.copytree(folders[0], tmp_path / "engine"))
    (engine / "manifest.json").write_text("{}")
    assert f"{engine} is an engine directory" in str(rejected((folders[0], engine), out))
    (folders[1] / "adapter_config.json").write_text("{}")
    assert f"{folders[1]} is an adapter" in str(rejected(folders, out))
    assert f"no folder {tmp_path / 'none'}" in str(rejected((folders[0], tmp_path / "none"), out))
    (folders[2] / "config.json").write_text("{")
    assert str(folders[2] / "config.json") in str(rejected((folders[0], folders[2]), out))
    (folders[2] / "config.json").unlink()
    line = str(rejected((folders[2], folders[0]), out))
    assert line.startswith(f"{folders[2]} has no config.json")
    (folders[0] / WEIGHTS).write_bytes((folders[0] / WEIGHTS).read_bytes()[:-9])
    assert str(folders[0] / WEIGHTS) in str(rejected((folders[0], folders[0]), out))


def test_an_existing_output_and_a_full_disk_are_reported(
    saved: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/precious").write_text("x")
    assert f"{tmp_path / 'kept'} exists" in str(rejected(saved, tmp_path / "kept"))
    assert (tmp_path / "kept/precious").read_text() == "x"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_writer, "save_file", full)
    assert "No space left" in str(rejected(saved, tmp_path / "out"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "the disk has 0.0 GB free" in str(rejected(saved, tmp_path / "out"))


def test_the_command(
    folders: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_norm(folders[0], 1.0)
    set_norm(folders[1], 3.0)
    set_calibration(folders[0], 2.0)
    inputs, out = [str(folder) for folder in folders[:2]], tmp_path / "new" / "out"

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["train", "average", *inputs, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, printed, _ = run("--weights", "-.5", "1.5", "--out", str(out))
    assert code == 0
    assert printed == (
        f"wrote {out}, without the calibration of {folders[0]}; llava-st train calibrate fits a "
        "new one\n"
    )
    assert load_file(out / WEIGHTS)[NORM][0] == 4.0
    code, _, line = run("--out", str(out))
    assert (code, line) == (2, f"llava-st: {out} exists; remove it or choose another folder\n")
    code, _, line = run("--weights", "0.5", "--out", str(tmp_path / "other"))
    assert (code, line) == (2, "llava-st: 1 weight for 2 checkpoints; expected one for each\n")
    inputs = inputs[1:] * 2
    code, printed, _ = run("--out", str(tmp_path / "equal"))
    assert (code, printed) == (0, f"wrote {tmp_path / 'equal'}\n")
