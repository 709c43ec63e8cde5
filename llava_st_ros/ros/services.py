"""The node's services and its topic ``~/query``: standing queries, and pausing them."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode

from llava_st_ros import msg, srv
from llava_st_ros.errors import BackendError, LlavaStError
from llava_st_ros.records import Query
from llava_st_ros.ros import conversions, qos
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.queries import describe_added, make_query
from llava_st_ros.ros.query_topic import QueryTopic
from llava_st_ros.ros.worker import Worker

# Returns the running worker; raises BackendError while the node is unconfigured.
GetWorker = Callable[[], Worker]


class Services:
    """Serves requests in every lifecycle state; a rejected one gets the reason as its message.

    Attributes:
        topic: The topic ``~/query``.
    """

    def __init__(
        self,
        node: LifecycleNode,
        get_worker: GetWorker,
        get_parameters: Callable[[], NodeParameters],
        throttle: LogThrottle,
    ) -> None:
        self._get_worker, self._get_parameters = get_worker, get_parameters
        self._logger = node.get_logger()
        group = MutuallyExclusiveCallbackGroup()
        for kind, name, callback in (
            (srv.AddQuery, "~/add_query", self._on_add),
            (srv.RemoveQuery, "~/remove_query", self._on_remove),
            (srv.ListQueries, "~/list_queries", self._on_list),
            (srv.Enable, "~/enable", self._on_enable),
        ):
            node.create_service(
                kind, name, callback, qos_profile=qos.REQUESTS, callback_group=group
            )
        self.topic = QueryTopic(node, self._add, throttle, group)

    def _add(self, message: msg.Query) -> Query:
        grounder = self._get_worker().grounder
        query = make_query(
            message, self._get_parameters(), [query.id for query in grounder.queries]
        )
        grounder.add_query(query)
        self._logger.info(describe_added(query))
        return query

    def _on_add(
        self, request: srv.AddQuery.Request, response: srv.AddQuery.Response
    ) -> srv.AddQuery.Response:
        try:
            query = self._add(request.query)
            response.id, response.message, response.success = query.id, query.note, True
        except LlavaStError as error:
            response.message = str(error)
        return response

    def _on_remove(
        self, request: srv.RemoveQuery.Request, response: srv.RemoveQuery.Response
    ) -> srv.RemoveQuery.Response:
        try:
            self._get_worker().grounder.remove_query(request.id)
            response.success = True
        except LlavaStError as error:
            response.message = str(error)
        return response

    def _on_list(
        self, _: srv.ListQueries.Request, response: srv.ListQueries.Response
    ) -> srv.ListQueries.Response:
        try:
            queries = self._get_worker().grounder.queries
        except BackendError:
            queries = ()  # an unconfigured node has none
        response.queries = [conversions.query_to_msg(query) for query in queries]
        return response

    def _on_enable(
        self, request: srv.Enable.Request, response: srv.Enable.Response
    ) -> srv.Enable.Response:
        try:
            self._get_worker().enabled = request.enable
            response.success = True
            response.message = f"standing queries are {'enabled' if request.enable else 'paused'}"
        except LlavaStError as error:
            response.message = str(error)
        return response
