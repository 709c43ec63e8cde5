"""QoS profiles of the node, and log lines for incompatible QoS.

A publisher and a subscription with incompatible QoS silently exchange nothing. The log lines name
the policies of both sides. (DDS request-offered rules; rmw's incompatible-QoS events.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)

try:
    from rclpy import event_handler as rclpy_events
except ImportError:  # Humble
    from rclpy import qos_event as rclpy_events  # type: ignore[no-redef]

HAS_MATCHES = hasattr(rclpy_events.PublisherEventCallbacks(), "matched")  # not in Humble
RESULTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# Each change of an event is published once, and many end at once (a silent camera, a deactivation):
# publisher and subscribers need room for all, or a follower keeps an event that has ended.
EVENTS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# A burst of queries waits while earlier ones are added; what a full queue overwrites is lost.
QUERIES = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
# The same for requests to services and actions: the default depth of 10 loses those of a burst, and
# their clients wait forever.
REQUESTS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
_UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"  # in rmw, until the node's participant is discovered
# A reliable publisher is compatible with best-effort subscriptions. Only the newest image matters.
OVERLAY = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


AUTO = "auto"  # the value of image_reliability that follows the publishers
RELIABILITIES = (AUTO, "reliable", "best_effort")


def image_profile(
    reliability: ReliabilityPolicy, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
) -> QoSProfile:
    """Return the profile of an image subscription: sensor data with given policies."""
    return QoSProfile(
        depth=qos_profile_sensor_data.depth, reliability=reliability, durability=durability
    )


def best_reliability(publishers: Iterable[Any]) -> ReliabilityPolicy:
    """Return the strongest reliability that every publisher offers; best effort if there is none.

    rmw's BEST_AVAILABLE decides once, when the subscription is made, and never hears a best-effort
    publisher that starts later.

    Args:
        publishers: The rclpy TopicEndpointInfo of each publisher.
    """
    offered = {publisher.qos_profile.reliability for publisher in publishers}
    is_reliable = offered == {ReliabilityPolicy.RELIABLE}
    return ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT


def best_durability(publishers: Iterable[Any]) -> DurabilityPolicy:
    """Return the strongest durability that every publisher offers; volatile if there is none.

    A transient-local subscription receives nothing from a volatile publisher.

    Args:
        publishers: As for ``best_reliability``.
    """
    offered = {publisher.qos_profile.durability for publisher in publishers}
    is_latched = offered == {DurabilityPolicy.TRANSIENT_LOCAL}
    return DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE


def describe_reliabilities(publishers: Iterable[Any]) -> str:
    """Return what each publisher offers, in one line; for rclpy's TopicEndpointInfo."""
    offers = sorted({f"{_endpoint_name(p)} offers {_reliability(p)}" for p in publishers})
    return ", ".join(offers) or "no publisher"


def _reliability(endpoint: Any) -> str:
    return _value(endpoint.qos_profile, "RELIABILITY")


def _endpoint_name(endpoint: Any) -> str:
    if endpoint.node_name == _UNKNOWN_NODE:
        return "a node whose name is not known yet"
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


class SupportedSubscriptionEvents(rclpy_events.SubscriptionEventCallbacks):
    """Callbacks of the events that the RMW implementation reports.

    rclpy makes no subscription if one of the requested events is not supported.
    """

    def create_event_handlers(self, *arguments: Any) -> list[Any]:
        return _supported_handlers(rclpy_events.SubscriptionEventCallbacks, self, arguments)


class SupportedPublisherEvents(rclpy_events.PublisherEventCallbacks):
    """As SupportedSubscriptionEvents, for a publisher."""

    def create_event_handlers(self, *arguments: Any) -> list[Any]:
        return _supported_handlers(rclpy_events.PublisherEventCallbacks, self, arguments)


def _supported_handlers(kind: Any, callbacks: Any, arguments: tuple[Any, ...]) -> list[Any]:
    handlers: list[Any] = []
    for event in ("incompatible_qos", "matched", "message_lost"):
        callback = getattr(callbacks, event, None)
        if callback is None:
            continue
        # rclpy's default callbacks, of other events, with the first one only.
        single = kind(**{event: callback}, use_default_callbacks=not handlers)
        try:
            handlers += single.create_event_handlers(*arguments)
        except rclpy_events.UnsupportedEventTypeError:
            continue
    return handlers


