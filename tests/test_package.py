"""The package's public API, its version, and what importing it costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import llava_st_ros
from support.paths import ROOT


def test_every_public_name_is_importable() -> None:
    public = {name: getattr(llava_st_ros, name) for name in llava_st_ros.__all__}
    assert all(value.__name__ == name for name, value in public.items())
    assert set(llava_st_ros.__all__) <= set(dir(llava_st_ros))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'llava_st_ros' has no attribute 'Grouder'"):
        _ = llava_st_ros.Grouder


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, llava_st_ros\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'torch', 'yaml')"
        " or m.startswith('llava_st_ros.')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_package_xml_has_the_same_version() -> None:
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    assert version == llava_st_ros.__version__


def test_type_hints_are_shipped() -> None:
    assert (Path(llava_st_ros.__file__).parent / "py.typed").is_file()


NATIVE_ROS = ROOT / "requirements" / "native-ros.txt"


def test_documented_pip_steps_keep_a_native_ros_on_numpy_1() -> None:
    """Every pip install in a workspace's src/ or in the section about it has the constraints."""
    workspace = (ROOT / "docs" / "install.md").read_text().split("## A ROS 2 workspace")[1]
    texts = {
        "install.md": workspace.split("\n## ")[0],
        "export.md": (ROOT / "docs" / "export.md").read_text().split("## From a checkpoint")[1],
    }
    for name, text in texts.items():
        steps = re.findall(r"pip install ([^\n`]+)", text)
        assert len(steps) >= 2, name
        for step in steps:
            requirements = "src/llava_st_ros/requirements"
            constrained = (f"-c {requirements}/{NATIVE_ROS.name}", f"-r {requirements}/robot.txt")
            assert any(argument in step for argument in constrained), step
    assert f"-c {NATIVE_ROS.name}" in (NATIVE_ROS.parent / "robot.txt").read_text().splitlines()


def test_a_robots_packages_are_those_of_pip_install() -> None:
    """requirements/robot.txt pins exactly what pyproject.toml requires."""
    listed = (NATIVE_ROS.parent / "robot.txt").read_text().splitlines()
    files = [line.removeprefix("-r ") for line in listed if line.startswith("-r ")]
    pins = [line for file in files for line in (NATIVE_ROS.parent / file).read_text().splitlines()]
    pinned = {re.split("[=;]", line)[0] for line in pins if "==" in line}
    # tomllib is part of Python from 3.11 on.
    section = re.search(
        r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert section is not None
    assert pinned == set(re.findall(r'"([a-zA-Z0-9_-]+)', section[1]))


def test_the_service_runs_the_node_and_knows_its_exit_codes(tmp_path: Path) -> None:
    """Its command line, with stand-ins for the workspace, passes arguments and exit code on."""
    unit, where = (ROOT / "systemd" / "grounding.service").read_text(), tmp_path / "my robot"
    documented = (ROOT / "docs" / "node.md").read_text().partition("## Lifecycle and shutdown")[2]
    codes = re.findall(r"^\| (\d) \| (.*?) \|$", documented, re.M)
    restarted = {code for code, meaning in codes if "executor failed" in meaning}
    stopped = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.M)[0].split()
    assert {code for code, _ in codes} == {"0", *restarted, *stopped} and restarted == {"1"}
    timeout = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)[0]
    assert (
        "| `stop_timeout` | `8.0` |" in (ROOT / "docs" / "node.md").read_text() and int(timeout) > 9
    )

    node = where / "install" / "lib" / "llava_st_ros" / "grounding_node"
    node.parent.mkdir(parents=True)
    node.write_text('#!/bin/bash\nprintf "%s|" "$MARK" "$@"\nexit 3\n')
    (where / "bin").mkdir()
    (where / "bin" / "ros2").write_text(
        f'#!/bin/bash\n[ "$*" = "pkg prefix llava_st_ros" ] && echo "{where}/install"\n'
    )
    for program in (node, where / "bin" / "ros2"):
        program.chmod(0o755)
    (where / "ros.bash").write_text(f'PATH="{where}/bin:$PATH"\nexport MARK=ros\n')
    (where / "install" / "setup.bash").write_text("MARK=$MARK,workspace\n")
    (where / "venv" / "bin").mkdir(parents=True)
    (where / "venv" / "bin" / "activate").write_text("MARK=$MARK,venv\n")
    lines = (ROOT / "systemd" / "environment").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    values = {
        "ROS_SETUP": where / "ros.bash", "WORKSPACE": where, "VENV": where / "venv",
        "PARAMS_FILE": where / "a.yaml", "ROS_ARGUMENTS": "-r image:=/front/image_raw",
    }  # fmt: skip
    assert set(values) < names
    command = re.findall(r"^ExecStart=/bin/bash -c '(.*)'$", unit, re.M)[0]
    for venv, mark in ((where / "venv", "ros,workspace,venv"), ("", "ros,workspace")):
        line = command
        for name, value in {**values, "VENV": venv}.items():
            line = line.replace(f"${{{name}}}", str(value))  # as systemd does
        assert "${" not in line
        run = subprocess.run(
            ["/bin/bash", "-c", line.replace("$$", "$")], capture_output=True, text=True
        )
        assert run.returncode == 3, run.stderr
        assert run.stdout.split("|")[:-1] == [
            mark, "--ros-args", "--params-file", f"{where}/a.yaml", "-r", "image:=/front/image_raw"
        ]  # fmt: skip


