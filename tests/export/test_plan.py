"""The plan's sizes agree with exported files, and its costs with closed formulas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.cli.__main__ import main
from llava_st_ros.cli.export_plan import PUBLISHED
from llava_st_ros.errors import ConfigError
from llava_st_ros.export.inspection import inspect_graph
from llava_st_ros.export.plan import (
    GEOMETRIES,
    PRECISIONS,
    Board,
    GraphCost,
    read_boards,
    stored_plan,
)
from llava_st_ros.export.plan_counts import make_plan
from llava_st_ros.export.target import read_target, target_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published():
    config = read_config(read_checkpoint_json(GEOMETRIES / f"{PUBLISHED}.json"), {})
    return config, {name: make_plan(config, name) for name in PRECISIONS}


def test_stored_plans_are_those_that_are_counted(published) -> None:
    """Otherwise: python -m llava_st_ros.export.plan_counts."""
    for name, plan in published[1].items():
        assert stored_plan(PUBLISHED, name) == plan


def test_weights_and_cache_match_an_exported_engine(random_engine: Path) -> None:
    config = read_config(read_checkpoint_json(random_engine / "config.json"), {})
    plan = make_plan(config, "float32")
    for name, size in plan.weights.items():
        # A file also holds shape constants, and stores equal weights (zero biases) once.
        real = inspect_graph(random_engine / f"{name}.onnx")["weights"]
        assert size == pytest.approx(real, rel=0.03), name
    heads = config.language.num_key_value_heads
    dim = config.language.hidden_size // config.language.num_attention_heads
    assert plan.cache == 2 * config.language.num_hidden_layers * heads * dim * 4 * plan.positions
    assert plan.frames == 2 * 20 * 64 * 32 * 4


def test_published_model_matches_its_formulas(published) -> None:
    config, plans = published
    assert (config.num_fast_tokens, config.num_slow_tokens) == (900, 1620)
    half, four, single = (plans[name] for name in ("float16", "int4", "float32"))
    layer = 3584 * (3584 * 2 + 512 * 2 + 18944 * 3)
    # Matrices of 28 layers, table and head of 151,960 rows; norms and biases are negligible.
    assert half.weights["language"] == pytest.approx(2 * (28 * layer + 2 * 151960 * 3584), rel=1e-3)
    assert four.weights["language"] == pytest.approx(
        28 * layer * (0.5 + 2 / 128) + 2 * 2 * 151960 * 3584, rel=1e-3
    )
    assert four.weights["vision"] == half.weights["vision"]
    assert single.weights["language"] == pytest.approx(2 * half.weights["language"], rel=1e-3)
    assert half.cache == 2 * 28 * 4 * 128 * 2 * half.positions
    decode = half.costs[-1]
    assert decode.flops == pytest.approx(2 * (28 * layer + 151960 * 3584), rel=0.1)
    keys = 2 * 28 * 4 * 128 * 2 * (half.positions - 1024)
    read = 2 * (28 * layer + 151960 * 3584) + keys  # one row of the table
    assert decode.bytes_moved == pytest.approx(read, rel=0.01)
    # The packer's keys and values alone are two products per token, 1.37 TFLOP.
    pack = half.costs[1]
    assert 1.37e12 < pack.flops < 2.2e12


def test_precision_decides_which_boards_fit(published) -> None:
    _, plans = published
    by_name = {board.name: board for board in read_boards()}
    assert not plans["float16"].fits(by_name["orin_nx_16gb"])
    assert plans["float16"].fits(by_name["agx_orin_64gb"])
    assert plans["int4"].fits(by_name["orin_nx_16gb"])
    assert not plans["int4"].fits(by_name["orin_nano_8gb"])
    assert plans["int4"].running < plans["int8"].running < plans["float16"].running


def test_roofline_is_the_slower_of_arithmetic_and_traffic() -> None:
    board = Board("b", 8, bandwidth=100, tflops=10)
    assert GraphCost("arithmetic", 10**13, 10**9, 0).min_seconds(board) == pytest.approx(1.0)
    assert GraphCost("traffic", 10**9, 2e11, 0).min_seconds(board) == pytest.approx(2.0)


def test_target_selects_its_boards(
    random_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {name: read_target(name).boards for name in target_names()}
    known = {board.name for board in read_boards()}
    assert set().union(*named.values()) == known
    arguments = ["export", "plan", "--json", "--model", str(random_checkpoint)]
    for wanted, before in ((["--target", "jetson_thor"], []), ([], ["--target", "jetson_thor"])):
        assert main([*arguments[:1], *before, *arguments[1:], *wanted]) == 0
        report = json.loads(capsys.readouterr().out)
        assert set(report["boards"]) == set(named["jetson_thor"]) and report["offered"]
    assert main(["export", "--target", "jetson_thor", *arguments[1:], "--target", "cpu"]) == 0
    assert set(json.loads(capsys.readouterr().out)["boards"]) == known
    assert main(["export", "plan", "--target", "toaster"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_unoffered_precision_is_reported(
    random_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRECISIONS, "int3", PRECISIONS["int4"])
    arguments = ["export", "plan", "--precision", "int3", "--model", str(random_checkpoint)]
    assert main([*arguments, "--target", "jetson_orin_jp6"]) == 0
    assert "jetson_orin_jp6 does not offer int3" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "does not offer" not in capsys.readouterr().out


def test_command_line(
    random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "plan", "--precision", "int4"]) == 0
    text = capsys.readouterr().out
    assert "orin_nano_8gb" in text and "DOES NOT FIT" in text and "fits" in text
    # No weights needed.
    config = tmp_path / "config.json"
    config.write_text((random_checkpoint / "config.json").read_text())
    for model in (tmp_path, config):
        assert main(["export", "plan", "--model", str(model), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["boards"]["orin_nano_8gb"]["fits"] is True
    (tmp_path / "bad.json").write_text("{}")
    for wrong in (
        ["--precision", "int3"],
        ["--model", str(tmp_path / "absent")],
        ["--model", str(tmp_path / "bad.json")],
    ):
        assert main(["export", "plan", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ConfigError):
        make_plan(read_config(read_checkpoint_json(config), {}), "int3")
