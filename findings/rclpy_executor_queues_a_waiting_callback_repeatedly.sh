#!/usr/bin/env bash
# A message that waits for a thread of rclpy's MultiThreadedExecutor costs one full core.
#
# Versions: rclpy 7.1.6 and rmw_fastrtps_cpp (ROS 2 Jazzy), Python 3.10 to 3.12. The executor's part is
# described in rclpy's pull request 1547, which is newer than these packages.
#
# Behavior: while all threads of the executor run callbacks and a message is due, the executor hands
# the same callback to its pool thousands of times a second and keeps a list of all of them, which it
# scans in every turn. Its wait returns at once with nothing ready: the subscription is left out while
# its callback waits, but the handlers of its QoS events are not, and with Fast DDS unread data wakes
# them. With idle threads the same happens until a thread gets Python's global lock, which this loop
# holds most of the time.
#
# One would have guessed: an executor whose threads are busy sleeps until one of them is free.
#
# Where it matters: a node that receives a burst (here it was met with 400 messages on one topic)
# handles a few messages per second at full load of a core, and its other Python threads (inference,
# decoding) are slowed down with it. Hand over each callback once, or use a SingleThreadedExecutor
# where callbacks are short.
#
# Output seen (figures vary; the second period takes longer than 1.0 s, as its end waits for the lock):
#   rclpy 7.1.6
#   2 threads busy, no message due: 0.1 s of CPU in 1.0 s
#   2 threads busy, 1 message due: 2.6 s of CPU in 1.0 s
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
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from std_msgs.msg import String

THREADS = 2

print("rclpy", version("ros-jazzy-rclpy"))
rclpy.init()
node = rclpy.create_node("probe")
proceed, received = threading.Event(), threading.Event()
entered = threading.Semaphore(0)


def work():
    entered.release()
    proceed.wait(60)


def group():
    return MutuallyExclusiveCallbackGroup()


node.create_subscription(String, "text", lambda _: received.set(), 10, callback_group=group())
publisher = node.create_publisher(String, "text", 10)
while publisher.get_subscription_count() == 0:
    time.sleep(0.05)
timers = [node.create_timer(0.01, work, group()) for _ in range(THREADS)]
executor = MultiThreadedExecutor(num_threads=THREADS)
executor.add_node(node)
spinner = threading.Thread(target=executor.spin)
spinner.start()
for _ in timers:
    assert entered.acquire(timeout=30)


def cpu_seconds() -> float:
    before = time.process_time()
    time.sleep(1.0)
    return time.process_time() - before


quiet = cpu_seconds()
publisher.publish(String(data="x"))
waiting = cpu_seconds()
assert not received.is_set()
for timer in timers:
    timer.cancel()
proceed.set()
assert received.wait(30)
executor.shutdown()
spinner.join(30)
rclpy.shutdown()
print(f"{THREADS} threads busy, no message due: {quiet:.1f} s of CPU in 1.0 s")
print(f"{THREADS} threads busy, 1 message due: {waiting:.1f} s of CPU in 1.0 s")
assert quiet < 0.2 and waiting > 0.5, "the executor waits now"
PYTHON

ROS_DOMAIN_ID=78 "$work/venv/bin/python" "$work/probe.py"
