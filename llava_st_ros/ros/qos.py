"""Quality of service: the profiles the node uses, and words for a mismatch.

A subscription and a publisher that do not fit exchange nothing, and without a word: here both
sides' policies are named. (DDS request-offered rules; rmw's incompatible-QoS events.)
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
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

RESULTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
QUERIES = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# Reliable serves both kinds of viewers; one picture is enough to keep.
OVERLAY = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


def images(reliability: str) -> QoSProfile:
    """Sensor data: keep the last few, best effort unless ``reliability`` is "reliable"."""
    return QoSProfile(
        depth=qos_profile_sensor_data.depth,
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy.VOLATILE,
    )


def subscription_events(
    node: Node, topic: str, profile: QoSProfile, log: Callable[[str], None]
) -> SubscriptionEventCallbacks:
    """Callbacks that log each publisher whose offer a subscription cannot take."""

    def incompatible(event: Any) -> None:
        others = node.get_publishers_info_by_topic(topic)
        log(mismatch(topic, event.last_policy_kind, profile, others, offering=False))

    return SubscriptionEventCallbacks(incompatible_qos=incompatible)


def publisher_events(
    node: Node, topic: str, profile: QoSProfile, log: Callable[[str], None]
) -> PublisherEventCallbacks:
    """Callbacks that log each subscription whose request a publisher cannot meet."""

    name = node.resolve_topic_name(topic)

    def incompatible(event: Any) -> None:
        others = node.get_subscriptions_info_by_topic(name)
        log(mismatch(name, event.last_policy_kind, profile, others, offering=True))

    return PublisherEventCallbacks(incompatible_qos=incompatible)


def mismatch(
    topic: str, kind: int, own: QoSProfile, others: Iterable[Any], *, offering: bool
) -> str:
    """One line: the topic, the policy, what this node has and what each other endpoint has.

    ``others`` are rclpy TopicEndpointInfo; ``offering``: this node is the publisher.
    """
    policy = QoSPolicyKind(kind).name
    mine = _value(own, policy)
    theirs = set()
    for other in others:
        value = _value(other.qos_profile, policy)
        if value != mine:
            theirs.add(f"{value} by {other.node_namespace.rstrip('/')}/{other.node_name}")
    listed = ", ".join(sorted(theirs)) or "something else"
    if offering:
        sides, effect = f"this node offers {mine}, requested is {listed}", "it gets nothing"
    else:
        sides, effect = f"this node requests {mine}, offered is {listed}", "no images will come"
    return f"incompatible QoS on {topic}: {policy}: {sides}; {effect}; make the two agree"


def _value(profile: QoSProfile, policy: str) -> str:
    value = getattr(profile, policy.lower(), "unknown")
    if isinstance(value, Duration):
        return f"{value.nanoseconds / 1e9:g} s"
    return str(getattr(value, "name", value)).lower()
