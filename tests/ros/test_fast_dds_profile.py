"""config/fast_dds_large_images.xml, as the middleware reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")

PROFILE = Path(__file__).parents[2] / "config" / "fast_dds_large_images.xml"
MIB = 2**20

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(
        "fastrtps" not in rclpy.get_rmw_implementation_identifier(), reason="needs Fast DDS"
    ),
]

# Starts a node and prints its mapped memory.
SCRIPT = """
import rclpy
rclpy.init()
node = rclpy.create_node("camera")
print(open("/proc/self/maps").read())
node.destroy_node()
rclpy.shutdown()
"""


def shared_memory(**environment: str) -> int:
    """Return the size of the largest shared memory segment of a node."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "XMLPARSER" not in done.stderr
    found = re.findall(r"(?m)^(\w+)-(\w+) .* /dev/shm/fastrtps_\w+$", done.stdout)
    return max((int(end, 16) - int(start, 16) for start, end in found), default=0)


def test_a_raw_image_fits_into_shared_memory_with_the_profile(domain: int) -> None:
    assert 0 < shared_memory() < 640 * 480 * 3
    assert shared_memory(FASTRTPS_DEFAULT_PROFILES_FILE=str(PROFILE)) >= 64 * MIB
