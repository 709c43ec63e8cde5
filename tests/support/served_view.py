"""A served page whose commands are recorded, without a node."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from llava_st_ros.errors import QueryError
from llava_st_ros.live_view.commands import Commands
from llava_st_ros.live_view.live_state import LiveState
from llava_st_ros.live_view.view_server import ViewServer


class Served:
    """The server, and what its pages asked for."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.state, self.commands = LiveState(60.0), Commands()
        self.server = ViewServer(self.state, self.commands, host)
        self.executed: list[tuple[str, Mapping[str, Any]]] = []
        self._is_over = threading.Event()
        serve = {"poll_interval": 0.01}
        self._threads = [
            threading.Thread(target=self.server.serve_forever, kwargs=serve),
            threading.Thread(target=self._execute),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._is_over.set()
        self.state.close()
        self.server.shutdown()
        self.server.server_close()
        for thread in self._threads:
            thread.join()

    def _execute(self) -> None:
        def action(name: str, values: Mapping[str, Any]) -> Any:
            self.executed.append((name, values))
            if values.get("id") == "taken":
                raise QueryError("there is another query 'taken'")
            return {"id": "q1", "note": "", "number": 1}

        names = ("add", "remove", "ask", "cancel")
        actions = {name: lambda values, name=name: action(name, values) for name in names}
        while not self._is_over.wait(0.005):
            self.commands.run(actions)
