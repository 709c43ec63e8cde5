"""How people steer the node: standing queries by topic and service, and the switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode

from llava_st_ros import msg, srv
from llava_st_ros.errors import BackendError, LlavaStError
from llava_st_ros.records import Query
from llava_st_ros.ros import conversions, qos
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.queries import check_cameras, free_id
from llava_st_ros.ros.worker import Worker

# Gives the running worker; raises BackendError before the node is configured.
GetWorker = Callable[[], Worker]


def query_of(message: msg.Query, parameters: NodeParameters, taken: Sequence[str] = ()) -> Query:
    """The message's query, named and for cameras that exist; QueryError where it is refused."""
    query = conversions.query_from_msg(
        message, message.id or free_id(taken), parameters.default_period
    )
    check_cameras(query, [source.name for source in parameters.camera_sources])
    return query


class Control:
    """The services and ``~/query``. They answer in every state: a refusal says what is missing."""

    def __init__(
        self, node: LifecycleNode, worker: GetWorker, parameters: Callable[[], NodeParameters]
    ) -> None:
        self._worker, self._parameters = worker, parameters
        self._logger = node.get_logger()
        group = MutuallyExclusiveCallbackGroup()
        for kind, name, callback in (
            (srv.AddQuery, "~/add_query", self._on_add),
            (srv.RemoveQuery, "~/remove_query", self._on_remove),
            (srv.ListQueries, "~/list_queries", self._on_list),
            (srv.Enable, "~/enable", self._on_enable),
        ):
            node.create_service(kind, name, callback, callback_group=group)
        node.create_subscription(
            msg.Query,
            "~/query",
            self._on_query,
            qos.QUERIES,
            callback_group=group,
            event_callbacks=qos.subscription_events(
                node, node.resolve_topic_name("~/query"), qos.QUERIES, self._logger.warning
            ),
        )

    def _add(self, message: msg.Query) -> str:
        grounder = self._worker().grounder
        query = query_of(message, self._parameters(), [query.id for query in grounder.queries])
        grounder.add_query(query)
        self._logger.info(f"query {query.id!r} stands: {query.task.value} {query.text!r}")
        return query.id

    def _on_query(self, message: msg.Query) -> None:
        try:
            self._add(message)
        except LlavaStError as error:
            self._logger.warning(f"refused a query from ~/query: {error}")

    def _on_add(
        self, request: srv.AddQuery.Request, response: srv.AddQuery.Response
    ) -> srv.AddQuery.Response:
        try:
            response.id = self._add(request.query)
            response.success = True
        except LlavaStError as error:
            response.message = str(error)
        return response

    def _on_remove(
        self, request: srv.RemoveQuery.Request, response: srv.RemoveQuery.Response
    ) -> srv.RemoveQuery.Response:
        try:
            self._worker().grounder.remove_query(request.id)
            response.success = True
        except LlavaStError as error:
            response.message = str(error)
        return response

    def _on_list(
        self, _: srv.ListQueries.Request, response: srv.ListQueries.Response
    ) -> srv.ListQueries.Response:
        try:
            queries = self._worker().grounder.queries
        except BackendError:
            queries = ()  # none stands before the node is configured
        response.queries = [conversions.query_to_msg(query) for query in queries]
        return response

    def _on_enable(
        self, request: srv.Enable.Request, response: srv.Enable.Response
    ) -> srv.Enable.Response:
        try:
            self._worker().enabled = request.enable
            response.success = True
            response.message = f"standing queries are {'asked' if request.enable else 'paused'}"
        except LlavaStError as error:
            response.message = str(error)
        return response
