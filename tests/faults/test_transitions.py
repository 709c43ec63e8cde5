"""Requests while the node changes its state."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from llava_st_ros import msg, srv
from support.ros_client import TIMEOUT, ClientNode

pytestmark = pytest.mark.ros


def test_services_respond_during_transitions(client: ClientNode, start_node) -> None:
    """Injected: requests of every service while the node is deactivated, cleaned up, configured and
        activated again and again.
    Published: a response to every request; the node serves afterwards.
    Logged: no traceback and no failure.
    """
    node = start_node()
    failures: list[BaseException] = []
    stopped = threading.Event()

    def change() -> None:
        try:
            for _ in range(3):
                node.trigger_deactivate()
                node.trigger_cleanup()
                node.trigger_configure()
                node.trigger_activate()
        except BaseException as error:
            failures.append(error)
        finally:
            stopped.set()

    thread = threading.Thread(target=change)
    thread.start()
    query = msg.Query(id="box", text="the red box")
    calls = 0
    while not stopped.is_set() or not calls:
        for kind, name, request in (
            (srv.AddQuery, "add_query", srv.AddQuery.Request(query=query)),
            (srv.ListQueries, "list_queries", srv.ListQueries.Request()),
            (srv.Enable, "enable", srv.Enable.Request(enable=True)),
            (srv.RemoveQuery, "remove_query", srv.RemoveQuery.Request(id="box")),
        ):
            client.call(kind, f"grounding/{name}", request)  # fails without a response
            calls += 1
    thread.join(TIMEOUT)
    assert not failures
    assert not [line for line in client.log_lines() if "Traceback" in line or "failed" in line]
    response = client.call(srv.AddQuery, "grounding/add_query", srv.AddQuery.Request(query=query))
    assert response.success, response.message
