"""Start the node: ``ros2 launch llava_st_ros grounding.launch.py image:=/front/image_raw``."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

PACKAGE = "llava_st_ros"
REMAPPED = ("image", "tracks", "events")
# Arguments that are parameters of the node. An empty one keeps what the parameter file says.
TEXTS = ("model", "backend", "device", "transport", "queries_file")  # not YAML: 'my #1: engine', 12
VALUES = ("cameras", "queries", "autostart", "use_sim_time")  # as in YAML


def generate_launch_description() -> LaunchDescription:
    default_parameters = PathJoinSubstitution(
        [FindPackageShare(PACKAGE), "config", "grounding.yaml"]
    )
    as_in_file = "; empty: as in params_file"
    arguments = (
        ("params_file", default_parameters, "YAML file with the node's parameters"),
        ("namespace", "", "namespace of the node, to run several"),
        (
            "log_level",
            "",
            "debug, info, warn, error or fatal, or NAME:=LEVEL; empty: ROS's default",
        ),
        ("image", "image", "image topic of the default camera"),
        ("tracks", "tracks", "topic on which tracks are published"),
        ("events", "events", "topic on which events are published"),
        (
            "cameras",
            "",
            "cameras instead of the default one, a list of 'topic' or 'name=topic': "
            '"[front=/front/image_raw, wrist=/wrist/image_raw]"' + as_in_file,
        ),
        ("transport", "", "raw, or compressed: the <topic>/compressed of each camera" + as_in_file),
        (
            "queries",
            "",
            "standing queries, a list of quoted texts: \"['the red box', 'a ball falls']\""
            + as_in_file,
        ),
        (
            "queries_file",
            "",
            "YAML or JSON file with standing queries, each plain words or a mapping" + as_in_file,
        ),
        ("model", "", "checkpoint folder or engine directory" + as_in_file),
        ("backend", "", "runtime of the model: torch, onnxruntime or tensorrt" + as_in_file),
        ("device", "", "cpu, cuda or cuda:N" + as_in_file),
        (
            "autostart",
            "",
            "false if a lifecycle manager configures and activates the node" + as_in_file,
        ),
        ("use_sim_time", "", "true with a simulator or a bag played with --clock" + as_in_file),
    )
    description = LaunchDescription()
    for name, default, text in arguments:
        description.add_action(DeclareLaunchArgument(name, default_value=default, description=text))
    description.add_action(OpaqueFunction(function=_make_node))
    return description


def _make_node(context: LaunchContext) -> list[LifecycleNode]:
    # All as arguments of the node, which names the one that is wrong. As entries of `parameters`,
    # a missing file would be a warning of launch_ros, and values would be in a temporary file.
    arguments = ["--params-file", LaunchConfiguration("params_file")]
    for name in (*TEXTS, *VALUES):
        if value := LaunchConfiguration(name).perform(context).strip():
            arguments += ["-p", f"{name}:={_quoted(value) if name in TEXTS else value}"]
    if log_level := LaunchConfiguration("log_level").perform(context).strip():
        arguments += ["--log-level", log_level]
    # The node configures and activates itself unless autostart is false. As a LifecycleNode, its
    # state transitions are events on which an including launch file can act.
    node = LifecycleNode(
        package=PACKAGE,
        executable="grounding_node",
        name="grounding",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        ros_arguments=arguments,
        remappings=[(name, LaunchConfiguration(name)) for name in REMAPPED],
    )
    return [node]


def _quoted(text: str) -> str:
    """Return a text as YAML reads it back, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"
