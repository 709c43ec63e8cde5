"""Finds the grounding nodes that other processes run."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier

UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"  # of an endpoint whose node is not discovered yet
SERVICE = "llava_st_ros/srv/AddQuery"  # only grounding nodes serve it


def grounding_nodes(node: Node) -> list[str]:
    """Return the fully qualified names of the grounding nodes that are discovered by now."""
    found = set()
    for name, namespace in node.get_node_names_and_namespaces():
        try:
            services = node.get_service_names_and_types_by_node(name, namespace)
        except RuntimeError:  # its name is not known yet, or it has ended meanwhile
            continue
        if any(SERVICE in kinds for _, kinds in services):
            found.add(f"{namespace.rstrip('/')}/{name}")
    return sorted(found)


def endpoint_ids(endpoints: Iterable[TopicEndpointInfo]) -> frozenset[bytes]:
    """The ids of publishers or subscriptions: a node that has started again has others."""
    return frozenset(bytes(endpoint.endpoint_gid) for endpoint in endpoints)


def node_of(endpoint: TopicEndpointInfo) -> str:
    """The fully qualified name of the node that an endpoint belongs to."""
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def describe_network(node: Node) -> str:
    """What two processes must have in common to find each other."""
    domain = os.environ.get("ROS_DOMAIN_ID", "not set")
    return (
        f"domain {node.context.get_domain_id()} (ROS_DOMAIN_ID is {domain}, RMW is "
        f"{get_rmw_implementation_identifier()})"
    )
