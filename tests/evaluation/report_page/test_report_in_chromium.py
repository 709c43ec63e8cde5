"""The report in a browser: on a phone, in the dark, on paper, sorted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llava_st_ros.evaluation.comparison import compare
from llava_st_ros.evaluation.frame_readers import RecordedFrames
from llava_st_ros.evaluation.report_page.comparison_page import write_comparison
from llava_st_ros.evaluation.report_page.report_files import write_report
from support.chromium import DESKTOP, open_page
from support.report_runs import changed_run, hostile_run, recorded_run, stream_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SMALL_PHONE = (360, 740)
A4 = (703, 1000)  # CSS pixels between the margins of 12 mm


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of reports and comparisons."""
    urls = {}
    for name, make in (
        ("recorded", recorded_run),
        ("hostile", lambda folder: hostile_run()),
        ("stream", lambda folder: stream_run()),
    ):
        folder = tmp_path_factory.mktemp(name)
        urls[name] = write_report(make(folder), folder, RecordedFrames()).as_uri()
    for name, a, b in (
        ("comparison", hostile_run(), changed_run()),
        ("streams", stream_run(), stream_run(0.1)),
    ):
        path = tmp_path_factory.mktemp(name) / "comparison.html"
        write_comparison(path, compare(a, b), a, b, ("runs/<b>a</b>", "runs/" + "b" * 200))
        urls[name] = path.as_uri()
    return urls


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth"))


@pytest.mark.parametrize("name", ["recorded", "hostile", "comparison"])
@pytest.mark.parametrize("size", [SMALL_PHONE, DESKTOP])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_no_wider_than_the_window(
    chromium: Browser, reports: dict[str, str], name: str, size: tuple[int, int], dark: bool
) -> None:
    with open_page(chromium, reports[name], size, dark=dark) as page:
        assert overflow(page) <= 0
        assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(14, 18, 23)" if dark else "rgb(255, 255, 255)")
        assert page.locator("h1").count() == 1, "no text of the data became an element"
        wide = (
            "[...document.querySelectorAll('.scroll')].some((e) => e.scrollWidth > e.clientWidth)"
        )
        if size == SMALL_PHONE:
            assert page.evaluate(wide), "a wide table scrolls by itself"


@pytest.mark.parametrize("name", ["recorded", "hostile", "stream", "comparison", "streams"])
def test_nothing_is_cut_on_paper(
    chromium: Browser, reports: dict[str, str], name: str, tmp_path: Path
) -> None:
    with open_page(chromium, reports[name], A4, dark=True) as page:
        page.emulate_media(media="print")
        assert overflow(page) <= 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        cut = page.evaluate(
            "[...document.querySelectorAll('table, figure, .card')].filter("
            "(e) => e.getBoundingClientRect().right > window.innerWidth).length"
        )
        assert cut == 0
        narrowest = page.evaluate(
            "Math.min(999, ...[...document.querySelectorAll('th.query')].map((e) => e.clientWidth))"
        )
        assert narrowest >= 90, "a query has more than a letter in a line"
        page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    pdf = (tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/MediaBox [0 0 594.95996 841.91998]" in pdf


def test_tables_are_sorted_by_their_columns(chromium: Browser, reports: dict[str, str]) -> None:
    with open_page(chromium, reports["hostile"]) as page:
        table = page.locator("table.sortable").first
        header = table.locator("th", has_text="Value")
        button = header.get_by_role("button", name="Sort by Value")
        button.click()
        assert header.get_attribute("aria-sort") == "ascending"
        values = _column(page, 2)
        numbers = [float(value) for value in values if value]
        assert numbers == sorted(numbers) and values[-1] == "", "undefined ones come last"
        button.click()
        assert header.get_attribute("aria-sort") == "descending"
        values = _column(page, 2)
        assert [float(value) for value in values if value] == numbers[::-1] and values[-1] == ""
        table.get_by_role("button", name="Sort by Metric").click()
        assert header.get_attribute("aria-sort") is None
        names = page.evaluate(
            "[...document.querySelector('table.sortable').tBodies[0].rows]"
            ".map((r) => r.cells[1].textContent.trim())"
        )
        assert names == sorted(names, key=str.lower)


def test_the_page_is_complete_without_scripts(chromium: Browser, reports: dict[str, str]) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["hostile"])
    assert page.locator("table").first.is_visible() and page.locator("button").count() == 0
    context.close()


def test_a_script_that_is_not_the_pages_own_does_not_run(
    chromium: Browser, reports: dict[str, str], tmp_path: Path
) -> None:
    text = Path(reports["recorded"].removeprefix("file://")).read_text("utf-8")
    altered = tmp_path / "altered.html"
    altered.write_text(text.replace("<main>", "<main><script>document.title = 'ran'</script>"))
    expected = ("Content Security Policy",)
    with open_page(chromium, altered.as_uri(), expected_errors=expected) as page:
        assert page.title() == "Evaluation of llava-st-tiny"


def _column(page: Page, number: int) -> list[str]:
    return list(
        page.evaluate(
            "(n) => [...document.querySelector('table.sortable').tBodies[0].rows]"
            ".map((r) => r.cells[n].dataset.value)",
            number,
        )
    )
