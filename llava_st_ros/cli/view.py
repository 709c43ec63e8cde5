"""``llava-st view``: a running node in the browser, live."""

from __future__ import annotations

import argparse
import threading
import time
from contextlib import suppress

from llava_st_ros.cli.browser import check_port, open_browser, port_errors
from llava_st_ros.cli.following import follow
from llava_st_ros.cli.node_arguments import add_node_arguments, connect
from llava_st_ros.cli.outputs import sigterm_interrupts
from llava_st_ros.errors import ConfigError

HELP = "show a running node in the browser: video, tracks, events, queries"
PORT = 8787
MAX_RATE = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine only; 0.0.0.0: all, and "
        "whoever can reach it sees the cameras and may add and remove queries)",
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"port (default {PORT}; 0: a free one)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=10.0,
        metavar="HZ",
        help="images per second and camera at most (default 10)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, open no browser"
    )
    add_node_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from llava_st_ros.cli.view_actions import ViewActions
    from llava_st_ros.live_view.commands import Commands
    from llava_st_ros.live_view.live_state import LiveState
    from llava_st_ros.live_view.view_server import ViewServer

    check_port(args.port)
    if not 0.1 <= args.rate <= MAX_RATE:
        raise ConfigError(f"--rate is {args.rate:g}; expected 0.1 to {MAX_RATE:g}")
    state, commands = LiveState(args.rate), Commands()
    with port_errors(args.port, args.host):
        server = ViewServer(state, commands, args.host, args.port)
    with (
        sigterm_interrupts(),
        suppress(KeyboardInterrupt),
        server,
        connect(args, "llava-st view") as client,
    ):
        actions = ViewActions(client, state)
        serving = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        serving.start()
        print(f"open {server.url} (Ctrl-C ends)", flush=True)
        if not args.no_browser:
            open_browser(server.url)

        def turn() -> None:
            commands.run(actions.by_name)
            actions.turn(time.monotonic())

        try:
            follow(client, state.add_tracks, state.add_event, state.clear, actions.set_note, turn)
        finally:
            state.close()
            server.shutdown()
            actions.close()
    return 0
