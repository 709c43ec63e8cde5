"""``llava-st watch``: the tracks and events of a running node, live."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.following import REFRESH_S, Handle, follow
from llava_st_ros.cli.live_results import LiveResults
from llava_st_ros.cli.node_arguments import add_node_arguments, connect
from llava_st_ros.cli.outputs import sigterm_interrupts
from llava_st_ros.errors import printable_line

if TYPE_CHECKING:
    from llava_st_ros.ros.node_client import NodeClient

HELP = "show the tracks and events of a running node, live"
OTHER_ROWS = 12  # of the screen: titles and headers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print each message as a JSON line instead"
    )
    add_node_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Watch until Ctrl-C: a table on a terminal, otherwise a line for each change."""
    with sigterm_interrupts(), connect(args, "llava-st watch") as client:
        try:
            if args.json:
                _print_json(client)
            elif sys.stdout.isatty():
                _show_table(client)
            else:
                _print_lines(client)
        except KeyboardInterrupt:
            pass  # the usual end
    return 0


def _print_json(client: NodeClient) -> None:
    def printer(kind: str) -> Handle:
        return lambda values: print(json.dumps({"kind": kind, **values}), flush=True)

    follow(client, printer("tracks"), printer("event"), lambda: None, _warn)


def _print_lines(client: NodeClient) -> None:
    results = LiveResults()

    def printer(add: Callable[[dict[str, Any]], list[str]]) -> Handle:
        def handle(values: dict[str, Any]) -> None:
            for line in add(values):
                print(line, flush=True)

        return handle

    handlers = printer(results.add_tracks), printer(results.add_event)
    follow(client, *handlers, results.clear, _warn)


def _show_table(client: NodeClient) -> None:
    from rich.live import Live

    results, note = LiveResults(), ""
    drawn = 0.0

    def set_note(text: str) -> None:
        nonlocal note
        note = text

    with Live(auto_refresh=False, screen=True) as live:

        def draw() -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn >= REFRESH_S:
                drawn = now
                rows = max(2, shutil.get_terminal_size().lines - OTHER_ROWS)
                title = " - ".join(filter(None, (client.target, note, "Ctrl-C ends this")))
                live.update(results.view(title, rows), refresh=True)

        follow(client, results.add_tracks, results.add_event, results.clear, set_note, draw)


def _warn(text: str) -> None:
    if text:
        print(printable_line(text), file=sys.stderr, flush=True)
