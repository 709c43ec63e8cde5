"""The topic ``~/query``: queries without a reply, so what is rejected or lost is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription

from llava_st_ros import msg
from llava_st_ros.errors import LlavaStError
from llava_st_ros.ros import qos
from llava_st_ros.ros.diagnostics import Reason
from llava_st_ros.ros.log_throttle import LogThrottle

TOPIC = "~/query"


@dataclass(frozen=True)
class QueryCounts:
    """What became of the messages of the topic.

    Attributes:
        added: Queries that were added, or replaced one.
        rejected: Invalid queries, and those beyond ``max_queries``.
        lost: Messages that never arrived, as far as the middleware tells.
        last_problem: Why the last one was rejected.
    """

    added: int = 0
    rejected: int = 0
    lost: int = 0
    last_problem: str = ""


class SequenceGaps:
    """Counts the messages that are missing between those that a subscription receives.

    DDS overwrites the oldest messages of a full queue without an event. Each publisher numbers its
    messages, but rclpy does not tell the publisher of a message, so gaps are counted only while
    there is one publisher.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def missing_before(self, number: int | None, publishers: int) -> int:
        """Return how many messages are missing before one.

        Args:
            number: Its number, from 1; None if the middleware gives none.
            publishers: The number of publishers now.
        """
        last, self._last = self._last, number if publishers == 1 else None
        if number is None or last is None or self._last is None or number <= last:
            return 0
        return number - last - 1


class QueryTopic:
    """Subscribes to the topic, adds its queries, and reports what is rejected or lost.

    Args:
        node: The node.
        add: Adds a query; raises LlavaStError if it is rejected.
        throttle: Logs the warnings.
        group: The callback group.
    """

    def __init__(
        self,
        node: Node,
        add: Callable[[msg.Query], Any],
        throttle: LogThrottle,
        group: CallbackGroup,
    ) -> None:
        self._add, self._throttle = add, throttle
        self._counts = self._previous = QueryCounts()
        self._gaps = SequenceGaps()
        topic = node.resolve_topic_name(TOPIC)
        events = qos.subscription_events(node, topic, qos.QUERIES)
        # Humble passes the message alone.
        has_info = hasattr(Subscription, "CallbackType")
        callback: Callable[..., None] = self._on_numbered_message if has_info else self._on_message
        self._subscription = node.create_subscription(
            msg.Query, TOPIC, callback, qos.QUERIES, callback_group=group, event_callbacks=events
        )

    @property
    def counts(self) -> QueryCounts:
        return self._counts

    def reasons(self) -> Iterator[Reason]:
        """Yield what was rejected or lost since the last call, for /diagnostics."""
        counts, previous = self._counts, self._previous
        self._previous = counts
        if rejected := counts.rejected - previous.rejected:
            text = f"{rejected} queries from {TOPIC} rejected: {counts.last_problem}"
            yield Reason(DiagnosticStatus.WARN, text)
        if lost := counts.lost - previous.lost:
            yield Reason(DiagnosticStatus.WARN, f"{lost} messages of {TOPIC} were lost")

    def _on_numbered_message(self, message: msg.Query, info: dict[str, Any]) -> None:
        publishers = self._subscription.get_publisher_count()
        missing = self._gaps.missing_before(info.get("publication_sequence_number"), publishers)
        if missing:
            self._count_lost(missing)
        self._on_message(message)

    def _on_message(self, message: msg.Query) -> None:
        try:
            self._add(message)
        except LlavaStError as error:
            rejected = self._counts.rejected + 1
            self._counts = replace(self._counts, rejected=rejected, last_problem=str(error))
            self._throttle.warning("rejected query", f"rejected a query from {TOPIC}: {error}")
        else:
            self._counts = replace(self._counts, added=self._counts.added + 1)

    def _count_lost(self, number: int) -> None:
        self._counts = replace(self._counts, lost=self._counts.lost + number)
        line = f"{number} messages of {TOPIC} were lost: send fewer at a time, or use ~/add_query"
        self._throttle.warning("lost queries", line)
