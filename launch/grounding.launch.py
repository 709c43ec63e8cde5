"""Start the node: ``ros2 launch llava_st_ros grounding.launch.py image:=/front/image_raw``."""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "llava_st_ros"


def generate_launch_description() -> LaunchDescription:
    default_parameters = PathJoinSubstitution(
        [FindPackageShare(PACKAGE), "config", "grounding.yaml"]
    )
    arguments = (
        ("params_file", default_parameters, "YAML file with the node's parameters"),
        ("namespace", "", "namespace of the node, to run several"),
        ("model", "", "checkpoint folder or engine directory; empty: the packaged model"),
        ("image", "image", "image topic of the default camera"),
        ("tracks", "tracks", "topic on which tracks are published"),
        ("events", "events", "topic on which events are published"),
        ("autostart", "true", "false if a lifecycle manager configures and activates the node"),
        ("use_sim_time", "false", "true with a simulator or a bag played with --clock"),
    )
    # A plain Node action suffices: the lifecycle node configures and activates itself, or, with
    # autostart:=false, waits for a lifecycle manager to call its services.
    node = Node(
        package=PACKAGE,
        executable="grounding_node",
        name="grounding",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "model": ParameterValue(LaunchConfiguration("model"), value_type=str),
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                "use_sim_time": ParameterValue(
                    LaunchConfiguration("use_sim_time"), value_type=bool
                ),
            },
        ],
        remappings=[(name, LaunchConfiguration(name)) for name in ("image", "tracks", "events")],
    )
    description = LaunchDescription()
    for name, default, text in arguments:
        description.add_action(DeclareLaunchArgument(name, default_value=default, description=text))
    description.add_action(node)
    return description
