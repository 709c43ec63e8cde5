"""The launch files: what is given overrides the parameter file, and the node that starts is right.

The first tests use stand-ins for launch, which the ROS wheels do not have. The others run
``ros2 launch`` and are skipped where it is missing (CONTRIBUTING.md says how to have it).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.paths import ROOT

if TYPE_CHECKING:
    from support.ros_client import ClientNode

LAUNCH = ROOT / "launch" / "grounding.launch.py"
ARGUMENTS = {
    "params_file", "namespace", "log_level", "image", "tracks", "events", "cameras", "transport",
    "queries", "queries_file", "model", "backend", "device", "autostart", "use_sim_time",
}  # fmt: skip


def load_launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grounding_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for launch and launch_ros that keep arguments."""

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
        "launch_ros.actions": {"LifecycleNode": keep},
        "launch_ros.substitutions": {"FindPackageShare": keep},
    }.items():  # fmt: skip
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)


def ros_arguments(**given: str) -> list[Any]:
    """The ROS arguments of the node that the launch file describes if these are given."""
    *arguments, function = load_launch_file().generate_launch_description().entities
    values = {argument.values[0]: argument.default_value for argument in arguments}
    assert set(values) == ARGUMENTS
    (node,) = function.function({**values, **given})
    flag, file, *others = node.ros_arguments
    # The file is passed on whether or not it exists: the node rejects a missing one.
    assert (flag, file.name) == ("--params-file", "params_file")
    return others


@pytest.mark.usefixtures("stand_ins")
def test_arguments_override_the_file_only_if_given() -> None:
    assert ros_arguments() == []
    assert ros_arguments(autostart="false", model=" ") == ["-p", "autostart:=false"]
    text = "the cook's engine #2: int8"  # all of it is the path, though YAML would read a comment
    (flag, rule) = ros_arguments(model=text)
    assert (flag, yaml.safe_load(rule.removeprefix("model:="))) == ("-p", text)
    assert ros_arguments(log_level="debug") == ["--log-level", "debug"]
    given = ros_arguments(cameras="[a=/a, b=/b]", queries="['the box: red']", use_sim_time="true")
    assert given == [
        "-p", "cameras:=[a=/a, b=/b]", "-p", "queries:=['the box: red']",
        "-p", "use_sim_time:=true",
    ]  # fmt: skip


@pytest.fixture
def ros2_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., Any]:
    """``ros2 launch llava_st_ros``, its files where ``colcon build --symlink-install`` puts them.

    A context that yields the running process, and ends it as Ctrl-C does.
    """
    for module in ("rclpy", "launch_ros", "ros2launch"):
        pytest.importorskip(
            module, reason="ros2 launch is part of a ROS 2 installation, not of the wheels"
        )
    ros2 = shutil.which("ros2")
    if ros2 is None:
        pytest.skip("there is no command ros2 on PATH")
    request.getfixturevalue("domain")
    prefix = tmp_path / "install"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    share, programs = prefix / "share" / "llava_st_ros", prefix / "lib" / "llava_st_ros"
    for folder in (index, share / "launch", share / "config", programs):
        folder.mkdir(parents=True)
    (index / "llava_st_ros").touch()
    for path in (*ROOT.glob("launch/*.py"), *ROOT.glob("config/*.yaml"), ROOT / "models"):
        (share / path.relative_to(ROOT)).symlink_to(path)
    (programs / "grounding_node").symlink_to(ROOT / "scripts" / "grounding_node")
    prefixes = f"{prefix}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"
    monkeypatch.setenv("AMENT_PREFIX_PATH", prefixes)
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    @contextmanager
    def start(file: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, ros2, "launch", "llava_st_ros", file, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as running:  # fmt: skip
            try:
                yield running
            finally:
                if running.poll() is None:
                    running.send_signal(signal.SIGINT)
                try:
                    running.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(running.pid, signal.SIGKILL)
                    raise

    return start


@pytest.mark.ros
def test_every_argument_has_a_description(ros2_launch: Callable[..., Any]) -> None:
    for file in ("grounding.launch.py", "grounding_managed.launch.py"):
        with ros2_launch(file, "--show-args") as process:
            text, _ = process.communicate(timeout=30)
        blocks = text.split("\n    '")[1:]
        shown = {block.partition("'")[0]: block.splitlines()[1].strip() for block in blocks}
        assert set(shown) == ARGUMENTS, text
        assert all(len(description) > 10 for description in shown.values()), shown


@pytest.mark.ros
@pytest.mark.parametrize("file", ["grounding.launch.py", "grounding_managed.launch.py"])
def test_a_launched_node_is_active_with_the_given_cameras_and_queries(
    ros2_launch: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest, file: str
) -> None:
    from lifecycle_msgs.srv import GetState
    from rcl_interfaces.srv import GetParameters

    from llava_st_ros import srv

    queries = tmp_path / "the cook's #1: queries.yaml"
    queries.write_text(
        "- the green ball\n- {id: drop, task: TVG, cameras: [wrist], "
        'text: "it\'s a \\"ball\\": # falls"}\n'
    )
    (tmp_path / "robot.yaml").write_text(
        "/**: {ros__parameters: {max_queries: 7, transport: raw, queries: [the red box]}}\n"
    )
    client: ClientNode = request.getfixturevalue("client")
    names = ["max_queries", "transport", "use_sim_time"]
    with ros2_launch(
        file, "namespace:=robot", f"params_file:={tmp_path / 'robot.yaml'}",
        "cameras:=[front=/front/image_raw, wrist=/wrist/image_raw]", "transport:=compressed",
        f"queries_file:={queries}", "tracks:=found",
    ) as process:  # fmt: skip
        client.wait_log("active: images from /front/image_raw/compressed, /wrist/image_raw/comp")
        state = client.call(GetState, "/robot/grounding/get_state", GetState.Request())
        assert state.current_state.label == "active"
        answer = client.call(
            srv.ListQueries, "/robot/grounding/list_queries", srv.ListQueries.Request()
        )
        # That of the parameter file, which the command line did not replace, then the file's.
        assert [(query.id, query.text) for query in answer.queries] == [
            ("q1", "the red box"), ("q2", "the green ball"), ("drop", "it's a \"ball\": # falls")
        ]  # fmt: skip
        parameters = client.call(
            GetParameters, "/robot/grounding/get_parameters", GetParameters.Request(names=names)
        )
        limit, transport, clock = parameters.values
        assert (limit.integer_value, transport.string_value, clock.bool_value) == (
            7, "compressed", False
        )  # fmt: skip
        assert client.count_publishers("/robot/found") == 1
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert "process has finished cleanly" in output, output
    assert process.returncode == 0, output


@pytest.mark.ros
@pytest.mark.parametrize("file", ["grounding.launch.py", "grounding_managed.launch.py"])
def test_launch_ends_with_a_node_that_cannot_start(
    ros2_launch: Callable[..., Any], tmp_path: Path, file: str
) -> None:
    path = tmp_path / "queries.yaml"
    path.write_text("- the green ball\n\n- {text: a ball falls, task: XVG}\n")
    with ros2_launch(file, f"queries_file:={path}") as process:
        output, _ = process.communicate(timeout=60)
    (line,) = (line for line in output.splitlines() if "grounding: " in line)
    assert f"grounding: queries_file: {path}, line 3: " in line and "XVG" in line
    assert "exit code 2" in output
