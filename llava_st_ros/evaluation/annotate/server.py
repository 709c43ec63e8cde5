"""The page's HTTP server, for one user on this machine.

It listens on 127.0.0.1. Every path begins with a secret of this run, which other pages and users
do not know; a Host header of another name (DNS rebinding) is rejected, and so is a POST whose
Origin is not this server's (cross-site request forgery). A request names nothing but numbers: the
page's files are a fixed table.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from llava_st_ros.errors import DataError, FrameError, LlavaStError, one_line
from llava_st_ros.evaluation.annotate.annotation_store import ConflictError
from llava_st_ros.evaluation.annotate.session import AnnotationSession
from llava_st_ros.files.json_files import parse_json

HOST = "127.0.0.1"
MAX_REQUEST_BYTES = 64 << 20  # of changes: an object with a box in each of a million frames
_JSON = "application/json"
_PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        name: (name, "text/javascript; charset=utf-8")
        for name in (
            "annotator.js",
            "annotations.js",
            "panels.js",
            "player.js",
            "saving.js",
            "stage.js",
            "timeline.js",
            "track.js",
        )
    },
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
_CAMERA = re.compile(r"cameras/([0-9]{1,4})")
_FRAME = re.compile(r"frames/([0-9]{1,4})/([0-9]{1,9})\.jpg")


class PageServer(ThreadingHTTPServer):
    """Serves the page of a session at ``url``.

    Args:
        session: What the page shows.
        port: The port; 0 chooses a free one.

    Raises:
        OSError: The port is in use.
    """

    daemon_threads = True  # a connection that is kept open must not delay the end

    def __init__(self, session: AnnotationSession, port: int = 0) -> None:
        self.session = session
        self.secret = secrets.token_urlsafe(16)
        super().__init__((HOST, port), _Handler)
        names = (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")
        self.hosts = frozenset(names)
        self.origins = frozenset(f"http://{name}" for name in names)
        folder = files(__package__) / "page"
        self.page = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()
        }

    @property
    def url(self) -> str:
        """The page's address, with the secret."""
        return f"http://{HOST}:{self.server_port}/{self.secret}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error in one line; a client that closed its connection is none."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"request failed: {one_line(error)}", file=sys.stderr)


class _RejectedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        super().__init__(problem)
        self.status, self.problem = status, problem


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"  # keeps connections open: frames follow each other quickly
    server_version, sys_version = "llava-st", ""
    timeout = 60  # seconds for a request, and until an unused connection is closed

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal shows what the user should know."""

    def _answer(self, method: Callable[[str], None]) -> None:
        try:
            method(self._checked_path())
        except _RejectedError as error:
            self._reject(error.status, error.problem)
        except ConflictError as error:
            self._reject(HTTPStatus.CONFLICT, str(error))
        except FrameError as error:
            self._reject(HTTPStatus.NOT_FOUND, str(error))
        except LlavaStError as error:
            self._reject(HTTPStatus.BAD_REQUEST, str(error))

    def _checked_path(self) -> str:
        """Return the path behind the secret. Raises _RejectedError."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise _RejectedError(HTTPStatus.FORBIDDEN, "the Host header does not name this server")
        _, _, path = self.path.partition("?")[0].partition("/")
        secret, _, rest = path.partition("/")
        if not compare_digest(secret.encode(), self.server.secret.encode()):
            raise _RejectedError(
                HTTPStatus.FORBIDDEN,
                "this address is not that of the running llava-st eval annotate: open the one that"
                " it printed",
            )
        return rest

    def _get(self, path: str) -> None:
        session = self.server.session
        if path in self.server.page:
            data, kind = self.server.page[path]
            self._send(HTTPStatus.OK, data, kind)
        elif path == "session":
            self._send_json(session.description())
        elif path == "annotations":
            self._send_json(session.store.to_json())
        elif path == "status":
            self._send_json(session.store.status())
        elif match := _CAMERA.fullmatch(path):
            self._send_json(session.camera_json(int(match[1])))
        elif match := _FRAME.fullmatch(path):
            data = session.camera(int(match[1])).jpeg(int(match[2]))
            self._send(HTTPStatus.OK, data, "image/jpeg", "private, max-age=86400, immutable")
        else:
            raise _RejectedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, path: str) -> None:
        if self.headers.get("Origin") not in self.server.origins:
            raise _RejectedError(HTTPStatus.FORBIDDEN, "the request is not from this server's page")
        if self.headers.get_content_type() != _JSON:
            raise _RejectedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {_JSON}")
        request = parse_json(self._body(), "the request", DataError)
        session = self.server.session
        if path == "changes":
            self._send_json(session.apply(request))
        elif path == "save":
            self._send_json(session.store.save())
        elif path == "discard":
            self._send_json(session.store.to_json(discard=True))
        else:
            raise _RejectedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise _RejectedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > 9 or int(length) > MAX_REQUEST_BYTES:
            raise _RejectedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request is larger than {MAX_REQUEST_BYTES >> 20} MiB",
            )
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise ConnectionError("the request ended early")
        return data

    def _reject(self, status: HTTPStatus, problem: str) -> None:
        self.close_connection = True  # the rest of the request may be unread
        self._send(status, json.dumps({"problem": problem}).encode(), _JSON)

    def _send_json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), _JSON)

    def _send(self, status: HTTPStatus, data: bytes, kind: str, cache: str = "no-store") -> None:
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
