"""``llava-st node``: run the ROS 2 node, with a ROS installation or with the ROS wheels."""

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
        help="pass all following arguments to ROS: -p name:=value, -r from:=to, ...",
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until it is interrupted.

    Raises:
        BackendError: rclpy or the messages cannot be imported.
    """
    from llava_st_ros.ros.main import main

    parameters = ["--params-file", args.params_file] if args.params_file else []
    try:
        return main(["llava-st", "--ros-args", *parameters, *args.ros_args])
    except ImportError as error:
        raise BackendError(
            f"rclpy or this package's messages cannot be imported ({error})",
            "source your ROS 2 workspace, or use `scripts/with_ros llava-st node`",
        ) from error
