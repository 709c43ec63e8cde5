"""The server of the annotation page, for one user on this machine.

It listens on 127.0.0.1. Every path begins with a secret of this run, which other pages and users do
not know. A request names nothing but numbers.
"""

from __future__ import annotations

import re
import secrets
from http import HTTPStatus
from typing import Any

from llava_st_ros.errors import FrameError, LlavaStError
from llava_st_ros.evaluation.annotate.annotation_store import ConflictError
from llava_st_ros.evaluation.annotate.session import AnnotationSession
from llava_st_ros.page_server import PageHandler, PageServer, no_such_page

MAX_REQUEST_BYTES = 64 << 20  # of changes: an object with a box in each of a million frames
_FILES = (
    "page.html",
    "page.css",
    "annotator.js",
    "annotations.js",
    "panels.js",
    "player.js",
    "saving.js",
    "stage.js",
    "timeline.js",
    "track.js",
)
_CAMERA = re.compile(r"cameras/([0-9]{1,4})")
_FRAME = re.compile(r"frames/([0-9]{1,4})/([0-9]{1,9})\.jpg")


class AnnotationServer(PageServer):
    """Serves the page of a session.

    Args:
        session: What the page shows.
        port: The port; 0 chooses a free one.

    Raises:
        OSError: The port is in use.
    """

    max_request_bytes = MAX_REQUEST_BYTES

    def __init__(self, session: AnnotationSession, port: int = 0) -> None:
        self.session = session
        super().__init__(_Handler, __package__, _FILES, port=port, secret=secrets.token_urlsafe(16))


class _Handler(PageHandler):
    server: AnnotationServer

    def status_of(self, error: LlavaStError) -> HTTPStatus:
        if isinstance(error, ConflictError):
            return HTTPStatus.CONFLICT
        return HTTPStatus.NOT_FOUND if isinstance(error, FrameError) else HTTPStatus.BAD_REQUEST

    def get(self, path: str) -> None:
        session = self.server.session
        if path == "session":
            self.send_json(session.description())
        elif path == "annotations":
            self.send_json(session.store.to_json())
        elif path == "status":
            self.send_json(session.store.status())
        elif match := _CAMERA.fullmatch(path):
            self.send_json(session.camera_json(int(match[1])))
        elif match := _FRAME.fullmatch(path):
            data = session.camera(int(match[1])).jpeg(int(match[2]))
            self.send(HTTPStatus.OK, data, "image/jpeg", "private, max-age=86400, immutable")
        else:
            raise no_such_page()

    def post(self, path: str, request: Any) -> None:
        session = self.server.session
        if path == "changes":
            self.send_json(session.apply(request))
        elif path == "save":
            self.send_json(session.store.save())
        elif path == "discard":
            self.send_json(session.store.to_json(discard=True))
        else:
            raise no_such_page()
