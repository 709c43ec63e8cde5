"""The live page's server answers its own page only, and validates what it is sent."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from llava_st_ros.errors import BackendError
from llava_st_ros.live_view import commands
from llava_st_ros.live_view.commands import MAX_PENDING, Commands
from llava_st_ros.live_view.live_state import LiveState
from llava_st_ros.live_view.view_server import MAX_REQUEST_BYTES, ViewServer
from llava_st_ros.page_server import MAX_CONNECTIONS
from support.paths import ROOT
from support.served_view import Served


def request(
    served: Served, method: str, path: str, body: Any = None, **headers: str | None
) -> tuple[int, bytes]:
    port = served.server.server_port
    values: dict[str, str | None] = {
        "Host": f"127.0.0.1:{port}",
        "Origin": f"http://127.0.0.1:{port}",
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name: value for name, value in values.items() if value is not None}
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_the_page_and_its_files_are_served(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    for path, (data, _) in served.server.page.items():
        assert request(served, "GET", f"/{path}") == (200, data)
    folder = Path(ROOT / "llava_st_ros/live_view/page")
    names = {file.name for file in folder.iterdir()} | {"base.css"}  # that of all pages
    assert names == {*served.server.page, "page.html"} - {""}
    assert request(served, "GET", "/../setup.py")[0] == 404
    assert request(served, "POST", "/page.css", {})[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8787", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("127.0.0.1:8787@evil.example", 403),
        ("localhost@evil.example:8787", 403),
        ("localhost:", 403),
        ("localhost:x", 403),
        ("localhost:8787:8787", 403),
        ("localhost:123456", 403),
        ("[::1]evil.example", 403),
        ("[::1]:8787@evil.example", 403),
        ("evil.example[::1]", 403),
        ("[localhost]", 403),
        ("::1", 403),
        ("localhost", 200),
        ("localhost:9999", 200),  # a tunnel
        ("192.168.1.5:8787", 200),
        ("[fe80::1]:8787", 200),
        (f"{socket.gethostname()}.local:8787", 200),
    ],
)
def test_other_host_names_are_rejected(served: Served, host: str, status: int) -> None:
    found, data = request(served, "GET", "/updates", Host=host)
    assert found == status
    if status == 403:
        assert "open the address that the command printed" in json.loads(data)["problem"]


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", None, "http://127.0.0.1:1", "http://localhost", "file://"],
)
@pytest.mark.parametrize(
    "path", ["/queries/add", "/queries/remove", "/questions/ask", "/questions/cancel"]
)
def test_commands_of_other_origins_are_rejected(
    served: Served, path: str, origin: str | None
) -> None:
    assert request(served, "POST", path, {}, Origin=origin)[0] == 403
    assert not served.executed
    assert request(served, "POST", path, {})[0] == 200


def test_other_sites_cannot_ask_for_updates(served: Served) -> None:
    for site in ("cross-site", "same-site"):
        assert request(served, "GET", "/updates", Sec_Fetch_Site=site)[0] == 403
    assert not served.state.is_watched
    assert request(served, "GET", "/updates", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("/queries/add", [], "the request contains a list"),
        ("/queries/add", {"text": 5}, "the request's text is 5"),
        ("/queries/add", {"text": None}, "the request's text is None"),
        ("/queries/add", {"cameras": "front"}, "the request's cameras is 'front'"),
        ("/queries/add", {"cameras": [["x"]]}, "the request's cameras is a list of 1"),
        ("/queries/add", {"text": "x", "period": 1}, "the request has the unknown key 'period'"),
        ("/queries/remove", {"id": {}}, "the request's id is a mapping of 0"),
        ("/questions/ask", {"camera": ["front"]}, "the request's camera is ['front']"),
        ("/questions/cancel", {"number": True}, "the request's number is True"),
        ("/questions/cancel", {"number": "1"}, "the request's number is '1'"),
        ("/queries/add", b'{"text": "a", "text": "b"}', "is not valid JSON"),
        ("/queries/add", b"{" * 100_00, "is not valid JSON"),
        ("/queries/add", b"\xff", "the request"),
        ("/queries/add", {"id": "taken"}, "there is another query 'taken'"),
    ],
)
def test_invalid_commands_are_one_line(served: Served, path: str, body: Any, line: str) -> None:
    status, data = request(served, "POST", path, body)
    problem = json.loads(data)["problem"]
    assert status == 400 and line in problem and "\n" not in problem


def test_large_requests_are_rejected(served: Served) -> None:
    status, _ = request(served, "POST", "/queries/add", {"text": "x" * MAX_REQUEST_BYTES})
    assert status == 413 and not served.executed


@pytest.mark.parametrize("after", ["-1", "x", "1" * 5000, "٣", "1.5"])
def test_a_version_that_is_none_is_an_error(served: Served, after: str) -> None:
    from urllib.parse import quote

    assert request(served, "GET", f"/updates?after={quote(after)}")[0] == 400


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(20) == b""
    except ConnectionError:
        return True


def test_more_connections_than_threads_are_closed(served: Served) -> None:
    open_ones = [
        socket.create_connection(("127.0.0.1", served.server.server_port))
        for _ in range(MAX_CONNECTIONS)
    ]
    for one in open_ones:  # each has its thread once it was answered
        one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert one.recv(20).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", served.server.server_port)) as another:
        another.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert is_closed(another)
    for one in open_ones:
        one.close()


def test_commands_that_wait_too_long_are_not_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TIMEOUT_S", 0.01)
    waiting = Commands()
    for number in range(MAX_PENDING):
        with pytest.raises(BackendError, match=r"the node has not answered after 0 s$"):
            waiting.execute("cancel", {"number": number})
    with pytest.raises(BackendError, match="too many requests wait"):
        waiting.execute("cancel", {"number": 0})
    executed: list[Any] = []
    waiting.run({"cancel": executed.append})
    assert not executed


def test_the_address_is_the_machines_name_where_it_listens_on_all() -> None:
    with ViewServer(LiveState(1.0), Commands(), "0.0.0.0") as server:
        assert server.url == f"http://{socket.gethostname().lower()}:{server.server_port}/"
    with ViewServer(LiveState(1.0), Commands(), "::1") as server:
        assert server.url == f"http://[::1]:{server.server_port}/"
        assert server.accepts_host(f"[::1]:{server.server_port}")
