"""``llava-st node``: run the ROS 2 node, with a ROS installation or with the ROS wheels."""

from __future__ import annotations

import argparse

from llava_st_ros.cli.extras import requires_ros

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
    with requires_ros("llava-st node"):
        return main(["llava-st", "--ros-args", *parameters, *args.ros_args])
