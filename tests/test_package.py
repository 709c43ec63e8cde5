"""The package's public API, its version, and what importing it costs."""

from __future__ import annotations

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
            tools_only = set(step.split()) <= {"pytest", "hypothesis"}
            assert tools_only or f"-c src/llava_st_ros/requirements/{NATIVE_ROS.name}" in step, step


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
    assert {"ament_cmake_pytest", "python3-pytest"} <= {depend.text for depend in depends}
