"""The llava-st command, run as from a shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import llava_st_ros
from llava_st_ros.cli import eval as eval_command
from llava_st_ros.cli import export, query, train
from llava_st_ros.cli.__main__ import COMMANDS
from support.paths import ROOT


def llava_st(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llava_st_ros.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture
def fake_command(tmp_path: Path):
    """Run main() with the body of the subcommand ``ground`` replaced."""

    def start(body: str) -> subprocess.Popen[str]:
        script = tmp_path / "main.py"
        script.write_text(
            textwrap.dedent(
                """
                import sys, types
                from llava_st_ros.cli import __main__ as cli
                from llava_st_ros.errors import DataError

                def run(args):
                {body}

                module = types.ModuleType("llava_st_ros.cli.ground")
                module.HELP, module.add_arguments, module.run = "help", lambda parser: None, run
                sys.modules[module.__name__] = module
                sys.exit(cli.main(["ground"]))
                """
            ).format(body=textwrap.indent(textwrap.dedent(body), "    ")),
            encoding="utf-8",
        )
        return subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            },
        )

    return start


def test_help_lists_every_command() -> None:
    result = llava_st("--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^\s+{name}\s+\S", result.stdout, re.MULTILINE), name


def test_every_subcommand_module_is_a_command() -> None:
    folder = ROOT / "llava_st_ros/cli"
    modules = {
        path.stem
        for path in folder.glob("[!_]*.py")
        if "def run(" in path.read_text(encoding="utf-8")
    }
    assert modules == {
        *COMMANDS,
        *(f"train_{action}" for action in train.ACTIONS),
        *(f"export_{action}" for action in export.ACTIONS),
        *(f"eval_{action}" for action in eval_command.ACTIONS),
        *(f"query_{action}" for action in query.ACTIONS),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = llava_st(name, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: llava-st {name}")


def test_version_agrees_with_package_xml() -> None:
    assert llava_st("--version").stdout.split() == ["llava-st", llava_st_ros.__version__]
    package_xml = (ROOT / "package.xml").read_text(encoding="utf-8")
    assert f"<version>{llava_st_ros.__version__}</version>" in package_xml


@pytest.mark.parametrize("arguments", [(), ("fly",), ("parity",), ("ground", "--no-such-option")])
def test_invalid_usage_exits_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    result = llava_st(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "usage: llava-st" in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_command_error_lists_the_commands() -> None:
    error = llava_st("fly").stderr.splitlines()[-1]
    assert "fly" in error
    assert all(name in error for name in COMMANDS)


def test_invalid_input_is_one_line_and_exits_2(tmp_path: Path) -> None:
    result = llava_st("parity", str(tmp_path / "nothing_here"))
    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("llava-st: ")
    assert "nothing_here" in lines[0]


def test_error_with_line_breaks_is_printed_as_one_line(fake_command) -> None:
    process = fake_command('raise DataError("two\\nlines", "join\\nthem")')
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "llava-st: two lines; join them\n"


def test_exit_code_of_the_command_is_returned(fake_command) -> None:
    process = fake_command("return 7")
    process.communicate(timeout=60)
    assert process.returncode == 7


def test_interrupt_exits_130_without_a_traceback(fake_command) -> None:
    process = fake_command(
        """
        import time
        print("running", flush=True)
        while True:
            time.sleep(0.01)
        """
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "llava-st: interrupted\n"


def test_closed_pipe_is_not_an_error(fake_command) -> None:
    process = fake_command(
        """
        for i in range(1_000_000):
            print(i)
        return 0
        """
    )
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_only_the_named_command_is_imported() -> None:
    program = (
        "import sys; from llava_st_ros.cli.__main__ import build_parser; build_parser(['parity'])\n"
        "print(*sorted(n for n in sys.modules if n.startswith('llava_st_ros.cli.')))\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == [
        "llava_st_ros.cli.__main__",
        "llava_st_ros.cli.parity",
        "False",
    ], result.stderr
