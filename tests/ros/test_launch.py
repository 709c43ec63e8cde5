"""The launch file compiles, and describes one node where launch_ros is installed."""

from __future__ import annotations

import importlib.util

import pytest

from support.paths import ROOT

LAUNCH = ROOT / "launch" / "grounding.launch.py"


def test_launch_file_compiles() -> None:
    compile(LAUNCH.read_text(encoding="utf-8"), str(LAUNCH), "exec")


def test_launch_file_describes_one_node() -> None:
    launch_ros = pytest.importorskip(
        "launch_ros", reason="launch_ros is part of a ROS 2 installation, not of the wheels"
    )
    spec = importlib.util.spec_from_file_location("grounding_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    nodes = [e for e in description.entities if isinstance(e, launch_ros.actions.Node)]
    assert len(nodes) == 1
    names = {argument.name for argument in description.get_launch_arguments()}
    assert {"params_file", "namespace", "model", "image", "tracks", "events"} <= names
