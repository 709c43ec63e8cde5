"""The launch file: arguments that are not given leave the parameter file's values alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.paths import ROOT

LAUNCH = ROOT / "launch" / "grounding.launch.py"
ARGUMENTS = {
    "params_file", "namespace", "model", "image", "tracks", "events", "autostart", "use_sim_time"
}  # fmt: skip


def load_launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grounding_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for launch and launch_ros, which the wheels do not have: they keep arguments."""

    class LaunchConfiguration:
        def __init__(self, name: str) -> None:
            self.name = name

        def perform(self, context: dict[str, str]) -> str:
            return context[self.name]

    class LaunchDescription:
        def __init__(self) -> None:
            self.entities: list[Any] = []

        def add_action(self, action: Any) -> None:
            self.entities.append(action)

    def keep(*values: Any, **named: Any) -> SimpleNamespace:
        return SimpleNamespace(values=values, **named)

    for name, attributes in {
        "launch": {"LaunchContext": dict, "LaunchDescription": LaunchDescription},
        "launch.actions": {"DeclareLaunchArgument": keep, "OpaqueFunction": keep},
        "launch.substitutions": {
            "LaunchConfiguration": LaunchConfiguration, "PathJoinSubstitution": keep
        },
        "launch_ros": {},
        "launch_ros.actions": {"Node": keep},
        "launch_ros.parameter_descriptions": {"ParameterValue": keep},
        "launch_ros.substitutions": {"FindPackageShare": keep},
    }.items():  # fmt: skip
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)


def node_action(**given: str) -> Any:
    """The node that the launch file describes if these arguments are given."""
    *arguments, function = load_launch_file().generate_launch_description().entities
    values = {argument.values[0]: argument.default_value for argument in arguments}
    assert set(values) == ARGUMENTS
    (node,) = function.function({**values, **given})
    return node


@pytest.mark.usefixtures("stand_ins")
def test_arguments_override_the_file_only_if_given() -> None:
    assert node_action().parameters == []
    (parameters,) = node_action(model="/models/a", use_sim_time="true").parameters
    kinds = {name: (value.values[0].name, value.value_type) for name, value in parameters.items()}
    assert kinds == {"model": ("model", str), "use_sim_time": ("use_sim_time", bool)}
    (parameters,) = node_action(autostart="false").parameters
    assert set(parameters) == {"autostart"}


@pytest.mark.usefixtures("stand_ins")
def test_parameter_file_is_passed_on_even_if_it_is_missing() -> None:
    flag, file = node_action().ros_arguments
    assert (flag, file.name) == ("--params-file", "params_file")


def test_launch_starts_the_node_with_the_file_and_the_given_arguments(tmp_path: Path) -> None:
    launch_ros = pytest.importorskip(
        "launch_ros", reason="launch_ros is part of a ROS 2 installation, not of the wheels"
    )
    launch = pytest.importorskip("launch")
    description = load_launch_file().generate_launch_description()
    assert {argument.name for argument in description.get_launch_arguments()} == ARGUMENTS
    context = launch.LaunchContext()
    context.launch_configurations.update(
        dict.fromkeys(ARGUMENTS, ""), params_file=str(tmp_path / "missing.yaml"), autostart="false",
        image="/front/image_raw", tracks="tracks", events="events",
    )  # fmt: skip
    (function,) = (e for e in description.entities if isinstance(e, launch.actions.OpaqueFunction))
    (node,) = function.execute(context)
    assert isinstance(node, launch_ros.actions.Node)
    node._perform_substitutions(context)
    command = [
        launch.utilities.perform_substitutions(context, part)
        for part in node.cmd
        if not isinstance(part[0], launch_ros.substitutions.ExecutableInPackage)
        and not isinstance(part[0], launch.substitutions.LocalSubstitution)
    ]
    files = [command[i + 1] for i, part in enumerate(command) if part == "--params-file"]
    assert files[0] == str(tmp_path / "missing.yaml")
    (given,) = files[1:]
    assert "autostart: false" in Path(given).read_text(encoding="utf-8")
    assert "model" not in Path(given).read_text(encoding="utf-8")
    assert "image:=/front/image_raw" in command
