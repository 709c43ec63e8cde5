"""The grounding node: ros2 launch llava_st_ros grounding.launch.py image:=/front/image_raw"""

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
        ("params_file", default_parameters, "YAML file of the node's parameters"),
        ("namespace", "", "namespace of the node; two of them can run side by side"),
        ("model", "", "checkpoint or engine directory; empty: llava-st-tiny"),
        ("image", "image", "image topic of the default camera"),
        ("tracks", "tracks", "topic of the tracks"),
        ("events", "events", "topic of the events"),
        ("autostart", "true", "false where a lifecycle manager configures and activates"),
        ("use_sim_time", "false", "true with a simulator, or a bag played with --clock"),
    )
    # The node is a lifecycle node that starts by itself; with autostart:=false it waits for a
    # manager, which finds its services as those of any other.
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
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, default, description in arguments
            ),
            node,
        ]
    )
