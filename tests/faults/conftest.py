"""Fixtures for faults that are injected into a running node, with real DDS."""

from __future__ import annotations

from support.ros_fixtures import backend, client, context, domain, start_node

__all__ = ["backend", "client", "context", "domain", "start_node"]
