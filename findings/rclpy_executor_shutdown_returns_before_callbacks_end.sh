#!/usr/bin/env bash
# rclpy's MultiThreadedExecutor.shutdown() returns while a callback is still running.
#
# Versions: rclpy 7.1.6 (ROS 2 Jazzy), Python 3.10 to 3.12.
#
# Behavior: Executor.shutdown(timeout_sec=None) is documented to stop executing callbacks and to
# wait for the ones in progress. With a MultiThreadedExecutor a callback that was started before the
# call still runs when the call has returned True.
#
# One would have guessed: after shutdown() it is safe to destroy the node, its publishers and the
# context, since no callback uses them any more.
#
# Where it matters: a node whose callbacks take long (inference, decoding) and which is stopped by
# Ctrl-C: publishers are destroyed under a running callback, which ends in an exception in the pool's
# thread or in the middleware. Count running callbacks and wait for them before destroying anything.
#
# Output seen:
#   rclpy 7.1.6
#   shutdown returned True after 0.0 s; the callback was still running: True
#   the callback finished 1.x s later
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "ros-jazzy-rclpy[fastrtps]==7.1.6" "ros-jazzy-std-msgs==5.3.6"

cat >"$work/probe.py" <<'PYTHON'
import threading
import time
from importlib.metadata import version

import rclpy
from rclpy.executors import MultiThreadedExecutor

print("rclpy", version("ros-jazzy-rclpy"))
rclpy.init()
node = rclpy.create_node("probe")
started, finished = threading.Event(), threading.Event()


def slow():
    if not started.is_set():
        started.set()
        time.sleep(2.0)
        finished.set()


node.create_timer(0.01, slow)
executor = MultiThreadedExecutor(num_threads=2)
executor.add_node(node)
spinner = threading.Thread(target=executor.spin)
spinner.start()
assert started.wait(30)

begin = time.monotonic()
result = executor.shutdown()
waited = time.monotonic() - begin
running = not finished.is_set()
print(f"shutdown returned {result} after {waited:.1f} s; the callback was still running: {running}")
begin = time.monotonic()
assert finished.wait(30)
print(f"the callback finished {time.monotonic() - begin:.1f} s later")
spinner.join(30)
node.destroy_node()
rclpy.shutdown()
assert result is True and running and waited < 1.0, "shutdown waits now"
PYTHON

ROS_DOMAIN_ID=77 "$work/venv/bin/python" "$work/probe.py"
