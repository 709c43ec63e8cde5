#!/usr/bin/env bash
# ROS 2 Jazzy's Python messages accept an int in a float64 field and send a number close to zero.
#
# Versions: rclpy 7.1.6, geometry_msgs 5.3.6, rosidl_generator_py 0.22.2 (ROS 2 Jazzy).
#
# Behavior: fields are checked only with check_fields=True or ROS_PYTHON_CHECK_FIELDS=1. Without
# them Point(x=2) keeps the int, and serialization writes its bits as if they were a double's: the
# receiver reads 5e-324. A numpy.float32 arrives as about 5e-315. A misspelled field name in the
# constructor is dropped. Nothing raises and nothing is logged.
#
# One would have guessed: the number is converted, or an AssertionError is raised, as in ROS 2 Humble.
#
# Where it matters: a client that writes Query(period=2), or fills a message from integers or from a
# float32 array. Write float(...) around every value, and set the variable in tests.
#
# Output seen:
#   rclpy 7.1.6
#   x=2 (int): received 5e-324
#   x=1.5 (float32): received 5.28426686e-315
#   x=2.0 (float): received 2.0
#   X=2.0 (no such field): received 0.0
#   with check_fields=True: AssertionError
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "ros-jazzy-rclpy[fastrtps]==7.1.6" \
  "ros-jazzy-geometry-msgs==5.3.6" "numpy<3" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import rclpy  # noqa: F401  (loads the libraries that serialization needs)
from geometry_msgs.msg import Point
from rclpy.serialization import deserialize_message, serialize_message

print("rclpy", version("ros-jazzy-rclpy"))


def received(label, **fields):
    value = deserialize_message(serialize_message(Point(**fields)), Point).x
    print(f"{label}: received {value}")
    return value


integer = received("x=2 (int)", x=2)
single = received("x=1.5 (float32)", x=np.float32(1.5))
double = received("x=2.0 (float)", x=2.0)
misspelled = received("X=2.0 (no such field)", X=2.0)
try:
    Point(x=2, check_fields=True)
    checked = "nothing raised"
except AssertionError as error:
    checked = type(error).__name__
print(f"with check_fields=True: {checked}")
assert double == 2.0 and misspelled == 0.0 and checked == "AssertionError"
assert 0 < integer < 1e-300 and 0 < single < 1e-300, "numbers are converted or rejected now"
PYTHON

"$work/venv/bin/python" "$work/probe.py"
