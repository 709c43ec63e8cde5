"""A running page server on a copy of the demo's bag, whose frames have 320 x 320 pixels."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.evaluation.annotate.server import AnnotationServer
from llava_st_ros.evaluation.annotate.session import AnnotationSession
from support.paths import ROOT

Serve = Callable[[Path], AnnotationServer]


@contextmanager
def running(bag: Path) -> Iterator[AnnotationServer]:
    session = AnnotationSession(bag, annotation_path(bag))
    with AnnotationServer(session) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        session.camera(0).wait()  # pages need not ask again
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server for a bag."""
    with ExitStack() as stack:
        yield lambda bag: stack.enter_context(running(bag))


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """The demo's bag without annotations: 360 frames at 15 Hz."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("bag.mcap", "metadata.yaml"):
        shutil.copy(ROOT / "demo/bag" / name, folder)
    return folder


@pytest.fixture
def server(serve: Serve, bag: Path) -> AnnotationServer:
    return serve(bag)
