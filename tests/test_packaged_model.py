"""The model that is part of the repository and of the installed package, with its engine."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from llava_st_ros.backends.default_model import DEFAULT_ENGINE, DEFAULT_MODEL, default_model
from llava_st_ros.cli import __main__ as cli
from llava_st_ros.engine.manifest import NAME, check_checkpoint, check_files, read_manifest
from support.paths import ROOT
from support.threads import one_thread
from support.without_torch import RUN

CHECKPOINT, ENGINE = ROOT / "models" / DEFAULT_MODEL, ROOT / "models" / DEFAULT_ENGINE
MIB = 1 << 20
# Absolute paths, and what names the sources of an exporter.
LOCAL = re.compile(
    rb"(?<![\w.])/(?:home|root|tmp|work|workspace|usr|opt|mnt|media|srv|var|data|Users|builds?)/"
    rb"|[A-Za-z]:\\|(?:site|dist)-packages|\.py\b"
)


def structure_of(path: Path) -> bytes:
    """An ONNX file without its weights' values, the last bits of which depend on the processor."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.SerializeToString(deterministic=True)


def test_the_engine_was_exported_from_the_checkpoint() -> None:
    """If this fails, the checkpoint was changed without its engine: run `make engine`."""
    manifest = read_manifest(ENGINE)
    check_files(ENGINE, manifest, hash_all=True)
    check_checkpoint(ENGINE, manifest, CHECKPOINT)
    assert (manifest.backend, manifest.target, manifest.precision) == (
        "onnxruntime", "cpu", "float32"
    )  # fmt: skip
    assert default_model() == ENGINE


def test_it_is_part_of_the_repository_and_small() -> None:
    files = {path.name: path.stat().st_size for path in ENGINE.iterdir()}
    assert set(files) == {NAME, *read_manifest(ENGINE).files}
    assert sum(files.values()) < 25 * MIB
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = [f"models/{DEFAULT_ENGINE}/{name}" for name in files]
    git = ["git", "-C", str(ROOT)]
    ignored = subprocess.run([*git, "check-ignore", *names], capture_output=True, text=True)
    assert (ignored.returncode, ignored.stdout) == (1, ""), ignored
    attributes = subprocess.run(
        [*git, "check-attr", "text", *names], capture_output=True, text=True, check=True
    )
    assert {line.split(": ")[2] for line in attributes.stdout.splitlines()} == {"unset"}


@pytest.mark.parametrize("text", ["/home/me/llava/export/a.onnx", "C:\\me", "a/graphs/vision.py"])
def test_paths_of_a_machine_are_recognized(text: str) -> None:
    assert LOCAL.search(text.encode()) and not LOCAL.search(b"model/layers.0/mlp/MatMul")


def test_its_files_contain_no_path_of_the_machine_that_exported_it() -> None:
    for path in sorted(ENGINE.iterdir()):
        if path.suffix != ".safetensors":  # which has names of tables and numbers only
            content = structure_of(path) if path.suffix == ".onnx" else path.read_bytes()
            assert LOCAL.search(content) is None, path


@pytest.mark.slow
def test_its_graphs_are_those_that_an_export_writes_now(tmp_path: Path) -> None:
    """If this fails, the export was changed: docs/export.md has the command that exports again."""
    from llava_st_ros.export.engine_directory import PACKAGES, compute_dtype, write_graphs
    from llava_st_ros.export.runtimes import export_runtime
    from llava_st_ros.export.target import read_target
    from llava_st_ros.model.checkpoint import load_checkpoint

    manifest, target = read_manifest(ENGINE), read_target("cpu")
    for package in PACKAGES:
        if package.__version__ != manifest.versions[package.__name__]:
            pytest.skip(f"the engine was exported with another version of {package.__name__}")
    checkpoint = load_checkpoint(CHECKPOINT, dtype=compute_dtype(target, manifest.precision))
    with one_thread():
        graphs = write_graphs(checkpoint, tmp_path)
        export_runtime(target, "cpu", None).build(tmp_path, graphs, checkpoint.config)
    assert graphs == manifest.graphs
    for name in graphs.values():
        assert structure_of(tmp_path / name) == structure_of(ENGINE / name), name


def test_make_engine_exports_again_only_when_contents_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = subprocess.run(
        ["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert plan.index("scripts/export_engine") < plan.index("demo.run")

    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "export_engine", tmp_path / "scripts")
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "models" / DEFAULT_MODEL))
    engine = Path(shutil.copytree(ENGINE, tmp_path / "models" / DEFAULT_ENGINE))
    exports: list[list[str]] = []
    monkeypatch.setattr(cli, "main", exports.append)

    for path in checkpoint.iterdir():
        os.utime(path)  # newer than the engine
    runpy.run_path(script)
    assert exports == [] and capsys.readouterr().out == ""
    changes = {
        checkpoint / "model.safetensors": "is not the checkpoint that",
        checkpoint / "config.json": "is not the checkpoint that",
        engine / "vision.onnx": "; expected ",
    }
    for path, reason in changes.items():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1", b"2", 1) + b"\n")
        with pytest.raises(SystemExit):
            runpy.run_path(script)
        assert exports.pop() == [
            "export", "--checkpoint", str(checkpoint), "--out", str(engine)
        ]  # fmt: skip
        assert reason in capsys.readouterr().out
        path.write_bytes(content)
    runpy.run_path(script)
    assert exports == []


@pytest.mark.slow
def test_a_wheel_grounds_without_torch_and_without_an_export(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("llava_st_ros", "engine", "export", "config", "launch", "models", "systemd"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "native")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", site, wheel], check=True)
    shutil.rmtree(source)
    installed = site / "share" / "llava_st_ros" / "models"

    def python(*arguments: str | Path) -> str:
        run = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(site)}, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout

    ground = (
        "-c", RUN, "ground", "--bag", ROOT / "demo" / "bag", "--query", "the green ball", "--json"
    )  # fmt: skip
    result = json.loads(python(*ground))
    assert result["model"] == str(installed / DEFAULT_ENGINE) and result["tracks"]
    shutil.rmtree(installed / DEFAULT_MODEL)  # a robot may leave it out: only torch reads it
    assert json.loads(python(*ground)) == result
