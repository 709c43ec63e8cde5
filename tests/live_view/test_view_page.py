"""The live page in a real browser, with a state of the test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llava_st_ros.live_view.bounds import cut
from llava_st_ros.live_view.live_state import MAX_CAMERAS
from llava_st_ros.media.jpeg_encoding import encode_jpeg
from support.chromium import DESKTOP, PHONE, open_page
from support.served_view import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


def image(stamp: int) -> bytes:
    """A JPEG whose gray tells its stamp."""
    return encode_jpeg(np.full((120, 160, 3), stamp // SECOND % 200, np.uint8), 95)


def track(number: int, **values: Any) -> dict[str, Any]:
    usual = {"query_id": "q1", "track_id": number, "label": "a cup", "state": "GROUNDED"}
    place = {"stamp": START, "image": [160, 120], "box": [10.0, 20.0, 50.0, 60.0]}
    return {**usual, **place, "confidence": 0.5, **values}


def tracks(stamp: int, *found: dict[str, Any]) -> dict[str, Any]:
    return {"camera": "front", "stamp": stamp, "frame_id": "", "tracks": list(found)}


def event(number: int, state: str, **values: Any) -> dict[str, Any]:
    usual = {"camera": "front", "query_id": "q1", "event_id": number, "text": "it falls"}
    span = {"start": START, "end": START + 2 * SECOND, "confidence": 0.75, "reason": "NONE"}
    return {**usual, **span, "state": state, **values}


def show(served: Served, stamp: int, *found: dict[str, Any]) -> None:
    """Show an image with tracks, as soon as the rate allows it."""
    served.state.add_tracks(tracks(stamp, *found))
    served.state.add_image("front", stamp, lambda: image(stamp))
    deadline = time.monotonic() + 20
    while served.state._cameras["front"].picture is None or (
        served.state._cameras["front"].picture.stamp != stamp
    ):
        assert time.monotonic() < deadline
        served.state.refresh()


def at_stamp(page: Page, stamp: int) -> None:
    page.locator(f"canvas[data-stamp='{stamp}']").wait_for()


def wait(page: Page, script: str) -> None:
    """Wait until a script is true. (The page's policy forbids wait_for_function.)"""
    deadline = time.monotonic() + 20
    while not page.evaluate(script):
        assert time.monotonic() < deadline, script


def test_boxes_say_where_they_come_from(chromium: Browser, served: Served) -> None:
    served.state.set_part("node", {"name": "/grounding", "problem": "", "level": "ok"})
    show(
        served,
        START,
        track(1),
        track(2, state="PROPAGATED", label=HOSTILE, box=[60.0, 20.0, 90.0, 60.0]),
        track(3, state="LOST", stamp=START - SECOND // 2, label="x" * 60),
        track(4, box=[100.0, 90.0, 300.0, 200.0], image=[320, 240]),  # of larger images
    )
    with open_page(chromium, served.server.url) as page:
        page.locator("rect.box").first.wait_for()
        boxes = page.evaluate(
            """() => [...document.querySelectorAll("rect.box")].map((box) => [
              ["x", "y", "width", "height"].map((name) => Number(box.getAttribute(name))),
              getComputedStyle(box).strokeDasharray])"""
        )
        assert boxes == [
            [[10, 20, 40, 40], "none"],
            [[60, 20, 30, 40], "8px, 4px"],
            [[10, 20, 40, 40], "2px, 4px"],
            [[50, 45, 100, 55], "none"],
        ]
        labels = page.locator(".stage text").all_text_contents()
        assert labels == [
            "a cup 0.50 model",
            "<img src=x onerror=\"document.title='bro… 0.50 propagated",
            f"{'x' * 39}… 0.50 lost, 0.5 s old",
            "a cup 0.50 model",
        ]
        # Labels do not cover each other.
        places = page.evaluate(
            """() => [...document.querySelectorAll(".stage text")].map((text) => {
              const {x, y, right, bottom} = text.getBoundingClientRect();
              return [x, y, right, bottom]; })"""
        )
        for i, a in enumerate(places):
            for b in places[:i]:
                overlap = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                assert overlap[0] <= 1 or overlap[1] <= 4, (a, b)
        rows = page.locator("figure tbody tr").all_inner_texts()
        assert [row.split("\t")[2:] for row in rows[:3]] == [
            ["GROUNDED", "0.50", "0.0", "q1"],
            ["PROPAGATED", "0.50", "0.0", "q1"],
            ["LOST", "0.50", "0.5", "q1"],
        ]
        assert HOSTILE in rows[1]
        assert page.locator("img").count() == 0 and page.title() == "/grounding - llava-st view"
        label = page.locator("canvas").get_attribute("aria-label")
        assert label is not None and "a cup 0.50 model" in label


def test_numbers_that_are_not_finite_are_shown_as_such(chromium: Browser, served: Served) -> None:
    nan, infinity = float("nan"), float("inf")
    served.state.add_event(event(1, "CONFIRMED", confidence=nan))
    show(
        served,
        START,
        track(1, confidence=nan),
        track(2, box=[nan, 20.0, infinity, 60.0]),
        track(3, image=[0, 0]),
        track(4, box=[3e38, -3e38, -3e38, 3e38]),
        track(5),
    )
    with open_page(chromium, served.server.url) as page:
        page.locator("rect.box[data-track='5']").wait_for()
        numbers = "[...document.querySelectorAll('rect.box')].map((box) => box.dataset.track)"
        assert page.evaluate(numbers) == ["1", "4", "5"]
        rows = page.locator("figure tbody tr").all_inner_texts()
        assert [row.split("\t")[3] for row in rows] == ["not a number", *["0.50"] * 4]
        assert page.locator("#events tr").inner_text().split("\t")[3] == "not a number"
        page.get_by_text("Live").wait_for()


def test_long_texts_and_many_tracks_leave_the_page_usable(
    chromium: Browser, served: Served
) -> None:
    long = "word " * 200_000
    for number in range(100):
        served.state.add_event(event(number, "CONFIRMED", text=long, query_id=long, camera=long))
    query = {"task": "REC", "cameras": [long], "period": 1.0, "expiry": None}
    served.state.set_queries([{"id": long, "text": long, **query}] * 103)
    served.state.set_part("node", {"name": "/grounding", "problem": long, "message": long})
    served.state.set_health({"front": {"level": "warning", "message": long, "topic": long}})
    served.state.add_question(
        {"number": 1, "text": long, "state": "ANSWERED", "tokens": 0, "lines": [long]}
    )
    found = [track(number, label=long, query_id=long) for number in range(3)]
    show(served, START, *found, *(track(number) for number in range(3, 1000)))
    for size in (DESKTOP, PHONE):
        with open_page(chromium, served.server.url, size) as page:
            page.get_by_text("900 more tracks are not shown").wait_for()
            page.get_by_text("3 more queries are not shown").wait_for()
            page.get_by_text("40 more events are not shown").wait_for()
            title = page.locator("figure tbody td span").first.get_attribute("title")
            assert title == cut(long) and title.endswith(f"… ({1_000_000 - 1968} more characters)")
            assert page.locator("rect.box").count() == 100
            assert page.locator("figure tbody tr").count() == 100
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            heights = page.evaluate(
                """() => [...document.querySelectorAll("h1, h3, p:not(.silent), li, td, .name")]
                  .map((node) => [node.getBoundingClientRect().height, node.outerHTML])"""
            )
            assert not [entry for entry in heights if entry[0] > 200]


def test_what_a_node_repeats_is_not_rendered_again(chromium: Browser, served: Served) -> None:
    nan = float("nan")

    def publish(stamp: int) -> None:
        query = {"text": "a cup", "task": "REC", "cameras": [], "period": nan, "expiry": None}
        served.state.set_queries([{"id": "q1", **query}])
        served.state.set_health({"front": {"level": "warning", "message": "slow", "topic": "/i"}})
        served.state.add_event(event(1, "CONFIRMED", confidence=nan))
        show(served, stamp, track(1, stamp=stamp, confidence=nan))

    publish(START)
    with open_page(chromium, served.server.url) as page:
        at_stamp(page, START)
        assert "period not a number" in page.locator("#queries").inner_text()
        page.locator("#timeline .bar").wait_for()
        page.evaluate(
            """() => {
              window.changes = 0;
              const observer = new MutationObserver((found) => changes += found.length);
              for (const node of document.querySelectorAll("#queries, tbody, figcaption .problem"))
                observer.observe(node, {subtree: true, childList: true, characterData: true});
            }"""
        )
        for number in range(1, 4):
            publish(START + number * SECOND)
        at_stamp(page, START + 3 * SECOND)
        assert page.evaluate("changes") == 0
        served.state.add_event(event(1, "ENDED"))
        wait(page, "changes > 0")


def test_a_camera_that_is_forgotten_is_removed(chromium: Browser, served: Served) -> None:
    health = {"level": "ok", "message": "", "topic": "/image"}
    served.state.set_health({"first": health})
    with open_page(chromium, served.server.url) as page:
        page.get_by_role("heading", name="first").wait_for()
        served.state.set_health({f"camera {number}": health for number in range(MAX_CAMERAS)})
        page.get_by_role("heading", name="first").wait_for(state="detached")
        wait(page, f"document.querySelectorAll('figure').length === {MAX_CAMERAS}")
        names = page.locator("#ask-camera option").all_text_contents()
        assert len(names) == 1 + MAX_CAMERAS and "first" not in names


def test_a_slow_page_shows_the_newest_image_and_counts_the_others(
    chromium: Browser, served: Served
) -> None:
    show(served, START)
    with open_page(chromium, served.server.url) as page:
        at_stamp(page, START)
        held: list[Any] = []
        is_slow = True
        page.route(
            "**/updates?**", lambda route: held.append(route) if is_slow else route.continue_()
        )
        show(served, START + SECOND)  # ends the request that waits
        at_stamp(page, START + SECOND)
        deadline = time.monotonic() + 20
        while not held:  # the next one is on its way, slowly
            assert time.monotonic() < deadline
            page.evaluate("0")
        for number in range(2, 9):
            show(served, START + number * SECOND)
        is_slow = False
        held.pop().continue_()
        at_stamp(page, START + 8 * SECOND)
        dropped = page.get_by_text("6 not shown: this page or the network is slower")
        dropped.wait_for()
        gray = page.evaluate(
            "document.querySelector('canvas').getContext('2d').getImageData(80, 60, 1, 1).data[0]"
        )
        assert gray == pytest.approx((START // SECOND + 8) % 200, abs=2)
        dropped.wait_for(state="detached")  # it keeps up again


def test_events_are_in_a_table_and_on_a_timeline(chromium: Browser, served: Served) -> None:
    for number, state in enumerate(("ENDED", "RETRACTED", "PROVISIONAL", "CONFIRMED")):
        served.state.add_event(
            event(
                number,
                state,
                reason="CAMERA_SILENT" if state == "ENDED" else "ANSWERS",
                query_id=f"q{number}",
                start=START + number * SECOND,
                end=START + (number + 3) * SECOND,
            )
        )
    show(served, START + 20 * SECOND)
    with open_page(chromium, served.server.url) as page:
        page.locator("#events tr").first.wait_for()
        rows = [row.split("\t") for row in page.locator("#events tr").all_inner_texts()]
        assert [row[1] for row in rows] == [
            "CONFIRMED",
            "PROVISIONAL",
            "RETRACTED",
            "ENDED (camera silent)",
        ]
        assert rows[0][2].endswith("(3.0 s)") and rows[0][3:] == ["0.75", "front", "q3"]
        wait(page, "document.querySelectorAll('#timeline .bar').length === 4")
        places = page.evaluate(
            """() => [...document.querySelectorAll("#timeline .bar")].map((bar) =>
              [bar.className, Math.round(parseFloat(bar.style.left) * 0.6),
               Math.round(parseFloat(bar.style.width) * 0.6)])"""
        )
        # The right edge, 60 s, is the stamp of the newest image.
        assert places == [
            ["bar ENDED", 40, 3],
            ["bar RETRACTED", 41, 3],
            ["bar PROVISIONAL", 42, 3],
            ["bar CONFIRMED", 43, 3],
        ]
        served.state.add_event(event(3, "RETRACTED", query_id="q3"))
        page.locator("#events tr", has_text="CONFIRMED").wait_for(state="detached")


def test_queries_and_questions_by_keyboard(chromium: Browser, served: Served) -> None:
    query = {"text": HOSTILE, "task": "REC", "cameras": [], "period": 1.0, "expiry": None}
    served.state.set_queries([{"id": HOSTILE, **query}])
    served.state.set_part("tasks", ["REC", "STVG"])
    served.state.set_health({"front": {"level": "warning", "message": HOSTILE, "topic": "/image"}})
    served.state.set_part("node", {"name": HOSTILE, "problem": HOSTILE, "message": HOSTILE})
    with open_page(chromium, served.server.url, expected_errors=("400",)) as page:
        page.locator("#queries li").wait_for()
        assert page.locator("#queries li p").first.inner_text() == HOSTILE
        assert page.get_by_role("alert").inner_text() == HOSTILE
        assert page.locator("img").count() == 0 and page.title() != "broken"
        page.keyboard.press("Tab")
        page.keyboard.type("the cup")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")  # opens the options
        page.keyboard.press("Tab")
        page.keyboard.type("taken")
        page.keyboard.press("Tab")
        page.keyboard.type("STVG")
        page.keyboard.press("Tab")
        page.keyboard.type("front")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("there is another query 'taken'").wait_for()
        assert page.locator("#add-text").input_value() == "the cup"
        page.locator("#add-id").fill("cup")
        page.keyboard.press("Enter")
        page.get_by_text("added as q1").wait_for()
        page.get_by_role("button", name="Remove query <img").press("Enter")
        page.get_by_text("removed <img").wait_for()
        page.locator("#ask-text").press_sequentially("where?")
        page.keyboard.press("Enter")
        page.locator("#ask-text:not(:disabled)").wait_for()
        wait(page, "!document.querySelector('#ask-text').value")
        values = {"text": "the cup", "task": "STVG", "cameras": ["front"]}
        assert served.executed == [
            ("add", {**values, "id": "taken"}),
            ("add", {**values, "id": "cup"}),
            ("remove", {"id": HOSTILE}),
            ("ask", {"text": "where?", "task": "", "camera": ""}),
        ]
        unlabelled = page.evaluate(
            """() => [...document.querySelectorAll("input, select, button")].filter((control) =>
              !control.labels?.length && !control.textContent.trim()).length"""
        )
        assert unlabelled == 0


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_is_readable_in_light_and_dark(
    chromium: Browser, served: Served, size: tuple[int, int]
) -> None:
    """Contrast of texts of at least 4.5 (WCAG AA), and nothing wider than the window."""
    served.state.set_part("node", {"name": "/grounding", "problem": "It has ended"})
    served.state.set_health({"front": {"level": "warning", "message": "w" * 200, "topic": "/i"}})
    served.state.add_event(event(1, "ENDED", text="w" * 300, reason="STREAM_ENDED"))
    show(served, START, track(1, label="w" * 300))
    for dark in (False, True):
        with open_page(chromium, served.server.url, size, dark=dark) as page:
            page.locator("rect.box").wait_for()
            page.locator("#events tr").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            contrasts = page.evaluate(
                """() => {
                  const light = (color) => {
                    const [r, g, b] = color.match(/[\\d.]+/g).map((v) => v / 255)
                      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
                  };
                  const behind = (node) => {
                    for (; node; node = node.parentElement) {
                      const color = getComputedStyle(node).backgroundColor;
                      if (!color.endsWith(", 0)")) return color;
                    }
                  };
                  return [...document.querySelectorAll("h1, h2, h3, p, td, th, label, span")]
                    .filter((node) => node.checkVisibility() && !node.closest(".stage")
                      && [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))
                    .map((node) => {
                      const [a, b] = [getComputedStyle(node).color, behind(node)].map(light);
                      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent];
                    });
                }"""
            )
            assert len(contrasts) > 20
            assert not [entry for entry in contrasts if entry[0] < 4.5]


def test_legends_fit_a_phone(chromium: Browser, served: Served) -> None:
    with open_page(chromium, served.server.url, PHONE) as page:
        page.get_by_text("No event yet").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        entries = page.evaluate(
            """() => [...document.querySelectorAll(".legend > span")].map((entry) => {
              const sample = entry.firstElementChild.getBoundingClientRect();
              const words = document.createRange();
              words.selectNodeContents(entry.lastChild);
              const {left, right, top, bottom} = words.getBoundingClientRect();
              const gap = left - sample.right, middle = (sample.top + sample.bottom) / 2;
              return {text: entry.textContent, top: sample.top, width: sample.width, right, gap,
                      lines: words.getClientRects().length,
                      isBeside: top < middle && middle < bottom};
            })"""
        )
        assert len(entries) == 7
        assert len({round(entry["top"]) for entry in entries}) < 6  # several side by side
        for entry in entries:
            assert entry["right"] <= PHONE[0] and entry["lines"] == 1, entry
            assert entry["isBeside"] and 0 < entry["gap"] < 20 and entry["width"] >= 14, entry


def test_a_page_of_another_site_reaches_nothing(
    chromium: Browser, served: Served, tmp_path: Path
) -> None:
    show(served, START)
    attack, url = tmp_path / "attack.html", served.server.url
    attack.write_text(
        f"""<script>
        const post = (headers, mode) => fetch("{url}queries/add", {{method: "POST", headers, mode,
          body: JSON.stringify({{text: "a trap"}})}}).then((r) => r.type, () => "failed");
        const get = (mode) => fetch("{url}updates", {{mode}}).then((r) => r.text(), () => "failed");
        Promise.all([post({{"Content-Type": "application/json"}}, "cors"),
          post({{"Content-Type": "text/plain"}}, "no-cors"), get("cors"), get("no-cors")])
          .then((r) => window.results = r);
        </script>"""
    )
    errors = ("CORS", "ERR_FAILED", "NotSameOrigin")
    with open_page(chromium, attack.as_uri(), expected_errors=errors) as page:
        wait(page, "window.results")
        results = page.evaluate("results")
    assert results[0] == results[2] == "failed" and results[3] in ("", "failed")
    assert not served.executed and not served.state.is_watched
