"""Parameters: what a node accepts from YAML and at runtime, and the one line for all else."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

import rclpy
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from llava_st_ros.errors import ConfigError, LlavaStError
from llava_st_ros.ros.camera_sources import parse_cameras, topic_part
from llava_st_ros.ros.main import main
from llava_st_ros.ros.model_loading import LoadedModel
from llava_st_ros.ros.node import GroundingNode
from llava_st_ros.ros.parameter_sources import ParameterSources
from llava_st_ros.ros.parameter_values import read_value
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.publishers import overlay_topic
from llava_st_ros.ros.stop_signals import STOP_SIGNALS
from llava_st_ros.srv import ListQueries
from support.ros_client import ClientNode

pytestmark = pytest.mark.ros
WRITTEN = """
010 08 0x1F -3 +4 1e3 1. .5 -.inf .NaN inf nan yes N off True ~ null 1_000 0o17 12:30 0b1 1e -0 0x
99999999999999999999 1e999 'quoted' "010" 2020-01-01 abc
"""
FIELDS = {entry.name: entry for entry in fields(NodeParameters)}


def _nested_aliases(levels: int) -> bytes:
    """A small parameter file with 2^levels values."""
    lines = ["/**:", "  ros__parameters:", "    p0: &a0 {x: 1, y: 1}"]
    lines += [f"    p{i + 1}: &a{i + 1} {{x: *a{i}, y: *a{i}}}" for i in range(levels)]
    return "\n".join(lines).encode()


class Yaml:
    """Writes parameter files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *lines: str, node: str = "/**", name: str = "robot.yaml") -> tuple[str, ...]:
        path = self._folder / name
        body = "\n".join("    " + line for line in lines)
        path.write_text(f"{node}:\n  ros__parameters:\n{body}\n", encoding="utf-8")
        return "--params-file", str(path)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Yaml:
    return Yaml(tmp_path)


@contextmanager
def node(domain: int, *arguments: str) -> Iterator[GroundingNode]:
    """An unconfigured node that was started with ROS arguments."""
    line = ["node", "--ros-args", *arguments]
    context = Context()
    rclpy.init(args=line, context=context, domain_id=domain)
    try:
        running = GroundingNode(context=context, sources=ParameterSources.from_arguments(line))
        yield running
        running.destroy_node()
    finally:
        context.try_shutdown()


