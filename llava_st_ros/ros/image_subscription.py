"""A subscription whose reliability follows the publishers of its topic."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription

from llava_st_ros.ros import qos


class ImageSubscription:
    """A subscription to images of any kind, from construction to ``destroy``.

    With the reliability ``auto`` it is reliable while every publisher of the topic is, else best
    effort, which is compatible with both; it is replaced when that changes.

    Args:
        node: The node that subscribes.
        kind: The type of the messages.
        topic: The resolved topic.
        reliability: The parameter ``image_reliability``.
        receive: Called with each message, in order, in a thread of the executor.
        raw: Pass serialized messages (bytes) to ``receive``.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        reliability: str,
        receive: Callable[[Any], None],
        *,
        raw: bool = False,
    ) -> None:
        self.topic = topic
        self._node, self._kind, self._raw = node, kind, raw
        self._receive, self._requested = receive, reliability
        self._logger = node.get_logger()
        self._lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._number = 0  # of the subscription
        self._known_publishers: set[bytes] = set()  # their GIDs
        self._retired: list[Subscription] = []  # replaced, to be destroyed
        # Messages of one topic in order, in parallel with other topics.
        self._group = MutuallyExclusiveCallbackGroup()
        with self._lock:
            self._subscribe(self._wanted_reliability())

    @property
    def publisher_count(self) -> int:
        """The number of publishers of the topic."""
        return self._node.count_publishers(self.topic)

    @property
    def reliability(self) -> str:
        """The reliability of the subscription; empty once it is destroyed."""
        subscription = self._subscription
        return "" if subscription is None else subscription.qos_profile.reliability.name.lower()

    def update_reliability(self) -> None:
        """Replace the subscription if the publishers ask for another reliability now.

        Called when a publisher appears or disappears; where rclpy does not report that, by
        ``refresh``.
        """
        with self._lock:
            current, wanted = self._subscription, self._wanted_reliability()
            if current is None or current.qos_profile.reliability == wanted:
                return
            # rclpy raises in the executor if an event of a destroyed subscription is pending, and
            # this may be the callback of one of several.
            self._retired.append(current)
            self._subscribe(wanted)
        self._logger.info(
            f"subscribed to {self.topic} with reliability {wanted.name.lower()}: "
            + qos.describe_reliabilities(self._publishers())
        )

    def refresh(self) -> bool:
        """Follow changes of publishers that were not reported; free old subscriptions.

        Returns:
            Whether the publishers are others than at the last call.
        """
        self._destroy_retired()
        self.update_reliability()
        publishers = {bytes(endpoint.endpoint_gid) for endpoint in self._publishers()}
        previous, self._known_publishers = self._known_publishers, publishers
        return publishers != previous

    def destroy(self) -> None:
        with self._lock:
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                self._retired.append(subscription)
        self._destroy_retired()

    def _destroy_retired(self) -> None:
        with self._lock:
            retired, self._retired = self._retired, []
        for subscription in retired:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        profile = qos.image_profile(reliability)
        self._number = number = self._number + 1

        def receive(message: Any) -> None:
            if number == self._number:  # not retired
                self._receive(message)

        self._subscription = self._node.create_subscription(
            self._kind,
            self.topic,
            receive,
            profile,
            callback_group=self._group,
            event_callbacks=qos.subscription_events(
                self._node,
                self.topic,
                profile,
                lambda line: self._on_incompatible(line, number),
                self.update_reliability,
            ),
            raw=self._raw,
        )

    def _wanted_reliability(self) -> ReliabilityPolicy:
        if self._requested != qos.AUTO:
            return ReliabilityPolicy[self._requested.upper()]
        return qos.best_reliability(self._publishers())

    def _publishers(self) -> list[Any]:
        return self._node.get_publishers_info_by_topic(self.topic)

    def _on_incompatible(self, line: str, number: int) -> None:
        if number == self._number:
            self.update_reliability()
        if number == self._number:  # else the subscription was replaced, here or meanwhile
            # Not throttled: the event occurs once per publisher.
            self._logger.warning(line)
