"""Headless Chromium for the tests of pages, driven by Playwright.

Playwright's own browsers are not used: CHROMIUM names the program, otherwise it is found on PATH
(Debian: apt-get install chromium).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = (390, 844)  # CSS pixels
DESKTOP = (1280, 800)
LOCAL = ("127.0.0.1", "localhost", "")  # "": file:, data: and blob:


def find_chromium() -> str | None:
    """The path of a Chromium that is named by CHROMIUM or is on PATH; None if there is none."""
    named = os.environ.get("CHROMIUM")
    candidates = (named,) if named else NAMES
    return next((path for name in candidates if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium.

    It ends with the module: Playwright's event loop would be the thread's for all later tests.
    """
    path = find_chromium()
    if path is None:
        named = os.environ.get("CHROMIUM")
        where = f"CHROMIUM is {named!r}, not a program" if named else "no Chromium on PATH"
        pytest.skip(f"{where}: apt-get install chromium, or set CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def open_page(
    browser: Browser,
    url: str,
    size: tuple[int, int] = DESKTOP,
    *,
    dark: bool = False,
    expected_errors: tuple[str, ...] = (),
) -> Iterator[Page]:
    """Open a page in a profile of its own, at a size in CSS pixels.

    At the end the test fails if a script of the page raised or logged an error, or if the page
    requested something from another host. Logged errors that contain one of ``expected_errors``
    are allowed; Chromium logs one for every response with a status of 400 or above.
    """
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    context.set_default_timeout(20_000)
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda message: faults.extend(_logged(message, expected_errors)))
    context.on("request", lambda request: faults.extend(_outside(request.url)))
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert not faults, "\n".join(faults)


def _logged(message: ConsoleMessage, expected: tuple[str, ...]) -> list[str]:
    is_fault = message.type == "error" and not any(text in message.text for text in expected)
    return [f"logged: {message.text}"] if is_fault else []


def _outside(url: str) -> list[str]:
    return [] if (urlsplit(url).hostname or "") in LOCAL else [f"requested {url}"]
