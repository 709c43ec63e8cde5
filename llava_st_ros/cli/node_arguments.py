"""How commands find a running node."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llava_st_ros.cli.extras import requires_ros

if TYPE_CHECKING:
    from llava_st_ros.ros.node_client import NodeClient


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node",
        default="",
        metavar="NAME",
        help="name of the running node with its namespace, e.g. /robot1/grounding (default: the "
        "only one on this ROS domain)",
    )


def connect(args: argparse.Namespace, command: str) -> NodeClient:
    """Return a client of the node, to be entered. Raises BackendError if ROS is missing."""
    with requires_ros(command):
        from llava_st_ros.ros.node_client import NodeClient
    return NodeClient(args.node)
