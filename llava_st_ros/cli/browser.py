"""Commands that serve a page: their port, and the user's browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

from llava_st_ros.errors import ConfigError, reason_of


def check_port(port: int) -> None:
    """Raise ConfigError for a number that is no port; 0 is any free one."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; expected 0 to 65535")


@contextmanager
def port_errors(port: int, host: str = "") -> Iterator[None]:
    """Raise ConfigError if the block cannot listen on a port."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
        where = f"port {port} of {host}" if host else f"port {port}"
        raise ConfigError(
            f"{where} cannot be used: {reason_of(error)}",
            "choose another --host or --port" if host else "choose another --port",
        ) from error


def open_browser(url: str) -> None:
    """Open a page where there is a desktop: elsewhere a text browser would take the terminal."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)
