"""The report's HTML, parsed: complete, escaped, self-contained, accessible."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.cli.__main__ import main
from llava_st_ros.evaluation.comparison import compare
from llava_st_ros.evaluation.conventions.catalogue import CONVENTIONS
from llava_st_ros.evaluation.frame_readers import NoFrames, RecordedFrames
from llava_st_ros.evaluation.metric_definitions import MetricDefinition
from llava_st_ros.evaluation.metric_kinds import MeanMetric
from llava_st_ros.evaluation.report_page import filmstrips
from llava_st_ros.evaluation.report_page import page as report_module
from llava_st_ros.evaluation.report_page.charts import histogram, interval_bar, tick_values
from llava_st_ros.evaluation.report_page.comparison_page import comparison_html
from llava_st_ros.evaluation.report_page.convention_lines import (
    convention_lines,
    side_by_side,
)
from llava_st_ros.evaluation.report_page.filmstrips import FRAMES, film_stamps
from llava_st_ros.evaluation.report_page.groups import film_cases, groups_of
from llava_st_ros.evaluation.report_page.html_page import _asset
from llava_st_ros.evaluation.report_page.page import MAX_COLUMNS, MAX_ROWS, report_html
from llava_st_ros.evaluation.report_page.report_files import write_report
from llava_st_ros.evaluation.report_page.timelines import spans_of
from llava_st_ros.evaluation.results import (
    Case,
    MetricRow,
    RunResults,
    Timeline,
    rows_of,
    write_results,
)
from llava_st_ros.evaluation.streams.scores import STREAM_CONVENTIONS, STREAM_METRICS
from llava_st_ros.records import NANOSECONDS, Box
from support.report_runs import (
    HOSTILE,
    changed_run,
    hostile_run,
    recorded_run,
    results_of,
    stream_run,
)

VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Element]:
        for child in self.children:
            if child.name == name:
                yield child
            yield from child.all(name)

    @property
    def words(self) -> str:
        return self.text + "".join(child.words for child in self.children)


class Document(HTMLParser):
    """A tree of elements; fails where an element is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert [e.name for e in self._open] == [""], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"repeated attribute in {attrs}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {n: v or "" for n, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self._open[-1].text += data


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    return write_report(recorded_run(folder), folder, RecordedFrames()).read_text("utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    return write_report(hostile_run(), folder, RecordedFrames()).read_text("utf-8")


@pytest.fixture(scope="module")
def comparison() -> str:
    a, b = hostile_run(), changed_run()
    return comparison_html(compare(a, b), a, b, ("runs/<b>a</b>", "runs/b"))


@pytest.fixture(params=["recorded", "hostile", "empty", "comparison"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "empty":
        return write_report(RunResults({}, (), ()), tmp_path, NoFrames()).read_text("utf-8")
    return str(request.getfixturevalue(request.param))


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    root = Document(page).root
    for element in _all(root):
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = element.attributes.get(name, "data:,")
            assert value.startswith(("#", "data:")), f"{element.name} {name}={value[:60]}"
        assert not any(name.startswith("on") for name in element.attributes)
        assert "url(" not in element.attributes.get("style", "")
    assert "@import" not in page and "url(" not in _asset("page.css")
    (script,) = root.all("script")
    assert script.text == _asset("page.js")
    (policy,) = (m for m in root.all("meta") if "http-equiv" in m.attributes)
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:")


def test_the_page_can_be_read_by_a_screen_reader(page: str) -> None:
    root = Document(page).root
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en" and len(list(root.all("h1"))) == 1
    levels = [int(e.name[1]) for e in _all(root) if re.fullmatch("h[1-6]", e.name)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), "no level of headings is skipped"
    ids = [e.attributes["id"] for e in _all(root) if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    for link in root.all("a"):
        assert link.attributes["href"].removeprefix("#") in ids
    for header in root.all("th"):
        assert header.attributes["scope"] in ("col", "row")
    for image in root.all("img"):
        assert image.attributes["alt"]
    for svg in root.all("svg"):
        assert svg.attributes.get("aria-label") or svg.attributes["aria-hidden"] == "true"


def _all(element: Element) -> Iterator[Element]:
    for child in element.children:
        yield child
        yield from _all(child)


def test_hostile_texts_are_shown_as_texts(hostile: str) -> None:
    words = Document(hostile).root.words
    for text in HOSTILE:
        shown = re.sub("[\x00\x1b\ud800]", "\ufffd", text)
        assert shown in words, text[:30]
    assert "</td></table><script>x" in words
    assert "and 50 more" in words, "150 dropped lines, 100 of them shown"
    assert "bags/kitchen.mcap was not found" in words


def test_every_figure_has_its_convention(recorded: str) -> None:
    figures = next(t for t in Document(recorded).root.all("table"))
    (head,) = figures.all("thead")
    assert [th.words for th in head.all("th")] == [
        "Task", "Metric", "Value", "95 % interval", "0 to 1", "Cases", "Convention", "Computed as",
    ]  # fmt: skip
    rows = [[c.words for c in tr.children if c.name in ("td", "th")] for tr in figures.all("tr")]
    assert rows[1] == [
        "STVG", "m_vIoU", "0.290", "0.000 to 0.580", "", "2", "llava_st_ros", "mean of viou",
    ]  # fmt: skip
    words = Document(recorded).root.words
    assert "m_vIoU (llava_st_ros) 0.580" in words
    assert "3 frames: damaged" in words and "answer 3 has no span" in words


def test_conventions_say_what_they_count() -> None:
    def row(key: str, convention: str) -> MetricRow:
        definition = MetricDefinition("mean", key)
        return MetricRow("STVG", "m", 0.5, 0.4, 0.6, 2, convention, definition=definition)

    rows = [row("live_viou", "llava_st_ros"), row("llava_st_ros vIoU", "llava_st_ros"),
            row("final_hota", "TrackEval"), row("x", "HC-STVG"), row("y", "HC-STVG"),
            row("z", "another")]  # fmt: skip
    lines = convention_lines(rows)
    names = ["llava_st_ros", "llava_st_ros", "TrackEval", "HC-STVG", "another"]
    assert [name for name, _ in lines] == names
    assert lines[0][1].startswith("on a stream: ") and "IoU thresholds 0.05" in lines[2][1]
    assert lines[1][1] == CONVENTIONS["llava_st_ros"].differs
    assert lines[3][1] == CONVENTIONS["HC-STVG"].differs
    assert lines[4][1] == "not described in this version"
    assert {metric.convention for metric in STREAM_METRICS} == set(STREAM_CONVENTIONS)


def test_conventions_are_side_by_side(hostile: str) -> None:
    table = next(t for t in Document(hostile).root.all("table") if "HC-STVG" in t.words[:60])
    cells = [[c.words for c in tr.children if c.name in ("td", "th")] for tr in table.all("tr")]
    rows = {row.convention: row for row in hostile_run().rows if row.metric == "m_vIoU"}
    assert cells[0] == ["Task", "Metric", "llava_st_ros", "HC-STVG"]
    values = [f"{rows[name].value:.3f}" for name in ("llava_st_ros", "HC-STVG")]
    assert cells[1:] == [["STVG", "m_vIoU", *values]]
    assert side_by_side([rows["HC-STVG"]]) is None
    other = replace(rows["HC-STVG"], task="TVG")
    both = side_by_side([*rows.values(), other])
    assert both is not None and both.lines == (("STVG", "m_vIoU", tuple(rows.values())),)


def test_films_show_both_boxes_with_tags(recorded: str) -> None:
    best, worst = Document(recorded).root.all("article")
    assert "the ball rolls" in best.words and "the box falls" in worst.words
    shots = list(best.all("li"))
    assert len(shots) == FRAMES
    middle = shots[2]
    (image,) = middle.all("img")
    assert image.attributes["src"].startswith("data:image/jpeg;base64,")
    classes = [rect.attributes["class"] for rect in middle.all("rect")]
    assert classes == ["casing pred", "line pred", "casing true", "line true"]
    assert [tag.words for tag in middle.all("span")] == ["P", "T"]
    assert "IoU 0.800" in middle.words  # the predicted box has 4/5 of the height
    assert all("true only" in shot.words for shot in worst.all("li"))


def test_a_run_without_figures_says_so(tmp_path: Path) -> None:
    run = RunResults({"model": "tiny"}, hostile_run(3).cases, ())
    words = Document(write_report(run, tmp_path, NoFrames()).read_text("utf-8")).root.words
    assert "This run has no figures." in words and "STVG (no figures)" in words
    assert "No latency was measured." in words and "Nothing was dropped." in words


def test_a_large_run_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    cases = [
        replaced
        for number, case in enumerate(hostile_run(120).cases * 4)
        for replaced in [type(case)(**{**vars(case), "id": str(number), "task": "STVG"})]
    ]
    report = write_report(results_of(cases, {}), tmp_path, NoFrames())
    assert report.stat().st_size < 8e6
    words = Document(report.read_text("utf-8")).root.words
    assert f"The {MAX_ROWS} worst of {len(cases)} cases; all are in cases.csv." in words
    assert (tmp_path / "cases.csv").read_text("utf-8").count('"case') == 0


def test_images_beyond_the_bound_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filmstrips, "MAX_BYTES", 3000)
    run = recorded_run(tmp_path)
    page = write_report(run, tmp_path, RecordedFrames()).read_text("utf-8")
    images = list(Document(page).root.all("img"))
    assert 0 < len(images) < 2 * FRAMES
    assert "left out: the images of this page would exceed" in page


def test_stamps_of_a_film_are_spread_over_time() -> None:
    case = hostile_run(1).cases[0]
    second = NANOSECONDS
    spans_only = type(case)(
        **{**vars(case), "expected": Timeline(((0, 10 * second),)), "predicted": None}
    )
    assert film_stamps(spans_only) == [0, 2 * second, 4 * second, 6 * second, 8 * second,
                                       10 * second]  # fmt: skip
    nothing = type(case)(**{**vars(case), "expected": Timeline(), "predicted": Timeline()})
    assert film_stamps(nothing) == []
    instant = type(case)(
        **{**vars(case), "expected": Timeline(((second, second),)), "predicted": None}
    )
    assert film_stamps(instant) == [second]
    # The longest span that an annotation file may have.
    endless = type(case)(
        **{**vars(case), "expected": Timeline(((0, 2**63 - 1),)), "predicted": None}
    )
    assert film_stamps(endless)[0] == 0 and film_stamps(endless)[-1] == 2**63 - 1


def test_frames_of_a_film_are_spread_evenly_where_boxes_are_dense() -> None:
    second, box = NANOSECONDS, Box(0, 0, 1, 1)
    dense = {second * n // 100: box for n in range(100)} | {10 * second: box}
    case = replace(hostile_run(1).cases[0], expected=Timeline((), dense), predicted=None)
    assert film_stamps(case) == [0, 99 * second // 100, 10 * second]


def test_a_timeline_without_spans_is_where_it_has_boxes() -> None:
    box = Box(0, 0, 1, 1)
    assert spans_of(Timeline((), {1: box, 5: box})) == ((1, 5),)
    assert spans_of(Timeline(((2, 3),), {1: box, 5: box})) == ((2, 3),)


def test_cases_are_ordered_by_the_viou_if_there_is_one() -> None:
    values = {"tiou": 0.5, "viou": 0.2, "accuracy": 1.0}
    cases = [replace(hostile_run(1).cases[0], values=values)]
    metrics = [MeanMetric(key, key) for key in ("accuracy", "tiou", "viou")]
    for count, name in ((3, "viou"), (2, "tiou"), (1, "accuracy")):
        run = RunResults({}, tuple(cases), tuple(rows_of("STVG", metrics[:count], cases)))
        (group,) = groups_of(run)
        assert group.primary is not None and group.primary.name == name


def test_a_table_has_few_columns_and_a_single_case_no_interval(tmp_path: Path) -> None:
    root = Document(write_report(stream_run(), tmp_path, NoFrames()).read_text("utf-8")).root
    (head,) = (t for t in root.all("thead") if t.words.startswith("QueryTaskRecording"))
    names = [th.words for th in head.all("th")]
    assert len(names) == 3 + MAX_COLUMNS + 1
    assert names[3].startswith("final vIoU") and names[4].startswith("live vIoU")
    case = hostile_run(1).cases[0]
    page = write_report(results_of([case], {}), tmp_path, NoFrames()).read_text("utf-8")
    figures = next(Document(page).root.all("tbody"))
    assert {row.children[3].words for row in figures.all("tr")} == {"one case"}


def test_of_many_timelines_the_worst_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "MAX_TIMELINES", 2)
    cases = [
        replace(case, id=str(n), task="STVG", values={"viou": score}, query=f"query {n}")
        for n, (case, score) in enumerate(zip(hostile_run(4).cases, (0.9, 0.1, 0.8, 0.2)))
    ]
    page = write_report(results_of(cases, {}), tmp_path, NoFrames()).read_text("utf-8")
    items = [li for li in Document(page).root.all("li") if "case-" in li.attributes.get("id", "")]
    assert [next(li.all("bdi")).words for li in items] == ["query 1", "query 3"]
    assert "The 2 worst of the run's 4 cases." in Document(page).root.words


def test_best_and_worst_are_by_the_iou_and_disjoint() -> None:
    best, worst = film_cases(groups_of(hostile_run(26)))
    scores = [group.score(case) for case, group in (*best, *reversed(worst))]
    assert len(best) == len(worst) == 3
    assert scores == sorted(scores, reverse=True)
    assert {group.task for _, group in (*best, *worst)} <= {"STVG", "TVG"}


def test_colors_have_enough_contrast() -> None:
    """WCAG 2.1, 1.4.3: 4.5 for text. The variables of light, dark and print."""
    css = _asset("page.css")
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(schemes) == 3
    for scheme in schemes:
        for ink in ("text", "muted", "link", "good", "bad", "pred", "true"):
            for back in ("back", "soft"):
                assert _contrast(scheme[ink], scheme[back]) >= 4.5, (ink, back)


def _contrast(a: str, b: str) -> float:
    def luminance(color: str) -> float:
        channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_charts_have_the_counts_of_their_values() -> None:
    chart = histogram([0.0, 0.05, 0.55, 1.0], "vIoU", "vIoU", share=True)
    assert re.findall(r'class="count"[^>]*>(\d+)<', chart.svg) == ["2", "1", "1"]
    assert chart.summary == "vIoU: 4 values, minimum 0.000, median 0.300, maximum 1.000"
    assert "M38.8 9" not in interval_bar(float("nan"), 0.0, 1.0, None)
    assert 'cx="60.0"' in interval_bar(0.5, 0.25, 0.75, None)
    for low, high in ((0.0, 1e-9), (0.0, 1e9), (-3.0, 4.0), (5.0, 5.0)):
        ticks = tick_values(low, high)
        assert 1 <= len(ticks) <= 8 and ticks == sorted(set(ticks))


def test_samples_of_probabilities_are_drawn_as_shares_and_others_with_their_unit() -> None:
    samples = {
        "match_probability_complete": (0.9, 0.8),
        "match_probability_without": (0.25,),
        "detection_delay": (7.5,),
    }
    cases = (Case("a", "bag", "STVG", "the ball rolls", samples=samples),)
    run = RunResults({}, cases, tuple(rows_of("stream", STREAM_METRICS, cases)))
    page = report_html(run, NoFrames("none"))
    assert "match probability complete: 2 values, minimum 0.800, median 0.850" in page
    assert "match probability without: 1 value, minimum 0.250" in page
    assert "detection delay: 1 value, minimum 7.50 s" in page


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-2.0, 3.0], [1e-9], [1e12]])
def test_any_range_of_values_is_drawn(values: list[float]) -> None:
    svg = histogram(values, "delay", "", "s").svg
    assert sum(map(int, re.findall(r'class="count"[^>]*>(\d+)<', svg))) == len(values)
    assert "nan" not in svg and "inf" not in svg


def test_a_comparison_shows_differences_and_what_is_left_out(comparison: str) -> None:
    root = Document(comparison).root
    (row,) = (r for r in root.all("tr") if r.words.startswith("STVGm_vIoUllava"))
    cells = [cell.words for cell in row.children if cell.name in ("td", "th")]
    assert cells[-1] == "better" and cells[5].startswith("+0.") and cells[8] == "8"
    words = root.words
    assert "1 case with the same id but other annotations or another query: not compared." in words
    assert "1 case of B only" in words and "case <3>" in words and "runs/<b>a</b>" in words
    assert "B has no such figure" in words
    stages = {r.children[0].words: [c.words for c in r.children[1:]] for r in root.all("tr")}
    assert stages["tick"] == ["–", "550", "–", "590"]


def test_cases_with_other_annotations_are_no_marks_of_a_comparison() -> None:
    a, b = hostile_run(), changed_run()
    found = compare(a, b)
    tasks = {change.task for change in found.changes}
    of_tasks = [case.id for case in a.cases if case.task in tasks]
    (other,) = found.other_truth
    assert other in of_tasks
    charts = list(Document(comparison_html(found, a, b, ("a", "b"))).root.all("svg"))
    marks = [g for c in charts for g in c.all("g") if g.attributes["class"].startswith("point")]
    assert len(marks) == len(of_tasks) - 1


def test_the_command_writes_a_comparison(tmp_path: Path) -> None:
    for name, run in (("a", hostile_run()), ("b", changed_run())):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", run)
    out = tmp_path / "new" / "comparison.html"
    command = ["eval", "compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert main([*command, "--out", str(out)]) == 0
    assert "Comparison of two runs" in out.read_text("utf-8")
    results = tmp_path / "a" / "results.json"
    assert main(["eval", "compare", str(results), str(tmp_path / "b"), "--out", str(results)]) == 2


def test_the_command_writes_beside_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path / "results.json", recorded_run(tmp_path))
    (tmp_path / "bag").rename(tmp_path / "moved")
    (tmp_path / "footage").mkdir()
    (tmp_path / "moved").rename(tmp_path / "footage" / "bag")
    footage = ["--footage", str(tmp_path / "footage")]
    assert main(["eval", "report", str(tmp_path), *footage]) == 0
    assert capsys.readouterr().out == f"written to {tmp_path / 'report.html'}\n"
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "metrics.csv").exists() and (tmp_path / "cases.csv").exists()
    other = tmp_path / "other"
    run = str(tmp_path / "results.json")
    assert main(["eval", "report", run, "--out", str(other), "--footage", "/none"]) == 2
    assert main(["eval", "report", run, "--out", str(other)]) == 0
    assert "No pictures" in (other / "report.html").read_text("utf-8")
    assert main(["eval", "report", str(tmp_path / "none")]) == 2
