#!/usr/bin/env bash
# A ROS 2 parameter given twice with different types keeps a value by its type, not by the order.
#
# Versions: rclpy 7.1.6, rcl_yaml_param_parser 9.2.8 (ROS 2 Jazzy).
#
# Behavior: the parser keeps one value per type for each parameter, and rclpy reads the first that
# is set in the order bool, int, double, string, then lists. A double given after an int is dropped,
# in a second parameter file as well as with -p; so is a string after a number. An empty list has no
# type, so it never replaces an earlier list. Nothing is logged. If the parameter is declared as a
# double, the error complains about the int that was overridden.
#
# One would have guessed: the later source wins, as it does when both values have one type.
#
# Where it matters: a default file with `rate: 1` or `topics: [a, b]`, and a launch file or a
# command line that overrides it with 0.5 or []. launch_ros passes each file or dictionary of
# `parameters` as one more parameter file. Write 1.0 in the defaults, and leave lists that may be
# emptied out of them.
#
# Output seen:
#   rclpy 7.1.6
#   1, then 0.5 in a second file: 1
#   1, then -p 0.5: 1
#   1, then -p 2: 2
#   0.5, then -p 1: 1
#   3, then -p text: 3
#   ['a', 'b'], then -p []: ['a', 'b']
#   ['a', 'b'], then -p ['']: ['']
#   1, then -p 0.5, declared as a double: InvalidParameterTypeException, got INTEGER
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "ros-jazzy-rclpy[fastrtps]==7.1.6" \
  "ros-rcl-yaml-param-parser==9.2.8" "numpy<3" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node

print("rclpy", version("ros-jazzy-rclpy"))
work = Path(sys.argv[1])


def file(name, value):
    """The arguments that load a parameter file in which `probe` has this value."""
    path = work / name
    path.write_text(f"/**:\n  ros__parameters:\n    probe: {value}\n")
    return ["--params-file", str(path)]


def parameter(label, *arguments, declared=None):
    """The value of `probe` in a node that was started with these arguments."""
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", *arguments], context=context)
    node = Node(
        "reader",
        context=context,
        automatically_declare_parameters_from_overrides=declared is None,
        start_parameter_services=False,
        enable_rosout=False,
    )
    try:
        if declared is not None:
            node.declare_parameter("probe", declared)
        value = node.get_parameter("probe").value
    except InvalidParameterTypeException as error:
        kind = next(kind for kind in ("INTEGER", "DOUBLE") if f"of type '{kind}'" in str(error))
        value = f"InvalidParameterTypeException, got {kind}"
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    print(f"{label}: {value}")
    return value


one = file("one.yaml", "1")
texts = file("texts.yaml", "[a, b]")
files = parameter("1, then 0.5 in a second file", *one, *file("half.yaml", "0.5"))
option = parameter("1, then -p 0.5", *one, "-p", "probe:=0.5")
same_type = parameter("1, then -p 2", *one, "-p", "probe:=2")
back = parameter("0.5, then -p 1", *file("half.yaml", "0.5"), "-p", "probe:=1")
text = parameter("3, then -p text", *file("three.yaml", "3"), "-p", "probe:=text")
empty = parameter("['a', 'b'], then -p []", *texts, "-p", "probe:=[]")
blank = parameter("['a', 'b'], then -p ['']", *texts, "-p", "probe:=['']")
declared = parameter("1, then -p 0.5, declared as a double", *one, "-p", "probe:=0.5", declared=1.0)
assert same_type == 2 and back == 1 and blank == [""]
assert files == option == 1 and text == 3, "the later value wins now"
assert empty == ["a", "b"], "an empty list replaces a list now"
assert declared == "InvalidParameterTypeException, got INTEGER"
PYTHON

ROS_AUTOMATIC_DISCOVERY_RANGE=OFF "$work/venv/bin/python" "$work/probe.py" "$work"
