"""Fixtures for tests with real DDS: each test has its own ROS domain and never sleeps."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

try:
    import rclpy
    from rclpy.context import Context
    from rclpy.parameter import Parameter

    import llava_st_ros.msg  # noqa: F401

    missing = ""
except ImportError as error:
    # The test modules skip themselves and name the reason.
    missing = f"rclpy or the built messages are missing (run through scripts/with_ros): {error}"

if TYPE_CHECKING or not missing:
    from llava_st_ros.ros.ground_action import EXECUTOR_THREADS
    from llava_st_ros.ros.model_loading import LoadedModel
    from llava_st_ros.ros.node import GroundingNode
    from llava_st_ros.ros.spinning import Spinner
    from support.red_box_backend import RedBoxBackend, load_red_box
    from support.ros_client import ClientNode, spinning_client

FIRST_PORT = 23410  # bound sockets are the locks that keep test runs in different domains
_numbers = itertools.count(os.getpid())


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain that no other test on this machine is using; also set for child processes."""
    for _ in range(100):
        number = 1 + next(_numbers) % 100
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", FIRST_PORT + number))
        except OSError:
            lock.close()
            continue
        with lock:
            monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
            if os.environ.get("ROS_DISTRO") == "humble":
                monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
            else:
                monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
            yield number
        return
    pytest.fail("no free ROS domain")


@pytest.fixture
def context(domain: int) -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    yield context
    context.try_shutdown()


@pytest.fixture
def client(context: Context) -> Iterator[ClientNode]:
    """A second node in this process, with its own executor."""
    with spinning_client(context) as node:
        yield node


@pytest.fixture
def backend() -> RedBoxBackend:
    return load_red_box().backend


@pytest.fixture
def start_node(context: Context, backend: RedBoxBackend) -> Iterator[Callable[..., GroundingNode]]:
    """``start_node(**parameters)`` returns an active, spinning node with the red-box backend."""
    running: list[tuple[GroundingNode, Spinner]] = []

    def start_node(*, active: bool = True, load: Any = None, **parameters: Any) -> GroundingNode:
        parameters = {"max_frame_rate": 0.0, "log_period": 0.1, "history": 0.0, **parameters}
        node = GroundingNode(
            load=load
            or (lambda _: LoadedModel(backend, backend.tokenizer, Path("/models/red-box"))),
            context=context,
            parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()],
        )
        spinner = Spinner(context, EXECUTOR_THREADS)
        spinner.add(node)
        running.append((node, spinner))
        if active:
            node.trigger_configure()
            node.trigger_activate()
        return node

    yield start_node
    backend.resume()
    for node, spinner in running:
        spinner.close()
        node.destroy_node()
