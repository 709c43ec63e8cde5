"""The server answers its own page only: other pages, names and paths get an error."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from llava_st_ros.evaluation.annotate.server import MAX_REQUEST_BYTES, AnnotationServer
from llava_st_ros.media.sources import BagSource

CHANGES = {"changes": {"objects": {}, "queries": {}}, "revision": 1}


def request(
    server: AnnotationServer, method: str, path: str, body: Any = None, **headers: str | None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Send a request below the secret, with the headers of the page's own requests."""
    values: dict[str, str | None] = {
        "Host": f"127.0.0.1:{server.server_port}",
        "Origin": f"http://127.0.0.1:{server.server_port}",
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        data = None if body is None else json.dumps(body).encode()
        sent = {name: value for name, value in values.items() if value is not None}
        connection.request(method, f"/{server.secret}/{path}", data, sent)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def raw(server: AnnotationServer, text: str) -> str:
    """Send the text of a request and return the answer's first line."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(text.encode("latin-1"))
        return connection.makefile("rb").readline().decode()


def test_it_listens_on_this_machine_only(server: AnnotationServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_and_its_files_are_served(server: AnnotationServer) -> None:
    for path, (data, kind) in server.page.items():
        status, content, headers = request(server, "GET", path)
        assert (status, content, headers["Content-Type"]) == (200, data, kind)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    # Everything in the page's folder is served: nothing was forgotten.
    folder = Path(__file__).parents[3] / "llava_st_ros/evaluation/annotate/page"
    names = {file.name for file in folder.iterdir()} | {"base.css"}  # that of all pages
    assert names == {*server.page, "page.html"} - {""}


def test_frames_are_those_of_the_bag(server: AnnotationServer, bag: Path) -> None:
    server.session.camera(0).wait()
    status, data, _ = request(server, "GET", "cameras/0")
    camera = json.loads(data)
    frames = list(BagSource(bag))
    assert status == 200
    assert camera["stamps"] == [str(frame.stamp) for frame in frames]
    assert (camera["width"], camera["height"], camera["losses"]) == (320, 320, [])
    for number in (0, 359, 17):
        status, data, headers = request(server, "GET", f"frames/0/{number}.jpg")
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        difference = np.abs(shown.astype(int) - frames[number].image).mean()
        assert (status, headers["Content-Type"]) == (200, "image/jpeg") and difference < 2
        assert "immutable" in headers["Cache-Control"]
    assert request(server, "GET", "frames/0/360.jpg")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", None])
def test_another_host_name_is_rejected(server: AnnotationServer, host: str | None) -> None:
    if host is None:
        line = raw(server, f"GET /{server.secret}/session HTTP/1.0\r\n\r\n")
        assert " 403 " in line
    else:
        assert request(server, "GET", "session", Host=host)[0] == 403


def test_a_second_host_name_is_rejected(server: AnnotationServer) -> None:
    own = f"Host: 127.0.0.1:{server.server_port}\r\n"
    request_line = f"GET /{server.secret}/session HTTP/1.1\r\n"
    assert " 403 " in raw(server, f"{request_line}{own}Host: evil.example\r\n\r\n")


def test_a_wrong_secret_is_rejected(server: AnnotationServer) -> None:
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    for path in ("/", "/wrong/", "/wrong/session", "//", f"/{server.secret}x/", "/é/"):
        assert " 403 " in raw(server, f"GET {path} HTTP/1.1\r\n{host}\r\n")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", None, "http://127.0.0.1:1", "https://localhost", "file://"],
)
@pytest.mark.parametrize("path", ["changes", "save", "discard"])
def test_posts_of_other_origins_are_rejected(
    server: AnnotationServer, path: str, origin: str | None
) -> None:
    assert request(server, "POST", path, CHANGES, Origin=origin)[0] == 403
    assert request(server, "POST", path, CHANGES)[0] == 200


def test_posts_of_forms_are_rejected(server: AnnotationServer) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        assert request(server, "POST", "changes", CHANGES, Content_Type=kind)[0] == 415


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd",
        "%2e%2e/page.css",
        "page/page.css",
        "frames/0/..%2f..%2fetc",
        "frames/0/1.png",
        "frames/-1/1.jpg",
        "frames/0/99999999999.jpg",
        "//[/..",
        "annotations.json",
        "cameras/",
    ],
)
def test_paths_name_nothing_on_the_disk(server: AnnotationServer, path: str) -> None:
    server.session.camera(0).wait()
    request_line = f"GET /{server.secret}/{path} HTTP/1.1\r\n"
    answer = raw(server, f"{request_line}Host: 127.0.0.1:{server.server_port}\r\n\r\n")
    assert " 404 " in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 411),
        ("Content-Length: -5\r\n", 411),
        ("Content-Length: x\r\n", 411),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 411),
        (f"Content-Length: {MAX_REQUEST_BYTES + 1}\r\n", 413),
        (f"Content-Length: {'9' * 5000}\r\n", 413),
    ],
)
def test_requests_without_a_bounded_size_are_rejected(
    server: AnnotationServer, headers: str, status: int
) -> None:
    line = raw(
        server,
        f"POST /{server.secret}/changes HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
        f"Origin: http://127.0.0.1:{server.server_port}\r\nContent-Type: application/json\r\n"
        f"{headers}\r\n{{}}xxx",
    )
    assert f" {status} " in line


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"changes": {}, "revision": "1"},
        {"changes": {}, "revision": True},
        {"changes": [], "revision": 1},
        {"changes": {"objects": 5}, "revision": 1},
        {"changes": {}, "revision": 1, "force": "yes"},
    ],
)
def test_other_values_are_one_line(server: AnnotationServer, body: Any) -> None:
    status, data, _ = request(server, "POST", "changes", body)
    problem = json.loads(data)["problem"]
    assert status == 400 and problem and "\n" not in problem


def test_an_unknown_camera_is_an_error_in_words(server: AnnotationServer) -> None:
    assert json.loads(request(server, "GET", "cameras/7")[1]) == {"problem": "there is no camera 7"}
    assert request(server, "GET", "frames/7/0.jpg")[0] == 400


def test_a_connection_serves_several_requests(server: AnnotationServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for _ in range(3):
        connection.request("GET", f"/{server.secret}/session")
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["topics"] == ["/camera/image/compressed"]
    connection.close()
