"""Follows the tracks and events of a running node until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_st_ros.ros.node_client import NodeClient

REFRESH_S = 0.2  # the longest time between two turns
CHECK_S = 2.0  # between two looks whether the node is still there
Handle = Callable[[dict[str, Any]], object]


def follow(
    client: NodeClient,
    on_tracks: Handle,
    on_event: Handle,
    on_end: Callable[[], None],
    on_note: Callable[[str], None],
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """Handle the node's messages until KeyboardInterrupt.

    Args:
        client: The client.
        on_tracks: Called with each message of tracks.
        on_event: Called with each event.
        on_end: Called when the node has ended or started again: what it has published does not hold
            any more.
        on_note: Called when what hinders the node changes; "" when nothing does.
        on_turn: Called several times per second.
    """
    is_subscribed, checked, last = False, 0.0, ""
    known: frozenset[bytes] = frozenset()  # publishers
    while True:
        now = time.monotonic()
        if now - checked >= (CHECK_S if is_subscribed else REFRESH_S):
            checked = now
            is_alive = client.is_alive
            if is_alive and not is_subscribed:
                is_subscribed = client.watch(on_tracks, on_event)
            note = ""
            if not is_alive:
                on_end()
                note = f"{client.target} has ended or cannot be reached"
            elif not is_subscribed:
                note = f"{client.target} is not configured"
            else:
                publishers = client.publishers
                if known and not publishers <= known:
                    on_end()  # and then from the start, since some may have arrived before
                    client.watch(on_tracks, on_event)
                known = publishers or known
                if rivals := client.rivals:
                    note = (
                        f"{', '.join(rivals)} publishes tracks or events on the topics of "
                        f"{client.target}: what is shown is of both; use another namespace"
                    )
            if note != last:
                last = note
                on_note(note)
        client.spin(REFRESH_S)
        on_turn()
