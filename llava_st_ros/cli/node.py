"""``llava-st node``: the ROS 2 node, with or without a ROS installation."""

from __future__ import annotations

import argparse

from llava_st_ros.errors import BackendError

HELP = "run the ROS 2 node"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params-file", metavar="FILE", help="YAML file of the node's parameters")
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="ARG",
        help="everything after it goes to ROS: -p name:=value, -r from:=to, ...",
    )


def run(args: argparse.Namespace) -> int:
    """The node until it is interrupted. BackendError where rclpy or the messages are missing."""
    try:
        from llava_st_ros.ros.main import main
    except ImportError as error:
        raise BackendError(
            f"no ROS 2 in this environment ({error}); expected rclpy and this package's messages",
            "source your ROS 2 workspace, or run it as `scripts/with_ros llava-st node`",
        ) from error
    parameters = ["--params-file", args.params_file] if args.params_file else []
    return main(["llava-st", "--ros-args", *parameters, *args.ros_args])
