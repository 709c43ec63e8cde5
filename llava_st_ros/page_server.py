"""The HTTP server of a page of this package: its files, and the requests of its scripts.

A Host header of another name (DNS rebinding) is rejected, and so is a POST whose Origin is not this
server's (cross-site request forgery). The page's files are a fixed table: a path names nothing on
the disk. Standard library only, so that it runs on any robot.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import PurePath
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs

from llava_st_ros.errors import DataError, LlavaStError, one_line
from llava_st_ros.files.json_files import parse_json

HOST = "127.0.0.1"
MAX_CONNECTIONS = 64  # each has a thread
JSON = "application/json"
_INDEX = "page.html"
_BASE, _BASE_FILE = "base.css", "page_base.css"  # what the pages look like alike: address, file
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RejectedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        super().__init__(problem)
        self.status, self.problem = status, problem


class PageServer(ThreadingHTTPServer):
    """Serves a page at ``url``.

    Args:
        handler: Answers the requests of the page's scripts.
        package: The package whose folder ``page`` has the page's files, page.html among them. They
            can use base.css of all pages.
        names: Their names.
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        secret: Every path begins with it, if it is not empty.

    Raises:
        OSError: The address is not this machine's, or the port is in use.
    """

    daemon_threads = True  # a connection that is kept open must not delay the end
    request_queue_size = MAX_CONNECTIONS  # with fewer, a burst of connections waits for seconds
    max_request_bytes = 1 << 16

    def __init__(
        self,
        handler: type[PageHandler],
        package: str,
        names: Iterable[str],
        *,
        host: str = HOST,
        port: int = 0,
        secret: str = "",
    ) -> None:
        self.secret = secret
        folder = files(package) / "page"
        sources = {"" if name == _INDEX else name: folder / name for name in names}
        sources[_BASE] = files("llava_st_ros") / _BASE_FILE
        self.page = {
            path: (source.read_bytes(), _KINDS[PurePath(source.name).suffix])
            for path, source in sources.items()
        }
        self._free_connections = threading.Semaphore(MAX_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), handler)

    @property
    def url(self) -> str:
        """The page's address, with the secret."""
        host = self.server_address[0]
        name = f"[{host!s}]" if self.address_family == socket.AF_INET6 else str(host)
        return f"http://{name}:{self.server_port}/{self.secret + '/' if self.secret else ''}"

    def accepts_host(self, host: str) -> bool:
        """Whether a Host header names this server; by default only as this machine does."""
        return host in (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name: it can take long without a DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, unless there are too many."""
        if not self._free_connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free_connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error in one line; a client that closed its connection is none."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"request failed: {one_line(error)}", file=sys.stderr)


class PageHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection: ``get`` and ``post`` are the page's own.

    They raise RejectedError, or a LlavaStError with the status of ``status_of``.
    """

    server: PageServer
    protocol_version = "HTTP/1.1"  # keeps connections open: frames follow each other quickly
    server_version, sys_version = "llava-st", ""
    timeout = 60  # seconds for a request, and until an unused connection is closed

    def get(self, path: str) -> None:
        """Answer a GET of a path that is no file of the page."""
        raise NotImplementedError

    def post(self, path: str, request: Any) -> None:
        """Answer a POST with a JSON object."""
        raise NotImplementedError

    def status_of(self, error: LlavaStError) -> HTTPStatus:
        """The status of an answer with an error."""
        return HTTPStatus.BAD_REQUEST

    @property
    def parameters(self) -> dict[str, str]:
        """The last value of each parameter in the query of the address."""
        values = parse_qs(self.path.partition("?")[2], max_num_fields=32)
        return {name: texts[-1] for name, texts in values.items()}

    def send_json(self, value: Any) -> None:
        self.send(HTTPStatus.OK, json.dumps(value).encode(), JSON)

    def send(self, status: HTTPStatus, data: bytes, kind: str, cache: str = "no-store") -> None:
        """Send an answer of a content type."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", cache)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal shows what the user should know."""

    def _answer(self, method: Callable[[str], None]) -> None:
        try:
            method(self._checked_path())
        except RejectedError as error:
            self._reject(error.status, error.problem)
        except LlavaStError as error:
            self._reject(self.status_of(error), str(error))

    def _checked_path(self) -> str:
        """Return the path behind the secret. Raises RejectedError."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.accepts_host(hosts[0]):
            raise RejectedError(
                HTTPStatus.FORBIDDEN,
                "the Host header does not name this server: open the address that the command "
                "printed",
            )
        path = self.path.partition("?")[0].removeprefix("/")
        if not self.server.secret:
            return path
        secret, _, rest = path.partition("/")
        if not compare_digest(secret.encode(), self.server.secret.encode()):
            raise RejectedError(
                HTTPStatus.FORBIDDEN,
                "this address is not that of the running command: open the one that it printed",
            )
        return rest

    def _get(self, path: str) -> None:
        if path in self.server.page:
            data, kind = self.server.page[path]
            self.send(HTTPStatus.OK, data, kind)
        else:
            self.get(path)

    def _post(self, path: str) -> None:
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise RejectedError(HTTPStatus.FORBIDDEN, "the request is not from this server's page")
        if self.headers.get_content_type() != JSON:
            raise RejectedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {JSON}")
        self.post(path, parse_json(self._body(), "the request", DataError))

    def _body(self) -> bytes:
        length, limit = self.headers.get("Content-Length", ""), self.server.max_request_bytes
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise RejectedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > 9 or int(length) > limit:
            raise RejectedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than {limit >> 10} KiB"
            )
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise ConnectionError("the request ended early")
        return data

    def _reject(self, status: HTTPStatus, problem: str) -> None:
        self.close_connection = True  # the rest of the request may be unread
        self.send(status, json.dumps({"problem": problem}).encode(), JSON)


def no_such_page() -> RejectedError:
    return RejectedError(HTTPStatus.NOT_FOUND, "there is no such page")