def test_constraints_for_a_native_ros_agree_with_the_pinned_versions() -> None:
    constraints = dict(
        line.split("<") for line in NATIVE_ROS.read_text().splitlines() if not line.startswith("#")
    )
    assert constraints["numpy"] == "2"
    pins = (ROOT / "requirements" / "arrays-native.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in pins if "==" in line)
    assert set(pinned) <= set(constraints)
    for name, version in pinned.items():
        assert _numbers(version) < _numbers(constraints[name]), name
    # The OpenCV that the ROS wheels are used with is one of those that the constraints exclude.
    wheels = (ROOT / "requirements" / "arrays.txt").read_text()
    newest = re.findall(r"opencv-python-headless==([\d.]+)", wheels)[0]
    assert _numbers(newest) >= _numbers(constraints["opencv-python-headless"])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def test_colcon_test_runs_tests_that_exist() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    section = re.search(r"if\(BUILD_TESTING.*?endif\(\)", cmake, re.DOTALL)
    assert section is not None and "ament_add_pytest_test(" in section[0]
    listed = re.search(r"foreach\(tests ([^)]*)\)", section[0])
    assert listed is not None
    paths = [ROOT / "tests" / name for name in listed[1].split()]
    assert len(paths) >= 5 and all(path.exists() for path in paths)
    depends = ET.parse(ROOT / "package.xml").getroot().iter("test_depend")
    assert {"ament_cmake_pytest", "python3-hypothesis", "python3-pytest"} <= {
        depend.text for depend in depends
    }


def test_pip_and_colcon_share_the_same_folders_and_colcon_installs_the_commands() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    by_colcon = re.search(r"install\(DIRECTORY ([\w ]+)\s+DESTINATION share/", cmake)
    by_pip = re.search(r"for top in \((.*)\):", (ROOT / "setup.py").read_text())
    assert by_colcon is not None and by_pip is not None
    folders = {"config", "launch", "models", "systemd"}
    assert set(by_colcon[1].split()) == set(re.findall(r'"(\w+)"', by_pip[1])) == folders
    installed = dict(
        reversed(line) for line in re.findall(r"install\(PROGRAMS (.*) DESTINATION (.*)\)", cmake)
    )
    assert installed == {
        "lib/${PROJECT_NAME}": "scripts/grounding_node scripts/llava-st",  # ros2 run
        "bin": "scripts/llava-st",  # PATH
    }
    command = ROOT / "scripts" / "llava-st"
    assert os.access(command, os.X_OK)
    run = subprocess.run([sys.executable, command, "--version"], capture_output=True, text=True)
    assert run.stdout.split()[-1] == llava_st_ros.__version__, run.stderr


def test_the_container_copies_what_exists_and_pins_nothing_itself() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [line.split()[1] for line in dockerfile.splitlines() if line.startswith("COPY ")]
    assert len(copied) >= 4
    for source in copied:
        assert (ROOT / source).exists() and source not in ignored, source
    assert os.access(ROOT / "docker" / "entrypoint", os.X_OK)
    # Python packages and their versions are those of requirements/.
    assert not re.search(r"==\d", dockerfile)
    listed = re.findall(r"requirements/([\w-]+\.txt)", dockerfile)
    assert "robot.txt" in listed
    assert all((ROOT / "requirements" / name).is_file() for name in listed)
    # What install.md passes for TensorRT is the extra `tensorrt`.
    extra = re.search(r"^tensorrt = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M)
    page = (ROOT / "docs" / "install.md").read_text()
    passed = re.findall(r'PACKAGES="([^"]*)"', page)
    assert extra is not None and len(passed) == 2
    for packages in passed:
        names = [package.removesuffix(",<13") for package in packages.split()]
        assert names == re.findall(r'"([^"]+)"', extra[1])
    arguments = set(re.findall(r"--build-arg (\w+)=", page))
    assert arguments <= set(re.findall(r"^ARG (\w+)", dockerfile, re.M))
