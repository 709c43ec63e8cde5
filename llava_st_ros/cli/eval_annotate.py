"""``llava-st eval annotate``: annotate a bag in the browser, on a page that this command serves."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.cli.browser import check_port, open_browser, port_errors
from llava_st_ros.errors import LlavaStError, reason_of

if TYPE_CHECKING:
    from llava_st_ros.evaluation.annotate.session import AnnotationSession

HELP = "annotate a bag in the browser: boxes, spans and queries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument("--topic", help="image topic (default: chosen in the page)")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="annotation file (default: annotations.json in the bag's folder, or"
        " BAG.annotations.json beside a file)",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, open no browser"
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.annotations.annotation_file import annotation_path
    from llava_st_ros.cli.outputs import sigterm_interrupts
    from llava_st_ros.evaluation.annotate.server import AnnotationServer
    from llava_st_ros.evaluation.annotate.session import AnnotationSession

    check_port(args.port)
    session = AnnotationSession(
        args.bag,
        args.annotations or annotation_path(args.bag),
        args.topic,
        on_loss=lambda line: print(line, file=sys.stderr, flush=True),
    )
    with port_errors(args.port):
        server = AnnotationServer(session, args.port)
    if len(session.topics) > 1:
        print(f"image topics, to choose from in the page: {', '.join(session.topics)}")
    for note in session.store.notes:
        print(f"{session.store.path}: {note}", file=sys.stderr)
    if session.store.problem:
        print(f"not saved: {session.store.problem}", file=sys.stderr)
    print(f"annotations: {session.store.path}")
    print(f"open {server.url} (Ctrl-C ends)", flush=True)
    if len(session.topics) == 1:
        session.camera(0).start()
    if not args.no_browser:
        open_browser(server.url)
    with server, sigterm_interrupts(), suppress(KeyboardInterrupt):
        server.serve_forever()
    return _finish(session)


def _finish(session: AnnotationSession) -> int:
    """Write what could not be written so far, and report what is not in the file."""
    store = session.store
    store.save()
    for name, reason in store.incomplete().items():
        print(f"query {name!r} is not in the file: {reason}", file=sys.stderr)
    try:
        rescued = store.rescue()
    except OSError as error:
        raise LlavaStError(f"the last changes are lost: {reason_of(error)}") from error
    if rescued is not None:
        raise LlavaStError(f"{store.problem}", f"the annotations are in {rescued}")
    return 0