@pytest.fixture
def fail_to_start(domain: int, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Calls ``main``, checks its exit code and that there is one line, and returns the line."""

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def load(parameters: NodeParameters) -> LoadedModel:
        raise AssertionError("the node has started")

    def fail_to_start(*arguments: str) -> str:
        assert main(["node", *arguments], load=load) == 2
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        return line.removeprefix("grounding: ")

    yield fail_to_start
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("written", ["[]", "['']", "[' ', '']"])
def test_empty_list_means_none(domain: int, yaml_file: Yaml, written: str) -> None:
    for arguments in (
        ("-p", f"queries:={written}", "-p", f"cameras:={written}"),
        yaml_file(f"queries: {written}", f"cameras: {written}"),
    ):
        with node(domain, *arguments) as running:
            assert running.parameters.camera_sources == ()
            assert not any(query.strip() for query in running.parameters.queries)
            assert running.get_parameter("queries").type_ == Parameter.Type.STRING_ARRAY


def test_node_without_cameras_starts_and_warns(
    client: ClientNode, start_node: Callable[..., GroundingNode]
) -> None:
    running = start_node(cameras=[], queries=[])
    assert running.image_topics == ()
    client.wait_log("cameras is empty")


@pytest.mark.parametrize(
    ("lines", "parameter", "value"),
    [
        (("default_period: 2",), "default_period", 2.0),
        (("max_frame_rate: 0",), "max_frame_rate", 0.0),
        (("threads: 2.0",), "threads", 2),
        (("threads: 08",), "threads", 8),
        (("queries: ['null', '010', \"yes\"]",), "queries", ("null", "010", "yes")),
        (("queries: [grüne Kugel]",), "queries", ("grüne Kugel",)),
        (("device: {serial: 7}",), "device", ""),
        (("use_sim_time: true", "qos_overrides: {/x: {depth: 3}}", "foo: 1"), "threads", 0),
    ],
)
def test_valid_values_of_a_file_are_accepted(
    domain: int, yaml_file: Yaml, lines: tuple[str, ...], parameter: str, value: Any
) -> None:
    with node(domain, *yaml_file(*lines)) as running:
        found = getattr(running.parameters, parameter)
        assert (found, type(found)) == (value, type(value))
        declared = running.get_parameter(parameter).value
        assert (tuple(declared) if isinstance(declared, list) else declared) == value


@pytest.mark.parametrize(
    ("first", "later", "parameter", "value"),
    [
        ("default_period: 1", "default_period:=0.5", "default_period", 0.5),
        ("default_period: 1.5", "default_period:=2", "default_period", 2.0),
        ("queries: [a]", "queries:=[]", "queries", ()),
        ("queries: []", "queries:=[a]", "queries", ("a",)),
        ("queries: [1]", "queries:=[a]", "queries", ("a",)),
        ("model: 7", "model:=/models/a", "model", "/models/a"),
    ],
)
def test_last_value_counts_whatever_its_type(
    domain: int, yaml_file: Yaml, first: str, later: str, parameter: str, value: Any
) -> None:
    # rcl keeps one value per type, and rclpy returns the first of them.
    with node(domain, *yaml_file(first), "-p", later) as running:
        assert getattr(running.parameters, parameter) == value
    files = (*yaml_file(first), *yaml_file(later.replace(":=", ": "), name="later.yaml"))
    with node(domain, *files) as running:
        assert getattr(running.parameters, parameter) == value


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("queries: [{id: a, text: b}]", ("queries has nested YAML", "quoted string")),
        ("queries: {a: {text: b}}", ("queries has nested YAML",)),
        ("queries: [[]]", ("queries has nested YAML",)),
        ("queries: [010]", ("queries is [8]", "written [010]", "quote each")),
        ("queries: [yes]", ("queries is [True]", "written [yes]", "quote each")),
        ("queries: [null]", ("queries has a null", "[null]")),
        ("queries: [the red box, ~]", ("queries has a null", "~")),
        ("queries: [a, 1]", ("queries is [a, 1]", "several types")),
        ("queries: the red box", ("queries is 'the red box'", "list of strings")),
        ("queries:", ("queries has no value",)),
        ("queries: ['{\"perod\": 1}', '{\"text\": 3}']", ("queries: entry 1", "entry 2: ", "is 3")),
        ('queries: [\'{"text": "a", "cameras": ["x"]}\']', ("queries: entry 1", "'x'")),
        ("cameras: ['le ft']", ("cameras", "'le ft'")),
        ("cameras: [1]", ("cameras is [1]", "list of strings")),
        ("model: null", ("model has a null",)),
        ("model: 010", ("model is 8 (written 010)", "string in quotes")),
        ("model: 10", ("model is 10", "string in quotes")),
        ("threads: 010", ("threads is 010", "octal")),
        ("max_frame_rate: -010", ("max_frame_rate is -010", "octal")),
        ('queries: ["the red\\0 box"]', ("queries has a NUL", "cuts the text")),
        ("backend: on", ("backend is True", "written on", "string")),
        ("default_period: slow", ("default_period is 'slow'", "number from 0.01 to 86400")),
        ("default_period: .nan", ("default_period is nan", "number from 0.01")),
        ("default_period: 1e999", ("default_period is '1e999'",)),
        ("threads: 2.5", ("threads is 2.5", "integer from 0 to 1024")),
        ("threads: []", ("threads is an empty list", "integer")),
        ("autostart: 'true'", ("autostart is 'true'", "without quotes")),
        ("transport: 1", ("transport is 1", "string")),
        ("use_sim_time: 1", ("use_sim_time is 1", "bool")),
        ("defualt_period: 1.0", ("defualt_period is unknown", "default_period")),
        ("defaultPeriod: 1.0", ("defaultPeriod is unknown", "default_period")),
        ("queries.id: [a]", ("queries has nested YAML",)),
    ],
)
def test_invalid_value_of_a_file_is_named(
    fail_to_start: Callable[..., str], yaml_file: Yaml, line: str, parts: tuple[str, ...]
) -> None:
    message = fail_to_start("--ros-args", *yaml_file(line))
    for part in parts:
        assert part in message
    assert "Trying to set" not in message


def test_queries_of_a_file_follow_those_of_the_parameter_and_are_read_when_configured(
    domain: int, tmp_path: Path, start_node: Callable[..., GroundingNode], client: ClientNode
) -> None:
    path = tmp_path / "queries.yaml"
    path.write_text("- the ball\n- {id: drop, text: a ball falls, task: TVG, period: 2}\n")
    running = start_node(queries=["the red box"], queries_file=str(path))

    def listed() -> list[tuple[str, str, float]]:
        response = client.call(ListQueries, "/grounding/list_queries", ListQueries.Request())
        return [(query.id, query.task, query.period) for query in response.queries]

    assert listed() == [("q1", "REC", 1.0), ("q2", "REC", 1.0), ("drop", "TVG", 2.0)]
    running.trigger_deactivate()
    running.trigger_cleanup()
    path.write_text("- {text: the ball, cameras: [camera, left]}\n")
    assert running.trigger_configure() == TransitionCallbackReturn.FAILURE
    client.wait_log(f"cannot configure: queries_file: {path}, line 1: camera 'left' is unknown")
    path.write_text("[]")
    assert running.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert listed() == [("q1", "REC", 1.0)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "queries_file: cannot read "),
        ("a: 1\n", "queries.yaml has no list of queries"),
        ("- a\n- {text: b, perod: 1}\n", "queries.yaml, line 2: the query has unknown keys: perod"),
        ("- a\n- \n  text: b\n  cameras: [x]\n", "queries.yaml, line 3: camera 'x' is unknown"),
        ("- a\n- {text: b\n", "queries.yaml is not valid YAML: line 3, column 1"),
    ],
)
def test_invalid_file_of_queries_is_named_with_its_line(
    fail_to_start: Callable[..., str], tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "queries.yaml"
    if content is not None:
        path.write_text(content)
    assert reason in fail_to_start("--ros-args", "-p", f"queries_file:={path}")


def test_every_problem_is_named(fail_to_start: Callable[..., str], yaml_file: Yaml) -> None:
    message = fail_to_start(
        "--ros-args",
        *yaml_file("default_period: 0", "threads: -1", "transport: x", "cameras: ['=a', 'b=']"),
    )
    for part in ("default_period is 0", "threads is -1", "transport is 'x'", "'=a'", "'b='"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "section", "nearest"),
    [
        ("query", "grounding", "queries"),
        ("frame_rate", "grounding", "max_frame_rate"),
        ("max_framerate", "/**", "max_frame_rate"),
        ("foo", "grounding", "config/grounding.yaml"),
        ("query", "", "queries"),
        ("foo", "", "config/grounding.yaml"),
    ],
)
def test_unknown_name_is_rejected_with_the_nearest_known_one(
    fail_to_start: Callable[..., str], yaml_file: Yaml, name: str, section: str, nearest: str
) -> None:
    rule = ("-p", f"{name}:=1")
    message = fail_to_start(
        "--ros-args", *(yaml_file(f"{name}: 1", node=section) if section else rule)
    )
    assert f"{name} is unknown" in message
    assert nearest in message


def test_name_that_may_belong_to_another_node_is_a_warning(
    domain: int, yaml_file: Yaml, capfd: pytest.CaptureFixture[str]
) -> None:
    with node(domain, *yaml_file("frame_rate: 10.0", "foo: 1", "queries: [a]")) as running:
        assert running.parameters.queries == ("a",)
        (line,) = capfd.readouterr().err.splitlines()
    for part in ("ignored parameters", "frame_rate is unknown", "max_frame_rate", "foo"):
        assert part in line


def test_file_without_anything_for_the_node_is_a_warning(
    domain: int, yaml_file: Yaml, capfd: pytest.CaptureFixture[str]
) -> None:
    with node(domain, *yaml_file("queries: [a]", node="grouding")):
        (line,) = capfd.readouterr().err.splitlines()
    for part in ("robot.yaml", "sets nothing for /grounding", "/grouding"):
        assert part in line


def test_parameter_that_a_file_sets_twice_is_a_warning(
    domain: int, yaml_file: Yaml, capfd: pytest.CaptureFixture[str]
) -> None:
    with node(domain, *yaml_file("threads: 1", "queries: [a]", "threads: 2")) as running:
        assert running.parameters.threads == 2
        (line,) = capfd.readouterr().err.splitlines()
    assert "set twice" in line
    assert "threads in " in line
    assert "robot.yaml" in line


def test_domain_that_dds_does_not_have_is_one_line(
    fail_to_start: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "233")
    assert "ROS_DOMAIN_ID is 233; expected a number from 0 to 232" in fail_to_start()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"grounding:\n  queries: [a]\n", "outside of a section, line 2"),
        (b"queries: [a]\n", "outside of a section, line 1"),
        (b"/**:\n  ros__parameters:\n\tqueries: [a]\n", "not valid YAML, line 3"),
        (b"/**:\n  ros__parameters:\n    queries: [\xff]\n", "not text in UTF-8"),
        (b"/**:\n  ros__parameters:\n    queries: &a [x]\n    cameras: *a\n", "line 4"),
        (b"/**:\n  ros__parameters:\n    a: &a {b: *a}\n", "line 3, column 15: the alias *a"),
        (b"a: &a\n  b: *a\n", "the alias *a"),
        (_nested_aliases(30), "the alias *a0"),
        (b"[" * 5000, "nested more than 64 deep"),
    ],
)
def test_unreadable_parameter_file_is_named(
    fail_to_start: Callable[..., str], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "robot.yaml"
    if content is not None:
        path.write_bytes(content)
    message = fail_to_start("--ros-args", "--params-file", str(path))
    assert str(path) in message
    assert reason in message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--ros-args", "--foo"), "unknown ROS arguments: '--foo'"),
        (("--ros-args", "-p", "foo"), "'-p foo'"),
        (("--ros-args", "-p", "queries:=[a, [b"), "not valid YAML"),
        (("--ros-args", "-p", "queries:="), "queries has no value"),
        (("--ros-args", "-p", "queries:=[{id: a}]"), "queries has nested YAML"),
        (("--ros-args", "-p", "queries:={id: a}"), "queries has nested YAML"),
        (("--ros-args", "-p", "model:=/my: engine"), "have; put text in quotes that contains ': '"),
        (("--ros-args", "-r", "__ns:=/bad-ns"), "'-r __ns:=/bad-ns'"),
        (("--ros-args", "--params-file"), "--params-file"),
        (("--ros-args", "-r", "__node:=my-node"), "'-r __node:=my-node'"),
        (("--ros-args", "-r", "image:=front image"), "'-r image:=front image'"),
        (("--ros-args", "--params-file", "/tmp"), "/tmp: Is a directory"),
        (("--ros-args", "-p", "queries:=[\udcff]"), "not valid UTF-8"),
        (("--params-file", "robot.yaml"), "unexpected arguments: --params-file robot.yaml"),
    ],
)
def test_wrong_command_line_is_one_line(
    fail_to_start: Callable[..., str], arguments: tuple[str, ...], part: str
) -> None:
    message = fail_to_start(*arguments)
    assert part in message
    assert "/src/" not in message


def test_sections_apply_as_in_rclpy(domain: int, yaml_file: Yaml) -> None:
    for section in ("/**", "/robot/*", "/robot/grounding", "robot:\n  grounding", "/*/grounding"):
        body = yaml_file("default_period: 1", node=section)
        if "\n" in section:
            Path(body[1]).write_text(
                "robot:\n  grounding:\n    ros__parameters:\n      default_period: 1\n"
            )
        line = ["--ros-args", *body]
        sources = ParameterSources.from_arguments(line)
        assert sources.effective("/robot/grounding")["default_period"].value == 1, section
        with node(domain, *body, "-r", "__ns:=/robot") as running:
            assert running.get_parameter("default_period").value == 1.0
        if section != "/**":
            assert sources.effective("/grounding") == {}


def test_values_are_read_as_rcl_reads_them(domain: int, yaml_file: Yaml) -> None:
    texts = WRITTEN.split()
    arguments = ["node", "--ros-args", *yaml_file(*(f"p{i}: {t}" for i, t in enumerate(texts)))]
    context = Context()
    rclpy.init(args=arguments, context=context, domain_id=domain)
    probe = rclpy.create_node("probe", context=context)
    read = ParameterSources.from_arguments(arguments).effective("/probe")
    for number, text in enumerate(texts):
        expected = probe._parameter_overrides[f"p{number}"].value
        value = read[f"p{number}"].value
        assert (repr(value), type(value)) == (repr(expected), type(expected)), text
    probe.destroy_node()
    context.try_shutdown()


def test_camera_names_become_topics() -> None:
    names = {
        "front": "front",
        "front/image_raw": "front/image_raw",
        "front-left": "front_left",
        "~/left": "left",
        "le ft": "le_ft",
        "1": "_1",
        "näher": "n_her",
        "日本": "camera",
        "a//b/": "a/b",
    }
    assert {name: topic_part(name) for name in names} == names
    sources = parse_cameras(["front-left=/a", "~/left", "1=/b"], "raw")
    assert [overlay_topic(s.name, [s.name for s in sources]) for s in sources] == [
        "~/overlay/front_left/compressed",
        "~/overlay/left/compressed",
        "~/overlay/_1/compressed",
    ]
    with pytest.raises(ConfigError, match=r"'a-b' and 'a_b'.*same topic"):
        parse_cameras(["a-b=/x", "a_b=/y"], "raw")


def test_node_runs_with_cameras_of_any_name(
    client: ClientNode, start_node: Callable[..., GroundingNode]
) -> None:
    start_node(cameras=["front-left=/a", "~/left", "1=/b", "日 本=/c"])
    expected = {f"/grounding/overlay/{part}/compressed" for part in ("front_left", "left", "_1")}
    client.poll(
        lambda: expected <= {name for name, _ in client.get_topic_names_and_types()},
        "the overlay topics",
    )
    client.wait_log("'front-left'", "~/overlay/front_left/compressed")


@pytest.mark.parametrize(
    "topic", ["a//b", "le ft", "image/", "{foo}/x", "a" * 300, "front-left/image", "1", "/a/2"]
)
def test_invalid_image_topic_is_one_line(fail_to_start: Callable[..., str], topic: str) -> None:
    message = fail_to_start("--ros-args", "-p", f"cameras:=['front={topic}', 'x=y z']")
    for part in ("cameras has the invalid topic", topic[:60], "'y z'"):
        assert part in message
    assert "/src/" not in message


def test_parameters_at_runtime(
    client: ClientNode, start_node: Callable[..., GroundingNode]
) -> None:
    running = start_node(active=False)

    def set_value(name: str, **value: Any) -> tuple[bool, str]:
        kind = getattr(
            ParameterType, "PARAMETER_" + next(iter(value)).removesuffix("_value").upper()
        )
        change = ParameterMsg(name=name, value=ParameterValue(type=kind, **value))
        request = SetParameters.Request(parameters=[change])
        (result,) = client.call(SetParameters, "/grounding/set_parameters", request).results
        return result.successful, result.reason

    assert set_value("default_period", integer_value=2) == (True, "")
    assert set_value("overlay_quality", double_value=70.0) == (True, "")
    assert (running.parameters.default_period, running.parameters.overlay_quality) == (2.0, 70)
    request = GetParameters.Request(names=["default_period", "overlay_quality"])
    period, quality = client.call(GetParameters, "/grounding/get_parameters", request).values
    assert (period.double_value, quality.integer_value) == (2.0, 70)
    for name, value, parts in (
        ("default_period", {"string_value": "slow"}, ("default_period is 'slow'", "0.01 to 86400")),
        ("default_period", {"integer_value": 0}, ("default_period is 0", "0.01 to 86400")),
        ("default_period", {"double_value": float("nan")}, ("default_period is nan",)),
        ("overlay_quality", {"double_value": 70.5}, ("overlay_quality is 70.5", "1 to 100")),
        ("overlay_quality", {"bool_value": True}, ("overlay_quality is True", "1 to 100")),
        ("model", {"string_value": "x"}, ("model is read-only",)),
        ("defualt_period", {"double_value": 1.0}, ("defualt_period is unknown", "default_period")),
    ):
        successful, reason = set_value(name, **value)
        assert not successful
        for part in parts:
            assert part in reason
        assert "\n" not in reason
    assert running.parameters.default_period == 2.0


def test_reading_a_value_never_raises_another_error() -> None:
    values = (None, True, 0, -1, 2**70, 1.5, float("inf"), float("nan"), "", "x" * 1000, b"a", [],
              [1], ["a"], [None], (), {"a": 1}, [b"a"], object())  # fmt: skip
    for entry in FIELDS.values():
        for value in values:
            message = ""
            try:
                found = read_value(entry, value)
            except LlavaStError as error:
                message = str(error)
            else:
                assert type(found) is type(entry.default)
            assert not message or message.startswith(f"{entry.name} is ")
            assert len(message) < 400
