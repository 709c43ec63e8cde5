"""Commands of the page, which wait for the thread that talks to the node."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from llava_st_ros.errors import BackendError, DataError, LlavaStError, shown

MAX_PENDING = 16
TIMEOUT_S = 15.0
Execute = Callable[[Mapping[str, Any]], Any]
# The keys of each command, and the types of their values.
KEYS: Mapping[str, Mapping[str, type]] = {
    "add": {"text": str, "id": str, "task": str, "cameras": list},
    "remove": {"id": str},
    "ask": {"text": str, "task": str, "camera": str},
    "cancel": {"number": int},
}


class Commands:
    """Passes commands from the threads of requests to the thread that calls ``run``."""

    def __init__(self) -> None:
        self._pending: queue.Queue[tuple[str, Mapping[str, Any], Future[Any]]] = queue.Queue(
            MAX_PENDING
        )

    def execute(self, name: str, values: Any) -> Any:
        """Let a command be executed, and return its result.

        Args:
            name: One of KEYS.
            values: Its values, as the page sent them.

        Raises:
            LlavaStError: The values are not valid, or the command failed.
            BackendError: It was not executed in time.
        """
        check(values, KEYS[name])
        future: Future[Any] = Future()
        try:
            self._pending.put_nowait((name, values, future))
        except queue.Full:
            raise BackendError("too many requests wait for the node", "retry later") from None
        try:
            return future.result(TIMEOUT_S)
        except FutureTimeoutError:
            state = "" if future.cancel() else "; it may still be done"
            raise BackendError(
                f"the node has not answered after {TIMEOUT_S:.0f} s{state}"
            ) from None

    def run(self, actions: Mapping[str, Execute]) -> None:
        """Execute what is pending, without waiting.

        Args:
            actions: What executes each command; it may raise LlavaStError.
        """
        while True:
            try:
                name, values, future = self._pending.get_nowait()
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(actions[name](values))
            except LlavaStError as error:
                future.set_exception(error)
            except BaseException:
                future.set_exception(BackendError("llava-st view has ended"))
                raise


def check(values: Any, kinds: Mapping[str, type]) -> None:
    """Raise DataError unless values are an object with some of the keys, each of its type."""
    if not isinstance(values, dict):
        raise DataError(f"the request is {shown(values)}; expected an object")
    for key, value in values.items():
        if key not in kinds:
            raise DataError(f"the request has the unknown key {shown(key)}")
        is_valid = isinstance(value, kinds[key]) and not isinstance(value, bool)
        if is_valid and isinstance(value, list):
            is_valid = all(isinstance(item, str) for item in value)
        if not is_valid:
            raise DataError(f"the request's {key} is {shown(value)}")
