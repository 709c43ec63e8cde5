"""The workflow of docs/evaluation.md: annotate, evaluate, report, compare, gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.cli.__main__ import main
from llava_st_ros.evaluation.annotate.server import AnnotationServer
from llava_st_ros.evaluation.results import read_results
from support.chromium import open_page
from support.paths import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="the packaged checkpoint needs torch")
DEMO = read_annotations(annotation_path(ROOT / "demo/bag"))
QUERY, BALL = DEMO.queries[0], DEMO.objects[1]  # "the blue ball is lifted"


def annotate(browser: Browser, server: AnnotationServer) -> None:
    """Draw the ball at three frames of the event, write the query and mark its span."""
    stamps = sorted(BALL.boxes)
    first, last = (stamps.index(stamp) for stamp in (QUERY.spans[0].start, QUERY.spans[0].end))
    with open_page(browser, server.url) as page:
        page.locator("#editor").wait_for()

        def show(index: int) -> None:
            page.get_by_label("Frame", exact=True).last.fill(str(index))
            page.locator(f"#stage img[src$='/{index}.jpg']").wait_for()

        for index in (first, (first + last) // 2, last):
            show(index)
            area = page.locator("#boxes").bounding_box()
            assert area is not None
            box = BALL.boxes[stamps[index]]
            page.mouse.move(area["x"] + box.x1 * area["width"], area["y"] + box.y1 * area["height"])
            page.mouse.down()
            page.mouse.move(area["x"] + box.x2 * area["width"], area["y"] + box.y2 * area["height"])
            page.mouse.up()
        page.get_by_label("Label of object 1").fill("blue ball")
        page.keyboard.press("Escape")
        page.keyboard.press("q")
        page.get_by_label("Text").fill(QUERY.text)
        page.keyboard.press("Escape")
        for index, key in ((first, "["), (last, "]")):
            show(index)
            page.keyboard.press(key)
        page.get_by_text("1 span").wait_for()
        page.locator("#state[data-state=saved]").wait_for()


def test_from_footage_to_a_gate(
    chromium: Browser, server: AnnotationServer, bag: Path, tmp_path: Path, capsys
) -> None:
    annotate(chromium, server)
    truth = read_annotations(annotation_path(bag))
    (query,) = truth.queries
    assert (query.text, query.spans) == (QUERY.text, QUERY.spans)
    (ball,) = truth.objects
    assert len(ball.keyframes) == 3 and len(ball.boxes) == 38  # interpolated in between

    good, bad = tmp_path / "good", tmp_path / "bad"
    model = ("--model", str(ROOT / "models/llava-st-tiny"), "--period", "2")
    assert main(["eval", "bag", str(bag), "--out", str(good), *model]) == 0
    (case,) = read_results(good).cases
    assert case.values["final_viou"] > 0.3  # the model answers, at what was drawn
    assert (good / "report.html").exists()
    # Nothing is confident enough to be published: a worse model.
    assert main(["eval", "bag", str(bag), "--out", str(bad), *model, "--min-confidence", "1"]) == 0
    assert read_results(bad).cases[0].values["final_viou"] == 0.0

    assert main(["eval", "report", str(good), "--out", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main(["eval", "compare", str(good), str(bad), "--json"]) == 0
    viou = json.loads(capsys.readouterr().out)["differences"][0]
    assert (viou["metric"], viou["verdict"]) == ("final vIoU", "too few")  # one case
    assert viou["difference"] == -case.values["final_viou"]
    baseline = ("--baseline", str(good / "results.json"))
    assert main(["eval", "gate", str(good), *baseline]) == 0
    capsys.readouterr()
    assert main(["eval", "gate", str(bad), *baseline, "--max-drop", "0.01"]) == 1
    assert "final vIoU" in capsys.readouterr().out
