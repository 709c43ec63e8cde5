"""The server of the live page.

By default it listens on 127.0.0.1. Its address has no secret, so that a page finds the server again
after a restart; requests of other sites are rejected: a Host header must be this machine's name or
an IP address (a name of another site that leads here, by DNS rebinding, is none), and requests must
come from the page itself.
"""

from __future__ import annotations

import re
import socket
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from llava_st_ros.errors import DataError
from llava_st_ros.live_view.commands import Commands
from llava_st_ros.live_view.live_state import LiveState
from llava_st_ros.page_server import HOST, PageHandler, PageServer, RejectedError, no_such_page

UPDATE_S = 2.0  # at least one update in this time, so that a page knows that the server is there
MAX_REQUEST_BYTES = 1 << 16
WILDCARDS = ("", "0.0.0.0", "::")
_FILES = ("page.html", "page.css", "view.js", "elements.js", "pictures.js", "timeline.js")
# A Host header (RFC 9110, section 7.2): an IPv6 address in brackets, or a name, and perhaps a port.
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]@:]+))(?::[0-9]{1,5})?")
_COMMANDS = {
    "queries/add": "add",
    "queries/remove": "remove",
    "questions/ask": "ask",
    "questions/cancel": "cancel",
}


class ViewServer(PageServer):
    """Serves the live page.

    Args:
        state: What the page shows.
        commands: What the page asks the node to do.
        host: The address to listen on.
        port: The port; 0 chooses a free one.

    Raises:
        OSError: The address is not this machine's, or the port is in use.
    """

    max_request_bytes = MAX_REQUEST_BYTES

    def __init__(
        self, state: LiveState, commands: Commands, host: str = HOST, port: int = 0
    ) -> None:
        self.state, self.commands = state, commands
        machine = socket.gethostname().lower()
        self._names = {host.lower(), "localhost", machine, f"{machine}.local"}
        self._shown_host = machine if host in WILDCARDS else ""
        super().__init__(_Handler, __package__, _FILES, host=host, port=port)

    @property
    def url(self) -> str:
        """The page's address; by this machine's name if it listens on all addresses."""
        return f"http://{self._shown_host}:{self.server_port}/" if self._shown_host else super().url

    def accepts_host(self, host: str) -> bool:
        """Whether a Host header has this machine's name or an IP address.

        Its port may be another one, that of a tunnel.
        """
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        if found["name"] and found["name"].lower() in self._names:
            return True
        try:
            ip_address(found["address"] or found["name"])
        except ValueError:
            return False
        return True


class _Handler(PageHandler):
    server: ViewServer

    def get(self, path: str) -> None:
        if path != "updates":
            raise no_such_page()
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RejectedError(HTTPStatus.FORBIDDEN, "the request is not from this server's page")
        after = self.parameters.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 18):
            raise DataError("after is not a version")
        update = self.server.state.update(self.parameters.get("epoch", ""), int(after), UPDATE_S)
        self.send(HTTPStatus.OK, update.to_bytes(), "application/octet-stream")

    def post(self, path: str, request: Any) -> None:
        if path not in _COMMANDS:
            raise no_such_page()
        self.send_json(self.server.commands.execute(_COMMANDS[path], request))
