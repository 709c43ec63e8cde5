"""Questions to a running node, one after the other, without waiting for any."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.ask import answer_lines
from llava_st_ros.errors import BackendError
from llava_st_ros.live_view.live_state import LiveState
from llava_st_ros.records import Query

if TYPE_CHECKING:
    from llava_st_ros.ros.node_client import NodeClient
    from llava_st_ros.ros.question import Question

MAX_WAITING = 8
ALIVE_PERIOD_S = 1.0
CANCEL_S = 0.5  # for a cancellation to arrive when the command ends
WAITING, RUNNING = "WAITING", "RUNNING"
ANSWERED, FAILED, CANCELED = "ANSWERED", "FAILED", "CANCELED"


class QuestionQueue:
    """Asks the questions in their order, and shows their answers.

    Args:
        client: The client; whoever calls ``turn`` spins it.
        state: What the page shows.
    """

    def __init__(self, client: NodeClient, state: LiveState) -> None:
        self._client, self._state = client, state
        self._waiting: deque[tuple[int, Query, str]] = deque()
        self._shown: dict[int, dict[str, Any]] = {}  # the questions that are not over, by number
        self._last = 0
        self._running: tuple[int, Question] | None = None
        self._canceled: list[Question] = []  # the node may not know yet
        self._checked = 0.0

    def add(self, query: Query, camera: str) -> int:
        """Add a question; return its number. Raises BackendError if too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise BackendError(
                f"{MAX_WAITING} questions wait for an answer", "ask again when one is answered"
            )
        self._last += 1
        self._waiting.append((self._last, query, camera))
        self._shown[self._last] = {"text": query.text or query.task.value, "camera": camera}
        self._show(self._last, WAITING)
        return self._last

    def cancel(self, number: int) -> None:
        """Cancel a question; one that is over stays as it is."""
        if self._running is not None and self._running[0] == number:
            self._canceled.append(self._running[1])
            self._running = None
        self._waiting = deque(entry for entry in self._waiting if entry[0] != number)
        if number in self._shown:
            self._show(number, CANCELED)

    def turn(self) -> None:
        """Go on with the questions."""
        self._close_canceled()
        if self._running is None and self._waiting:
            number, query, camera = self._waiting.popleft()
            question = self._client.start_question(
                query, camera, lambda tokens: self._show_tokens(number, tokens)
            )
            self._running = number, question
            self._show(number, RUNNING)
        if self._running is not None:
            self._poll(*self._running)

    def close(self) -> None:
        """Cancel all questions."""
        if self._running is not None:
            self.cancel(self._running[0])
        deadline = time.monotonic() + CANCEL_S
        while self._canceled and time.monotonic() < deadline:
            self._close_canceled()
            self._client.spin(0.02)

    def _close_canceled(self) -> None:
        for question in [q for q in self._canceled if q.cancel()]:
            self._canceled.remove(question)
            question.close()

    def _poll(self, number: int, question: Question) -> None:
        try:
            answer = question.poll()
            if answer is None:
                now = time.monotonic()
                if now - self._checked >= ALIVE_PERIOD_S:
                    self._checked = now
                    question.check_alive(self._client.is_alive)
                return
            self._show(number, ANSWERED, lines=list(answer_lines(answer)))
        except BackendError as error:
            self._show(number, FAILED, lines=[str(error)])
        self._running = None
        question.close()

    def _show_tokens(self, number: int, tokens: int) -> None:
        if number in self._shown:
            self._show(number, RUNNING, tokens=tokens)

    def _show(self, number: int, state: str, **values: Any) -> None:
        shown = {"number": number, "tokens": 0, "lines": [], **self._shown[number], **values}
        shown["state"] = state
        if state in (WAITING, RUNNING):
            self._shown[number] = shown
        else:
            del self._shown[number]
        self._state.add_question(shown)
