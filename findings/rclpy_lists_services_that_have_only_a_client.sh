#!/usr/bin/env bash
# rclpy lists a service that nobody offers as soon as somebody has a client for it.
#
# Versions: rclpy 7.1.6 with rmw_fastrtps_cpp (ROS 2 Jazzy), Python 3.10 to 3.12.
#
# Behavior: Node.get_service_names_and_types() contains the names of services that have a client but
# no server, also those of the asking node itself. wait_for_service() and service_is_ready() are
# right.
#
# One would have guessed: the list has what can be called.
#
# Where it matters: a tool that looks for a node by its services (here: which grounding nodes are
# running?) finds the node that it is about to wait for, because its own client already counts. Ask
# get_service_names_and_types_by_node() of the nodes that exist, or leave the own clients out.
#
# Output seen:
#   rclpy 7.1.6
#   before the client: listed False
#   with a client and no server: listed True, ready False
#   of the node by its name: servers False
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "ros-jazzy-rclpy[fastrtps]==7.1.6" "ros-jazzy-std-srvs==5.3.6"

cat >"$work/probe.py" <<'PYTHON'
import time
from importlib.metadata import version

import rclpy
from std_srvs.srv import Trigger

NAME = "/robot/start"
print("rclpy", version("ros-jazzy-rclpy"))
rclpy.init()
node = rclpy.create_node("probe")


def is_listed() -> bool:
    return NAME in dict(node.get_service_names_and_types())


before = is_listed()
print("before the client: listed", before)
client = node.create_client(Trigger, NAME)
deadline = time.monotonic() + 20
while not is_listed() and time.monotonic() < deadline:
    time.sleep(0.1)
listed, ready = is_listed(), client.wait_for_service(2.0)
print(f"with a client and no server: listed {listed}, ready {ready}")
servers = NAME in dict(node.get_service_names_and_types_by_node("probe", "/"))
print("of the node by its name: servers", servers)
node.destroy_node()
rclpy.shutdown()
assert not before and listed and not ready and not servers, "only servers are listed now"
PYTHON

ROS_DOMAIN_ID=79 "$work/venv/bin/python" "$work/probe.py"
