"""Start the node: ``ros2 launch llava_st_ros grounding.launch.py image:=/front/image_raw``."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "llava_st_ros"
REMAPPED = ("image", "tracks", "events")
# Arguments that are parameters, with their types. An empty one keeps what the file says.
PARAMETERS = {"model": str, "autostart": bool, "use_sim_time": bool}


def generate_launch_description() -> LaunchDescription:
    default_parameters = PathJoinSubstitution(
        [FindPackageShare(PACKAGE), "config", "grounding.yaml"]
    )
    arguments = (
        ("params_file", default_parameters, "YAML file with the node's parameters"),
        ("namespace", "", "namespace of the node, to run several"),
        ("model", "", "checkpoint folder or engine directory; empty: as in params_file"),
        ("image", "image", "image topic of the default camera"),
        ("tracks", "tracks", "topic on which tracks are published"),
        ("events", "events", "topic on which events are published"),
        (
            "autostart",
            "",
            "false if a lifecycle manager configures and activates the node; empty: as in "
            "params_file",
        ),
        (
            "use_sim_time",
            "",
            "true with a simulator or a bag played with --clock; empty: as in params_file",
        ),
    )
    description = LaunchDescription()
    for name, default, text in arguments:
        description.add_action(DeclareLaunchArgument(name, default_value=default, description=text))
    description.add_action(OpaqueFunction(function=_make_node))
    return description


def _make_node(context: LaunchContext) -> list[Node]:
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETERS.items()
        if LaunchConfiguration(name).perform(context).strip()
    }
    # A plain Node action suffices: the lifecycle node configures and activates itself, or, with
    # autostart:=false, waits for a lifecycle manager to call its services.
    node = Node(
        package=PACKAGE,
        executable="grounding_node",
        name="grounding",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        # As an entry of `parameters`, a missing file would be a warning of launch_ros, and the node
        # would start without it.
        ros_arguments=["--params-file", LaunchConfiguration("params_file")],
        parameters=[given] if given else [],
        remappings=[(name, LaunchConfiguration(name)) for name in REMAPPED],
    )
    return [node]
