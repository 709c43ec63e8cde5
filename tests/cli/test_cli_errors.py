"""Wrong input, a full disk, no memory and faults: one line and an exit code, for every command.

The commands run in this process: an error's way through ``main`` is the same as from a shell.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from llava_st_ros.cli.__main__ import INTERNAL_ERROR, TRACEBACK, main
from llava_st_ros.cli.outputs import print_tables
from support.paths import ROOT

Run = Callable[..., tuple[int, list[str]]]
MODEL = ROOT / "models" / "llava-st-tiny"
BAG = ROOT / "demo" / "bag"
TRAINING = {"seed": 1, "data": {}, "model": {}, "stages": {}}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; returns the exit code and the lines on stderr."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as error:  # argparse's
            code = int(error.code or 0)
        return code, capsys.readouterr().err.splitlines()

    return run


def with_body(monkeypatch: pytest.MonkeyPatch, body: Callable[[], object]) -> None:
    """Replace the subcommand ``ground``."""
    module = types.ModuleType("llava_st_ros.cli.ground")

    def run(args: argparse.Namespace) -> int:
        body()
        return 0

    module.HELP, module.add_arguments, module.run = "help", lambda parser: None, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def fail_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "llava-st: interrupted"),
        (MemoryError(), 2, "llava-st: out of memory; close other programs or use a smaller model"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate "
                         "memory: you tried to allocate 1 bytes.\nstack"),
            2,
            "llava-st: out of memory; close other programs or use a smaller model",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            2,
            "llava-st: /a/b: No space left on device; free disk space or write to another disk",
        ),
        (OSError(errno.EROFS, "Read-only file system"), 2,
         "llava-st: Read-only file system; write to another folder"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2,
         "llava-st: /a: Permission denied"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe", "/a.fifo"), 2,
         "llava-st: /a.fifo: Broken pipe"),
    ],
)  # fmt: skip
def test_errors_of_the_environment_are_one_line(
    monkeypatch: pytest.MonkeyPatch, run: Run, error: BaseException, code: int, line: str
) -> None:
    with_body(monkeypatch, fail_with(error))
    assert run("ground") == (code, [line])


def test_a_fault_of_the_program_is_one_line_that_says_how_to_see_the_traceback(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with_body(monkeypatch, fail_with(IndexError("list index out of range")))
    code, (line,) = run("ground")
    assert code == INTERNAL_ERROR == 70
    assert line.startswith(
        "llava-st: internal error, a fault of this program: IndexError: list index out of range "
        "(__main__.py:"  # the innermost line of the package
    )
    assert line.endswith(f"; {TRACEBACK}=1 shows the traceback; please report it")
    monkeypatch.setenv(TRACEBACK, "1")
    code, lines = run("ground")
    assert code == INTERNAL_ERROR
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == line


def test_a_full_disk_below_stdout_is_one_line(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    with_body(monkeypatch, lambda: print("x" * 100))
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(os, "dup2", lambda *_: full.truncate(0))  # keep pytest's own stdout
        code, lines = run("ground")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert code == 2
    assert lines == ["llava-st: No space left on device; free disk space or write to another disk"]


YAMLS = {
    "binary": (b"\xff\xfe\x00\x81seed: 1", "not text in UTF-8"),
    "deep": ("seed: " + "[" * 20_000, "nested more than"),
    "date": ("seed: 2001-99-99\ndata: {}\nmodel: {}\nstages: {}\n", "seed is '2001-99-99'"),
    "recursive": ("seed: &a [*a]\ndata: *a\nmodel: *a\nstages: *a\n", "or to itself"),
    "types": ("seed: 1\ndata: 3\nmodel: []\nstages: 5\n", "section data is 3"),
    "integer": ("seed: !!int 'x'\n", "'x' is not a value of int"),
    "list": ("- 1", "has no section"),
    "empty": ("", "has no section"),
    "stage": (json.dumps({**TRAINING, "data": {"clips": 0}}), "clips is 0"),
    "model": (json.dumps({**TRAINING, "data": {"clips": 1}}), "model lacks image_size"),
    "seed": (json.dumps({**TRAINING, "seed": -1}), "seed is -1"),
}


@pytest.mark.parametrize("case", YAMLS)
@pytest.mark.parametrize("action", ["run", "simulate", "ablate"])
def test_a_wrong_training_yaml_is_one_line(
    run: Run, tmp_path: Path, case: str, action: str
) -> None:
    content, found = YAMLS[case]
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = ("--out", tmp_path / "out") if action == "run" else ()
    work = () if action == "simulate" else ("--work", tmp_path / "work")
    code, (line,) = run("train", action, "--config", path, "--data", tmp_path / "no", *work, *out)
    assert (code, line.startswith("llava-st: "), found in line) == (2, True, True), line


FINETUNE = {"mix": [{"json": "a.json"}], "rates": {"packers": 1e-4}, "batch": 1}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mix": "a.json"}, "mix is 'a.json'; expected a list"),
        ({"mix": [3]}, r"mix[0] is 3; expected a mapping"),
        ({"rates": [1]}, "rates is [1]; expected a mapping"),
        ({"epochs": "many"}, "epochs is 'many'; expected a number"),
        ({"batch": 1.5}, "batch is 1.5; expected an integer"),
        ({"name": "../x"}, "name is '../x'"),
        ({"lora": {"rnk": 3}}, "did you mean rank?"),
        ({"btach": 3}, "did you mean batch?"),
    ],
)
def test_a_wrong_finetuning_yaml_is_one_line(
    run: Run, tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({**FINETUNE, **changes}))
    code, (line,) = run(
        *("train", "finetune", "--config", path, "--checkpoint", MODEL, "--data", tmp_path),
        *("--out", tmp_path / "out"),
    )
    assert (code, found in line) == (2, True), line


def test_finetune_names_missing_data_first(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps(FINETUNE))  # bfloat16 without mixed precision: the second problem
    code, (line,) = run(
        *("train", "finetune", "--config", path, "--checkpoint", MODEL, "--data", tmp_path / "no"),
        *("--out", tmp_path / "out"),
    )
    assert code == 2
    assert line == f"llava-st: no folder {tmp_path / 'no'}; expected the folder of the JSON files"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "run", "--out", "{}"),
        ("train", "run", "--work", "{}", "--out", "fine"),
        ("train", "finetune", "--config", "c", "--checkpoint", "c", "--data", ".", "--out", "{}"),
        ("train", "simulate", "--data", "{}"),
        ("train", "simulate", "--out", "{}"),
        ("train", "ablate", "--work", "{}"),
        ("train", "merge", "a", "b", "--out", "{}"),
        ("train", "average", "a", "b", "--out", "{}"),
        ("train", "curves", "--out", "{}.png"),
        ("export", "--out", "{}"),
        ("eval", "simulated", "test", "--store", "{}"),
        ("ground", "--bag", BAG, "--query", "the ball rolls", "--out", "{}"),
        ("ground", "--bag", BAG, "--query", "the ball rolls", "--overlay", "{}.mp4"),
    ],
)
def test_every_long_command_checks_its_output_before_it_starts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    code, (line,) = run(*(str(a).format("file/below/out") for a in arguments))
    assert code == 2
    assert "cannot write" in line and "Not a directory" in line and "file/below" in line
    assert (tmp_path / "file").read_text() == "kept"


def test_an_output_that_is_a_folder_or_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dir.mp4").mkdir()
    code, (line,) = run(
        "ground", "--bag", BAG, "--query", "the ball rolls", "--overlay", tmp_path / "dir.mp4"
    )
    assert (code, "Is a directory" in line) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ground", "--video", "{}/a.mp4", "--query", "a cup", "--overlay", "{}/a.mp4"),
        ("ground", "--images", "{}", "--query", "a cup", "--out", "{}/../in"),
        ("train", "finetune", "--config", "c", "--checkpoint", "{}", "--data", ".", "--out", "{}"),
    ],
)
def test_an_output_that_is_an_input_is_refused(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    image = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in ("a.mp4", "a.png"):
        (folder / name).write_bytes(image)
    code, (line,) = run(*(a.format(folder) for a in arguments))
    assert code == 2 and "is to be written, but it is the input" in line
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.mp4": image,
        "a.png": image,
    }


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_shell_closed_are_no_fault(tmp_path: Path, closed: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((48, 64, 3), 90, np.uint8))
    command = (
        f"exec {sys.executable} -m llava_st_ros.cli ground --image {tmp_path}/a.png --json "
        f"--model {MODEL} --query 'a ball' --out {tmp_path}/out {closed}"
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, cwd=ROOT, check=False)
    assert (result.returncode, b"Error" in result.stderr) == (0, False)
    assert b"no task" not in result.stdout  # notes are not written to stdout instead
    assert (tmp_path / "out" / "answers.jsonl").read_bytes().startswith(b"{")


def test_tables_for_a_reader_that_has_exited_are_no_negative_result(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with_body(monkeypatch, lambda: print_tables("a table"))
    monkeypatch.setattr("llava_st_ros.cli.__main__._discard_stdout", lambda: None)
    with contextlib.suppress(BrokenPipeError), open(write_end, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        code, lines = run("ground")
        monkeypatch.undo()
    assert (code, lines) == (0, [])


def copy_model(folder: Path) -> Path:
    return Path(shutil.copytree(MODEL, folder / "model"))


def change_config(model: Path, **changes: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def section(**changes: object) -> dict[str, object]:
    values = json.loads((MODEL / "config.json").read_text())["llava_st"]
    return {"llava_st": {**values, **changes}}


PACKER = {"embed_dim": 192, "num_heads": 8, "spatial_region": 2, "temporal_region": 5}
VISION = {"hidden_size": 192, "intermediate_size": 768, "num_layers": 4, "num_attention_heads": 6}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda m: (m / "config.json").write_text("[" * 200_000), "nested more than"),
        (
            lambda m: (m / "config.json").write_text(
                (m / "config.json").read_text().replace("2048", "9" * 5000)
            ),
            "max_position_embeddings is inf",
        ),
        (lambda m: (m / "config.json").write_bytes(b"\x80"), "not text in UTF-8"),
        (lambda m: change_config(m, **section(packer={**PACKER, "spatial_region": 0})), "region"),
        (lambda m: change_config(m, **section(packer={**PACKER, "num_heads": 0})), "num_heads"),
        (
            lambda m: change_config(m, **section(vision={**VISION, "num_attention_heads": 0})),
            "num_attention_heads",
        ),
        (lambda m: change_config(m, **section(vision={**VISION, "num_layers": 400})), "4 layers"),
        (lambda m: change_config(m, num_hidden_layers=400), "4 layers"),
        (lambda m: change_config(m, num_hidden_layers=10**9), "num_hidden_layers"),
        (lambda m: change_config(m, rope_theta=float("nan")), "rope_theta is nan"),
        (lambda m: change_config(m, **section(compat=["paper"])), "compat"),
        (lambda m: (m / "tokenizer.json").write_text("[" * 200_000), "tokenizer"),
        (lambda m: (m / "tokenizer.json").write_bytes(b"\x80"), "not text in UTF-8"),
        (lambda m: (m / "tokenizer_config.json").write_text("[" * 200_000), "nested more than"),
        (
            lambda m: (m / "tokenizer_config.json").write_text('{"added_tokens_decoder": 3}'),
            "unreadable tokenizer files",
        ),
        (lambda m: (m / "model.safetensors").write_bytes(b"\xff" * 100), "not a safetensors"),
        (
            lambda m: (m / "model.safetensors").write_bytes(
                (m / "model.safetensors").read_bytes()[:-100]
            ),
            "truncated",
        ),
        (lambda m: (m / "manifest.json").write_text("[" * 200_000), "nested more than"),
        (lambda m: (m / "manifest.json").write_text('{"format": {}}'), "format"),
    ],
)
def test_a_damaged_model_is_one_line(
    run: Run, tmp_path: Path, damage: Callable[[Path], object], found: str
) -> None:
    pytest.importorskip("torch")
    model = copy_model(tmp_path)
    damage(model)
    code, (line,) = run("ground", "--model", model, "--backend", "torch", "--bag", BAG,
                        "--query", "the ball rolls")  # fmt: skip
    assert (code, found in line) == (2, True), line


def test_a_parity_case_that_is_not_there_is_named_once(run: Run) -> None:
    code, (line,) = run("parity", "/nope")
    assert (code, line.count("/nope")) == (2, 1)


CASE = ROOT / "tests" / "golden" / "released-a"


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("case.json", "[" * 200_000, "nested more than"),
        ("case.json", '{"image_size": 1e999}', "too large"),
        ("inputs.npz", "PK", "inputs.npz"),
        ("expected.safetensors", "\0" * 20, "expected.safetensors"),
    ],
)
def test_a_damaged_parity_case_is_one_line(
    run: Run, tmp_path: Path, file: str, content: str, found: str
) -> None:
    case = Path(shutil.copytree(CASE, tmp_path / "case"))
    (case / file).write_text(content)
    code, (line,) = run("parity", case)
    assert (code, found in line) == (2, True), line


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--n", 0), "--n is 0"),
        (("--size", 0), "--size is 0"),
        (("--workers", -1), "--workers is -1"),
        (("--seed", -1), "--seed is -1"),
    ],
)
def test_wrong_arguments_of_simulate_are_one_line(
    run: Run, tmp_path: Path, arguments: tuple[object, ...], found: str
) -> None:
    code, (line,) = run("train", "simulate", "--out", tmp_path / "out", *arguments)
    assert (code, found in line, (tmp_path / "out").exists()) == (2, True, False), line


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--bag", BAG, "--fps", 5), "--fps applies to --images only"),
        (("--bag", BAG, "--window", "nan"), "window_seconds"),
        (("--bag", BAG, "--overlay", "x.mkv"), "expected a .mp4 or .avi file"),
        (("--images", "{}", "--fps", "nan"), "fps"),
        (("--images", "{}/empty"), "no images"),
        (("--video", "{}"), "is a folder"),
        (("--image", "{}/z.npy"), "z.npy"),
        (("--bag", BAG, "--topic", ""), "topic"),
        (("--bag", BAG, "--out", "a\0b"), "null byte"),
        (("--bag", BAG, "--overlay", "a\0b.mp4"), "null byte"),
        (("--bag", BAG, "--overlay", "x" * 300 + ".mp4"), "File name too long"),
        (("--images", "{}", "--topic", ""), "--topic applies to --bag only"),
    ],
)
def test_wrong_arguments_of_ground_are_one_line(
    run: Run, tmp_path: Path, arguments: tuple[object, ...], found: str
) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "z.npy", np.zeros(3))
    given = [str(argument).format(tmp_path) for argument in arguments]
    code, (line,) = run("ground", *given, "--query", "the ball rolls", "--model", MODEL)
    assert (code, found in line) == (2, True), line
