"""A subscription whose QoS follows the publishers of its topic."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from llava_st_ros.ros import qos

REMEMBERED = 128  # messages: more than arrive while there are two subscriptions


class ImageSubscription:
    """A subscription to images of any kind, from construction to ``destroy``.

    With the reliability ``auto`` it is reliable while every publisher of the topic is, else best
    effort, which is compatible with both; it is replaced when that changes. Publishers must first
    discover the new subscription, so the old one is kept for a second, and what both receive is
    passed on once. Likewise, a reliable subscription that is ``latched`` is transient local while
    every publisher is, and receives what these published before it.

    Args:
        node: The node that subscribes.
        kind: The type of the messages.
        topic: The resolved topic.
        reliability: The parameter ``image_reliability``.
        receive: Called with each message, in order, in a thread of the executor.
        raw: Pass serialized messages (bytes) to ``receive``.
        latched: Ask for messages of the past, where all publishers keep them.
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
        latched: bool = False,
    ) -> None:
        self.topic = topic
        self._node, self._kind, self._raw, self._latched = node, kind, raw, latched
        self._receive, self._requested = receive, reliability
        self._logger = node.get_logger()
        self._lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._number = 0  # of the subscription
        self._seen_lock = threading.Lock()  # so that no message waits for a new subscription
        self._seen: dict[Any, int] = {}  # the latest messages' keys: which subscription had each
        self._lost = 0
        self._known_publishers: set[bytes] = set()  # their GIDs
        self._retired: dict[int, Subscription] = {}  # by number; replaced since the last refresh
        self._expired: dict[int, Subscription] = {}  # replaced before
        self._freed: frozenset[int] = frozenset()  # numbers of those freed by the last refresh
        # Messages of one topic in order, in parallel with other topics.
        self._group = MutuallyExclusiveCallbackGroup()
        with self._lock:
            self._subscribe(self._wanted_profile())

    @property
    def publisher_count(self) -> int:
        """The number of publishers of the topic."""
        return self._node.count_publishers(self.topic)

    @property
    def reliability(self) -> str:
        """The reliability of the subscription; empty once it is destroyed."""
        subscription = self._subscription
        return "" if subscription is None else subscription.qos_profile.reliability.name.lower()

    @property
    def lost(self) -> int:
        """The number of messages that the middleware reports as lost.

        Those that are overwritten in its queue are not reported, nor is the last before a pause.
        """
        return self._lost

    def update_profile(self) -> None:
        """Replace the subscription if the publishers ask for another QoS now.

        Called when a publisher appears or disappears; where rclpy does not report that, by
        ``refresh``.
        """
        with self._lock:
            current, wanted = self._subscription, self._wanted_profile()
            if current is None or _policies(current.qos_profile) == _policies(wanted):
                return
            # rclpy raises in the executor if an event of a destroyed subscription is pending, and
            # this may be the callback of one of several.
            self._retired[self._number] = current
            self._subscribe(wanted)
        self._logger.info(
            f"subscribed to {self.topic} with {_describe(wanted)}: "
            + qos.describe_reliabilities(self._publishers())
        )

    def refresh(self) -> bool:
        """Follow changes of publishers that were not reported; free old subscriptions.

        Call it about once per second.

        Returns:
            Whether the publishers are others than at the last call.
        """
        with self._lock:
            expired, self._expired, self._retired = self._expired, self._retired, {}
        self._free(expired.values())
        # A bag that is played again has the same stamps.
        with self._seen_lock:
            seen = self._seen.items()
            self._seen = {key: number for key, number in seen if number not in self._freed}
            # Its successor may still have to receive, late, what a freed one had.
            self._freed = frozenset(expired)
        self.update_profile()
        publishers = {bytes(endpoint.endpoint_gid) for endpoint in self._publishers()}
        previous, self._known_publishers = self._known_publishers, publishers
        return publishers != previous

    def destroy(self) -> None:
        with self._lock:
            subscription, self._subscription = self._subscription, None
            retired = [*self._expired.values(), *self._retired.values()]
            self._expired, self._retired = {}, {}
        self._free([*retired, *([] if subscription is None else [subscription])])

    def _free(self, subscriptions: Iterable[Subscription]) -> None:
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, profile: QoSProfile) -> None:
        self._number = number = self._number + 1

        def receive(message: Any) -> None:
            if self._accepts(number, message):
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
                self.update_profile,
                self._count_lost,
            ),
            raw=self._raw,
        )

    def _accepts(self, number: int, message: Any) -> bool:
        """Whether no other subscription has had this message of the one with a number."""
        key = _key(message)
        with self._seen_lock:
            if self._seen.setdefault(key, number) != number:
                return False
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        return True

    def _count_lost(self, number: int) -> None:
        self._lost += number

    def _wanted_profile(self) -> QoSProfile:
        publishers = self._publishers()
        reliability = (
            qos.best_reliability(publishers)
            if self._requested == qos.AUTO
            else ReliabilityPolicy[self._requested.upper()]
        )
        durability = DurabilityPolicy.VOLATILE
        if self._latched and reliability == ReliabilityPolicy.RELIABLE:
            durability = qos.best_durability(publishers)
        return qos.image_profile(reliability, durability)

    def _publishers(self) -> list[Any]:
        return self._node.get_publishers_info_by_topic(self.topic)

    def _on_incompatible(self, line: str, number: int) -> None:
        if number == self._number:
            self.update_profile()
        if number == self._number:  # else the subscription was replaced, here or meanwhile
            # Not throttled: the event occurs once per publisher.
            self._logger.warning(line)


def _policies(profile: QoSProfile) -> tuple[ReliabilityPolicy, DurabilityPolicy]:
    return profile.reliability, profile.durability


def _describe(profile: QoSProfile) -> str:
    text = f"reliability {profile.reliability.name.lower()}"
    if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        text += ", durability transient_local"
    return text


def _key(message: Any) -> Any:
    """Return what two messages of a topic hardly share: the stamp, also of a serialized one."""
    if isinstance(message, bytes):
        return message[:12]  # the encapsulation, then header.stamp
    stamp = message.header.stamp
    return stamp.sec, stamp.nanosec
