"""Take a picture of ``llava-st view`` while the demo's bag is played: docs/images/view.png.

    scripts/with_ros python -m demo.view_image [--out docs/images/view.png]

A node, a player and the command run as separate processes; headless Chromium (CHROMIUM, or on PATH)
opens the page, asks a question, and takes the picture while the red box is pushed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from demo.domains import free_domain
from demo.run import HERE, IMAGE_TOPIC, write_parameters
from demo.run import parser as demo_parser
from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.errors import LlavaStError
from llava_st_ros.ros.child_processes import ChildProcesses, ProcessError

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1060, 1000
TIMEOUT_S = 90.0
PUSHED = "#events tr:has-text('the red box is pushed'):has-text('CONFIRMED')"
DRAWN = "figure tbody tr:has-text('the red box is pushed'):has-text('PROPAGATED')"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_picture(out: Path, logs: Path) -> None:
    """Run everything, and write the picture. Raises ProcessError if something fails."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        raise ProcessError("there is no Chromium", "install it, or set CHROMIUM to its path")
    arguments = demo_parser().parse_args([])
    truth = read_annotations(annotation_path(arguments.bag))
    parameters = logs / "parameters.yaml"
    write_parameters(parameters, arguments, truth.queries)
    environment = {"ROS_DOMAIN_ID": str(free_domain()), "ROS_LOG_DIR": str(logs)}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    port = free_port()
    with ChildProcesses(logs, environment) as children, sync_playwright() as playwright:
        node = ("node", "--ros-args", "--params-file", str(parameters))
        children.start("node", "llava_st_ros.cli", *node)
        children.start("view", "llava_st_ros.cli", "view", "--port", str(port), "--no-browser")
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(1e3 * TIMEOUT_S)
        open_page(page, f"http://127.0.0.1:{port}/", children)
        page.get_by_text("No image").first.wait_for()
        children.start("player", "llava_st_ros.ros.bag_player", str(HERE / "bag"), IMAGE_TOPIC)
        page.locator(PUSHED).wait_for()
        page.locator("#ask-text").fill("the green ball")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("#answers li[data-state=ANSWERED]").wait_for()
        page.locator(DRAWN).wait_for()
        page.screenshot(path=out)
        browser.close()


def open_page(page: Page, url: str, children: ChildProcesses) -> None:
    """Open the page once the command serves it."""
    from playwright.sync_api import Error

    deadline = time.monotonic() + TIMEOUT_S
    while True:
        children.require_running("view")
        try:
            page.goto(url)
            return
        except Error as error:
            if time.monotonic() > deadline:
                raise ProcessError(f"{url} cannot be opened") from error
            time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/view.png"))
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="llava-st-view-") as logs:
            take_picture(arguments.out, Path(logs))
    except LlavaStError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