def subscription_events(
    node: Node,
    topic: str,
    profile: QoSProfile,
    on_mismatch: Callable[[str], None] | None = None,
    matched: Callable[[], None] | None = None,
    lost: Callable[[int], None] | None = None,
) -> SupportedSubscriptionEvents:
    """Return callbacks of a subscription's events, as far as they are supported.

    Args:
        node: The subscription's node.
        topic: The resolved topic.
        profile: The subscription's profile.
        on_mismatch: Called with one line; by default a warning is logged.
        matched: Called when a publisher appears or disappears, where rclpy reports that (not in
            Humble) and the RMW implementation does.
        lost: Called with a number of messages that were lost, where the RMW implementation reports
            that.
    """

    def incompatible(event: Any) -> None:
        endpoints = node.get_publishers_info_by_topic(topic)
        line = describe_mismatch(
            topic, event.last_policy_kind, profile, endpoints, is_publisher=False
        )
        if on_mismatch is not None:
            on_mismatch(line)
        else:  # not throttled: the event occurs once per publisher
            node.get_logger().warning(line)

    callbacks = SupportedSubscriptionEvents(incompatible_qos=incompatible)
    if matched is not None and HAS_MATCHES:
        on_match = matched
        callbacks.matched = lambda event: on_match()
    if lost is not None:
        on_loss = lost
        callbacks.message_lost = lambda event: on_loss(event.total_count_change)
    return callbacks


def publisher_events(
    node: Node, topic: str, profile: QoSProfile, joined: Callable[[], None] | None = None
) -> SupportedPublisherEvents:
    """Return callbacks of a publisher's events, as far as they are supported.

    Each subscription that is incompatible with the publisher is a warning.

    Args:
        node: The publisher's node.
        topic: The topic.
        profile: The publisher's profile.
        joined: Called when a subscription has appeared, where that is reported (elsewhere see
            ``JoinedSubscribers``).
    """
    name = node.resolve_topic_name(topic)

    def incompatible(event: Any) -> None:
        endpoints = node.get_subscriptions_info_by_topic(name)
        node.get_logger().warning(
            describe_mismatch(name, event.last_policy_kind, profile, endpoints, is_publisher=True)
        )

    callbacks = SupportedPublisherEvents(incompatible_qos=incompatible)
    if joined is not None and HAS_MATCHES:
        on_join = joined
        callbacks.matched = lambda event: on_join() if event.current_count_change > 0 else None
    return callbacks


def _reports_matches(publisher: Any) -> bool:
    """Whether a publisher made with ``publisher_events`` reports new subscriptions."""
    if not HAS_MATCHES:
        return False
    matched = rclpy_events.QoSPublisherEventType.RCL_PUBLISHER_MATCHED
    return any(handler.event_type == matched for handler in publisher.event_handlers)


class JoinedSubscribers:
    """Notices new subscriptions of publishers by their number, where they are not reported.

    Neither rclpy of Humble reports them nor every RMW implementation.

    Args:
        publishers: Each publisher, and what to call when a subscription has appeared.
    """

    def __init__(self, publishers: Iterable[tuple[Any, Callable[[], None]]]) -> None:
        self._publishers = tuple(entry for entry in publishers if not _reports_matches(entry[0]))
        self._counts = [0] * len(self._publishers)

    def refresh(self) -> None:
        """Call it regularly, from one thread."""
        for index, (publisher, joined) in enumerate(self._publishers):
            previous, self._counts[index] = (
                self._counts[index],
                publisher.get_subscription_count(),
            )
            if self._counts[index] > previous:
                joined()


def describe_mismatch(
    topic: str,
    policy_kind: int,
    local_profile: QoSProfile,
    remote_endpoints: Iterable[Any],
    *,
    is_publisher: bool,
) -> str:
    """Describe incompatible QoS in one line.

    Args:
        topic: The topic.
        policy_kind: The rmw policy kind that is incompatible.
        local_profile: The profile of this node's endpoint.
        remote_endpoints: The rclpy TopicEndpointInfo of each endpoint on the other side.
        is_publisher: Whether this node is the publisher.
    """
    policy = QoSPolicyKind(policy_kind).name
    local_value = _value(local_profile, policy)
    remote_values = set()
    for endpoint in remote_endpoints:
        value = _value(endpoint.qos_profile, policy)
        if value != local_value:
            remote_values.add(f"{value} by {_endpoint_name(endpoint)}")
    remote = ", ".join(sorted(remote_values)) or "another value"
    if is_publisher:
        sides = f"this node offers {local_value}, requested is {remote}"
        effect = "no messages are sent"
    else:
        sides = f"this node requests {local_value}, offered is {remote}"
        effect = "no messages arrive"
    return f"incompatible QoS on {topic}: {policy}: {sides}; {effect}; use one policy on both sides"


def _value(profile: QoSProfile, policy: str) -> str:
    value = getattr(profile, policy.lower(), "unknown")
    if isinstance(value, Duration):
        return f"{value.nanoseconds / 1e9:g} s"
    return str(getattr(value, "name", value)).lower()
