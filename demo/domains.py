"""A ROS domain that nothing else uses."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

from llava_st_ros.ros.child_processes import ProcessError

_FIRST_PORT, _PORTS_PER_DOMAIN = 7400, 250  # RTPS 2.2, section 9.6.1


def free_domain() -> int:
    """Return a ROS domain id whose discovery ports are free on this machine.

    Ids up to 101 stay below Linux's ephemeral ports.
    """
    ids: Sequence[int] = random.sample(range(1, 101), 100)
    for domain in ids:
        base = _FIRST_PORT + _PORTS_PER_DOMAIN * domain
        if all(_is_free(base + offset) for offset in (0, 10, 11)):
            return domain
    raise ProcessError("every ROS domain from 1 to 100 is in use", "stop other ROS nodes")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
