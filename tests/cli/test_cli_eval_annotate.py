"""``llava-st eval annotate`` as a command: what it prints, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llava_st_ros.annotations.annotation_file import read_annotations, write_annotations
from llava_st_ros.annotations.records import AnnotatedCamera, GroundTruth
from llava_st_ros.cli import browser
from llava_st_ros.cli.__main__ import main
from support.bags import TOPIC, images, write_mcap
from support.paths import ROOT


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run the command; yields the process, what it printed first, and the page's address."""
    command = [sys.executable, "-m", "llava_st_ros.cli", "eval", "annotate", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    environment.pop("DISPLAY", None)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        printed = ""
        try:
            while line := process.stdout.readline():
                printed += line
                if found := re.search(r"open (http://127\.0\.0\.1:\d+/\S+/) ", line):
                    yield process, printed, found[1]
                    break
            else:
                pytest.fail(f"{printed}{process.stderr.read() if process.stderr else ''}")
        finally:
            process.kill()


def post(url: str, path: str, body: Any) -> Any:
    origin = re.match(r"http://[^/]+", url)
    assert origin
    request = urllib.request.Request(
        url + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Origin": origin[0]},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_the_address_and_ends_on_a_signal(tmp_path: Path, number: int) -> None:
    file = write_mcap(tmp_path / "a.mcap", images(5))
    with started(file) as (process, printed, url):
        assert f"annotations: {tmp_path / 'a.annotations.json'}\n" in printed
        with urllib.request.urlopen(url, timeout=20) as response:
            assert b"<title>Annotate a bag</title>" in response.read()
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, output, errors) == (0, "", "")
    assert not (tmp_path / "a.annotations.json").exists()


def test_what_is_not_in_the_file_is_reported_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    file, target = write_mcap(tmp_path / "a.mcap", images(5)), tmp_path / "truth.json"
    with started(file, "--annotations", target, "--topic", TOPIC) as (process, _, url):
        while "stamps" not in json.load(urllib.request.urlopen(url + "cameras/0", timeout=20)):
            pass
        query = {"id": "q", "text": "a dog", "task": "REC", "topic": TOPIC}
        query |= {"spans": [], "objects": [], "noMatch": False}
        changes = {"queries": {"q": query}}
        assert post(url, "changes", {"changes": changes, "revision": 1})["isWritten"]
        target.chmod(0o444)
        changes = {"queries": {"r": {**query, "id": "r", "noMatch": True}}}
        assert not post(url, "changes", {"changes": changes, "revision": 2})["isWritten"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    draft, lost = errors.splitlines()
    assert (
        draft == "query 'a dog' is not in the file: it has no span and is not marked \"no match\""
    )
    assert process.returncode == 2
    rescued = re.fullmatch(f"llava-st: {target} is read-only; the annotations are in (.*)", lost)
    assert rescued
    (kept,) = read_annotations(Path(rescued[1])).queries
    assert kept.id == "r"
    assert tmp_path in Path(rescued[1]).parents


def test_what_can_be_written_again_is_written_at_the_end(tmp_path: Path) -> None:
    file, target = write_mcap(tmp_path / "a.mcap", images(5)), tmp_path / "a.annotations.json"
    write_annotations(target, GroundTruth((AnnotatedCamera(TOPIC, 8, 6),)))
    target.chmod(0o444)
    with started(file) as (process, _, url):
        query = {"id": "q", "text": "a dog", "task": "REC", "topic": TOPIC}
        query |= {"spans": [], "objects": [], "noMatch": True}
        sent = {"changes": {"queries": {"q": query}}, "revision": 1}
        assert not post(url, "changes", sent)["isWritten"]
        target.chmod(0o644)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, f"not saved: {target} is read-only\n")
    assert [query.id for query in read_annotations(target).queries] == ["q"]


@pytest.mark.parametrize(("display", "opened"), [(None, []), (":0", ["http://127.0.0.1/"])])
def test_a_browser_is_opened_where_there_is_a_desktop(
    display: str | None, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(sys, "platform", "linux")
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    browser.open_browser("http://127.0.0.1/")
    assert urls == opened


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topic", "/none"], f"has no topic /none; its image topics: {TOPIC} "),
        (["--port", "70000"], "--port is 70000; expected 0 to 65535"),
        (["--annotations", "{folder}"], "cannot read"),
        (["--annotations", "{folder}/other.json"], "other.json is not an annotation file"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text("{}")
    file = write_mcap(tmp_path / "a.mcap", images(5))
    given = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    assert main(["eval", "annotate", str(file), *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_mcap(tmp_path / "a.mcap", images(5))
    with started(file) as (_, _, url):
        port = re.findall(r":(\d+)/", url)[0]
        assert main(["eval", "annotate", str(file), "--port", port]) == 2
    assert f"port {port} cannot be used: Address already in use" in capsys.readouterr().err
