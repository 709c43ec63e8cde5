"""A one-shot query that a running node is asked by its action ``~/ground``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node

from llava_st_ros import action
from llava_st_ros.errors import BackendError
from llava_st_ros.records import Query
from llava_st_ros.ros.conversions import query_to_msg
from llava_st_ros.ros.node_finder import endpoint_ids
from llava_st_ros.ros.result_values import answer_values

ACCEPT_TIMEOUT_S = 10.0


class Question:
    """The question, from construction to ``close``. Whoever asks polls it and spins the node.

    Args:
        node: The node that asks.
        target: The fully qualified name of the node that answers.
        query: The query.
        camera: The camera; empty: the node chooses one.
        on_progress: Called with the number of tokens so far.
    """

    def __init__(
        self,
        node: Node,
        target: str,
        query: Query,
        camera: str,
        on_progress: Callable[[int], None],
    ) -> None:
        self._target, self._on_progress = target, on_progress
        self._goal = action.Ground.Goal(query=query_to_msg(query), camera=camera)
        self._deadline = time.monotonic() + ACCEPT_TIMEOUT_S
        self._sent: Any = None  # the future of the handle
        self._result: Any = None  # the future of the result
        self._cancellation: Any = None
        self._node, self._servers = node, frozenset[bytes]()  # that may answer
        self._client = ActionClient(node, action.Ground, f"{target}/ground")

    def poll(self) -> dict[str, Any] | None:
        """Return the answer (``result_values.answer_values``) once it is there.

        Raises:
            BackendError: The node does not accept the question, or cannot answer it.
        """
        if self._sent is None:
            if not self._client.server_is_ready():
                self._check_deadline("has no action ~/ground")
                return None
            self._servers = self._found_servers()
            self._sent = self._client.send_goal_async(
                self._goal,
                feedback_callback=lambda message: self._on_progress(message.feedback.tokens),
            )
        if self._result is None:
            if not self._sent.done():
                self._check_deadline("does not accept the question")
                return None
            handle = self._sent.result()
            if not handle.accepted:
                raise BackendError(f"{self._target} rejects the question")
            self._result = handle.get_result_async()
        if not self._result.done():
            return None
        result = self._result.result().result
        if not result.success:
            raise BackendError(f"{self._target} has no answer: {result.message}")
        return answer_values(result.answer)

    def cancel(self) -> bool:
        """Ask the node not to answer. Call it again until it returns True: the node knows."""
        if self._sent is None:
            return True
        if not self._sent.done():
            return False
        if self._cancellation is None:
            handle = self._sent.result()
            if not handle.accepted:
                return True
            self._cancellation = handle.cancel_goal_async()
        return bool(self._cancellation.done())

    def check_alive(self, is_alive: bool) -> None:
        """Raise BackendError if the node cannot answer any more: it has ended, or started again.

        Args:
            is_alive: Whether there is a node with its name.
        """
        # A killed node stays in the graph for its lease, beside the one that replaces it.
        if not is_alive or (self._servers and self._found_servers() != self._servers):
            raise BackendError(f"{self._target} has ended before it answered")

    def close(self) -> None:
        self._client.destroy()

    def _found_servers(self) -> frozenset[bytes]:
        """The ids of the servers of the action, by the publishers of its feedback."""
        topic = f"{self._target}/ground/_action/feedback"
        return endpoint_ids(self._node.get_publishers_info_by_topic(topic))

    def _check_deadline(self, problem: str) -> None:
        if time.monotonic() > self._deadline:
            raise BackendError(f"{self._target} {problem} after {ACCEPT_TIMEOUT_S:.0f} s")
