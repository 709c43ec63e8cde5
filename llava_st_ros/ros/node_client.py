"""A client of a running grounding node, for commands: everything is bounded in time or can be
interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from llava_st_ros import msg, srv
from llava_st_ros.errors import BackendError, QueryError
from llava_st_ros.records import Query
from llava_st_ros.ros import qos
from llava_st_ros.ros.conversions import query_to_msg
from llava_st_ros.ros.node_finder import (
    UNKNOWN_NODE,
    describe_network,
    endpoint_ids,
    grounding_nodes,
    node_of,
)
from llava_st_ros.ros.question import Question
from llava_st_ros.ros.result_values import event_values, query_values, tracks_values
from llava_st_ros.ros.startup import check_domain, startup_errors
from llava_st_ros.ros.watched_cameras import OnImage, WatchedCameras

FIND_TIMEOUT_S = 6.0
SETTLE_S = 0.5  # how long other nodes are looked for once one is found
CALL_TIMEOUT_S, CANCEL_TIMEOUT_S = 10.0, 2.0
ALIVE_PERIOD_S = 1.0  # between two looks for a node that takes its time
POLL_S = 0.05
Values = dict[str, Any]
Handle = Callable[[Values], object]


class NodeClient:
    """Finds a grounding node on entering the context, and ends all of ROS on leaving it.

    SIGINT keeps its handler, so that Ctrl-C raises KeyboardInterrupt while this still works.

    Args:
        target: The node's name, relative to the root namespace; empty for the only one.

    Attributes:
        target: The node's fully qualified name.

    Raises:
        BackendError: No such node is found, or there are several to choose from.
    """

    def __init__(self, target: str = "") -> None:
        self.target = f"/{target.strip('/')}" if target.strip("/") else ""
        self._clients: dict[str, Any] = {}  # by the name of the service
        self._subscriptions: list[Subscription] = []  # of ``watch``
        self._listing: tuple[Any, float] | None = None  # a future or None, and when it began

    def __enter__(self) -> NodeClient:
        self._context = Context()
        try:
            self._node = self._start()
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
            self.target = self._find()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _start(self) -> Node:
        with startup_errors(["llava-st"]):
            check_domain()
            rclpy.init(args=[], context=self._context)
            return Node(
                "llava_st",
                context=self._context,
                enable_rosout=False,
                start_parameter_services=False,
            )

    @property
    def is_alive(self) -> bool:
        """Whether the node is still in the graph."""
        return self.target in grounding_nodes(self._node)

    def spin(self, seconds: float) -> None:
        """Handle messages until one has been handled or the time is over."""
        self._executor.spin_once(timeout_sec=seconds)

    def add_query(
        self, query: Query, *, query_id: str = "", period: float = 0.0
    ) -> tuple[str, str]:
        """Add a standing query.

        Args:
            query: The query; its own id and period are not used.
            query_id: Its id; empty: the node chooses one.
            period: Seconds; 0: the node's default.

        Returns:
            Its id, and a note of the node about it, or nothing.

        Raises:
            QueryError: The node rejects it.
        """
        message = query_to_msg(query)
        message.id, message.period = query_id, float(period)
        response = self._call(srv.AddQuery, "add_query", srv.AddQuery.Request(query=message))
        if not response.success:
            raise QueryError(f"{self.target} rejects the query: {response.message}")
        return response.id, response.message

    def remove_query(self, query_id: str) -> None:
        """Remove a standing query. Raises QueryError if the node does not have it."""
        request = srv.RemoveQuery.Request(id=query_id)
        response = self._call(srv.RemoveQuery, "remove_query", request)
        if not response.success:
            raise QueryError(f"{self.target}: {response.message}")

    def list_queries(self) -> list[Values]:
        """Return the standing queries, in the order in which they were added."""
        response = self._call(srv.ListQueries, "list_queries", srv.ListQueries.Request())
        return [query_values(query) for query in response.queries]

    def poll_queries(self) -> list[Values] | None:
        """Ask for the standing queries without waiting: call it until it returns them, and spin.

        Raises:
            BackendError: The node has not answered in time; the next call asks again.
        """
        client = self._client(srv.ListQueries, "list_queries")
        future, began = self._listing or (None, time.monotonic())
        if future is None and client.service_is_ready():
            future = client.call_async(srv.ListQueries.Request())
        self._listing = future, began
        if future is not None and future.done():
            self._listing = None
            return [query_values(query) for query in future.result().queries]
        if time.monotonic() - began >= CALL_TIMEOUT_S:
            self._drop_listing()
            raise BackendError(f"{self.target} has not answered after {CALL_TIMEOUT_S:.0f} s")
        return None

    def ask(
        self, query: Query, camera: str = "", on_progress: Callable[[int], None] = lambda n: None
    ) -> Values:
        """Answer a one-shot query; cancel it if this call is interrupted.

        Args:
            query: The query.
            camera: The camera; empty: the node chooses one.
            on_progress: Called with the number of tokens so far.

        Raises:
            BackendError: The node does not respond, disappears, or cannot answer.
        """
        question = self.start_question(query, camera, on_progress)
        checked = time.monotonic()
        try:
            while (answer := question.poll()) is None:
                self.spin(POLL_S)
                if time.monotonic() - checked >= ALIVE_PERIOD_S:
                    checked = time.monotonic()
                    question.check_alive(self.is_alive)
            return answer
        except KeyboardInterrupt:
            self._spin_until(question.cancel, CANCEL_TIMEOUT_S)
            raise
        finally:
            question.close()

    def start_question(
        self, query: Query, camera: str = "", on_progress: Callable[[int], None] = lambda n: None
    ) -> Question:
        """Ask as ``ask`` does, without waiting for the answer: poll it, and ``spin``."""
        return Question(self._node, self.target, query, camera, on_progress)

    def watch_cameras(
        self, on_health: Callable[[Values], object], on_image: OnImage
    ) -> WatchedCameras:
        """Follow the health of the node and, while they are watched, the images of its cameras."""
        return WatchedCameras(self._node, self.target, on_health, on_image)

    def watch(self, on_tracks: Handle, on_event: Handle) -> bool:
        """Subscribe to the node's tracks and events, whatever the names of their topics.

        The node publishes those that hold now again for a new subscriber. An earlier subscription
        is replaced.

        Returns:
            Whether the node has these topics; an unconfigured one does not.
        """
        namespace, _, name = self.target.rpartition("/")
        try:
            found = self._node.get_publisher_names_and_types_by_node(name, namespace or "/")
        except RuntimeError:  # it has ended
            return False
        topics = {kind: topic for topic, kinds in found for kind in kinds}

        def receive_tracks(message: msg.GroundedTrackArray) -> None:
            on_tracks(tracks_values(message))

        def receive_event(message: msg.GroundedEvent) -> None:
            on_event(event_values(message))

        tracks = topics.get("llava_st_ros/msg/GroundedTrackArray")
        events = topics.get("llava_st_ros/msg/GroundedEvent")
        if tracks is None or events is None:
            return False
        self._drop_listing()  # perhaps by a node that has ended
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = [
            self._node.create_subscription(kind, topic, receive, qos.EVENTS)
            for kind, topic, receive in (
                (msg.GroundedTrackArray, tracks, receive_tracks),
                (msg.GroundedEvent, events, receive_event),
            )
        ]
        return True

    @property
    def publishers(self) -> frozenset[bytes]:
        """The ids of the node's publishers on the topics of ``watch``: others after a restart."""
        return endpoint_ids(e for e in self._watched_endpoints() if node_of(e) == self.target)

    @property
    def rivals(self) -> list[str]:
        """The other nodes that publish on the topics of ``watch``."""
        return sorted({node_of(e) for e in self._watched_endpoints()} - {self.target})

    def _watched_endpoints(self) -> list[TopicEndpointInfo]:
        return [
            endpoint
            for subscription in self._subscriptions
            for endpoint in self._node.get_publishers_info_by_topic(subscription.topic_name)
            if endpoint.node_name != UNKNOWN_NODE
        ]

    def _find(self) -> str:
        found: list[str] = []

        def is_found() -> bool:
            found[:] = grounding_nodes(self._node)
            return self.target in found if self.target else bool(found)

        if self._spin_until(is_found, FIND_TIMEOUT_S) and not self.target:
            self._spin_until(lambda: False, SETTLE_S)
            is_found()
        if self.target:
            if self.target in found:
                return self.target
            others = ", ".join(found) or "none"
            raise BackendError(
                f"no grounding node {self.target} answers on {describe_network(self._node)}",
                f"grounding nodes that exist: {others}",
            )
        if not found:
            raise BackendError(
                f"no grounding node answers on {describe_network(self._node)}",
                "start one with `llava-st node`, or set ROS_DOMAIN_ID as it is set there",
            )
        if len(found) > 1:
            raise BackendError(
                f"there are several grounding nodes: {', '.join(found)}", "choose one with --node"
            )
        return found[0]

    def _client(self, kind: Any, name: str) -> Any:
        client = self._clients.get(name)
        if client is None:
            client = self._node.create_client(kind, f"{self.target}/{name}")
            self._clients[name] = client
        return client

    def _drop_listing(self) -> None:
        future, _ = self._listing or (None, 0.0)
        self._listing = None
        if future is not None:
            self._client(srv.ListQueries, "list_queries").remove_pending_request(future)

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        client = self._client(kind, name)
        self._wait(client.service_is_ready, f"{self.target} has no service ~/{name}")
        future = client.call_async(request)
        try:
            self._wait(future.done, f"{self.target} has not answered")
        except BaseException:
            client.remove_pending_request(future)
            raise
        return future.result()

    def _wait(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while not self._spin_until(condition, min(ALIVE_PERIOD_S, CALL_TIMEOUT_S)):
            if time.monotonic() >= deadline:
                raise BackendError(f"{problem} after {CALL_TIMEOUT_S:.0f} s")
            if not self.is_alive:
                raise BackendError(f"{self.target} has ended before it answered")

    def _spin_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < deadline:
            self.spin(POLL_S)
        return value

    def _close(self) -> None:
        if hasattr(self, "_executor"):
            self._executor.shutdown()
        if hasattr(self, "_node"):
            self._node.destroy_node()
        self._context.try_shutdown()
