"""What the live page lets the node do, and what it must ask the node for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.query_arguments import parse_question
from llava_st_ros.cli.question_queue import QuestionQueue
from llava_st_ros.errors import BackendError, QueryError
from llava_st_ros.live_view.commands import Execute
from llava_st_ros.live_view.live_state import LiveState
from llava_st_ros.records import Task

if TYPE_CHECKING:
    from llava_st_ros.ros.node_client import NodeClient

PERIOD_S = 1.0  # of what is looked up regularly
SILENCE_S = 5.0  # without diagnostics, which a node publishes once per second
Values = Mapping[str, Any]


class ViewActions:
    """The commands of the page, executed by the thread that spins the client.

    Args:
        client: The client.
        state: What the page shows.

    Attributes:
        by_name: What executes each command.
    """

    def __init__(self, client: NodeClient, state: LiveState) -> None:
        self._client, self._state = client, state
        self.by_name: Mapping[str, Execute] = {
            "add": self._add,
            "remove": self._remove,
            "ask": self._ask,
            "cancel": self._cancel,
        }
        self._cameras = client.watch_cameras(self._set_health, state.add_image)
        self._questions = QuestionQueue(client, state)
        self._note = self._silence = self._failure = ""  # what hinders the node, and this
        self._health: dict[str, str] = {}
        self._reported: float | None = None  # when the last diagnostics arrived
        self._looked_up = 0.0
        self._was_watched = self._is_listing = False
        self._set_node()
        state.set_part("tasks", [task.value for task in Task])

    def turn(self, now: float) -> None:
        """Do what is due. Called several times per second, and after each message."""
        self._state.refresh()
        is_watched = self._state.is_watched
        self._questions.turn()
        if self._is_listing:
            self._poll_queries()
        if is_watched == self._was_watched and now - self._looked_up < PERIOD_S:
            return
        self._looked_up, self._was_watched = now, is_watched
        self._cameras.update(is_watched)
        self._is_listing = self._is_listing or is_watched
        if self._reported is not None and now - self._reported > SILENCE_S:
            self._silence = (
                f"{self._client.target} has published no diagnostics for {SILENCE_S:.0f} s: "
                "it hangs, was killed or cannot be reached"
            )
            self._set_node()

    def set_note(self, note: str) -> None:
        """Show what hinders the node; empty: nothing does."""
        self._note = note
        self._set_node()

    def close(self) -> None:
        """Cancel the questions."""
        self._questions.close()

    def _poll_queries(self) -> None:
        try:
            queries = self._client.poll_queries()
            if queries is None:
                return
            self._state.set_queries(queries)
            self._failure = ""
        except BackendError as error:
            self._failure = str(error)
        self._is_listing = False
        self._set_node()

    def _set_health(self, health: Values) -> None:
        self._reported, self._silence = time.monotonic(), ""
        self._health = {key: health[key] for key in ("level", "message")}
        self._state.set_health(health["cameras"])
        self._set_node()

    def _set_node(self) -> None:
        problem = self._note or self._silence or self._failure
        values = {"name": self._client.target, "problem": problem, **self._health}
        self._state.set_part("node", values)

    def _add(self, values: Values) -> dict[str, Any]:
        query = parse_question(_given(values))
        query_id, note = self._client.add_query(query, query_id=values.get("id", ""))
        self._looked_up = 0.0
        return {"id": query_id, "note": note or query.note}

    def _remove(self, values: Values) -> dict[str, Any]:
        self._looked_up = 0.0
        self._client.remove_query(values.get("id", ""))
        return {}

    def _ask(self, values: Values) -> dict[str, Any]:
        query = parse_question(_given({k: v for k, v in values.items() if k != "camera"}))
        return {"number": self._questions.add(query, values.get("camera", ""))}

    def _cancel(self, values: Values) -> dict[str, Any]:
        self._questions.cancel(values.get("number", 0))
        return {}


def _given(values: Values) -> dict[str, Any]:
    """The values that are not empty. Raises QueryError if there is no text."""
    if not str(values.get("text", "")).strip() and not values.get("task"):
        raise QueryError("the query is empty", "describe what to look for")
    return {key: value for key, value in values.items() if value}
