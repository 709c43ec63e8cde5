"""The page in a real browser: what is drawn, marked and typed is saved to the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from llava_st_ros.annotations.annotation_file import read_annotations, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.evaluation.annotate.server import AnnotationServer
from llava_st_ros.records import Box, Span, Task
from support.bags import IMAGE, START, STEP, STORE, image_message, images, write_mcap
from support.chromium import DESKTOP, PHONE, open_page
from support.paths import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

Serve = Callable[[Path], AnnotationServer]
Corners = tuple[float, float, float, float]
DEMO = read_annotations(ROOT / "demo/bag/annotations.json")
TOPIC = "/camera/image/compressed"
CAMERA = AnnotatedCamera(TOPIC, 320, 320)
HALF_CAMERA = AnnotatedCamera(TOPIC, 160, 160)
IS_HELD = """() => { const event = new Event("beforeunload", {cancelable: true});
                dispatchEvent(event); return event.defaultPrevented; }"""


def stamp(frame: int) -> int:
    """The stamp of a frame of the demo's bag: 15 Hz, rounded to ns."""
    return 1_700_000_000_000_000_000 + round(frame * 1e9 / 15)


class Annotator:
    """The page, used as a person uses it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.locator("#editor").wait_for()
        self.at_frame(1)

    def at_frame(self, number: int) -> None:
        """Wait until the frame, counted from 1, is shown."""
        self.page.locator("#clock", has_text=re.compile(rf"frame {number} of")).wait_for()
        self.page.locator(f"#stage img[src$='/{number - 1}.jpg']").wait_for()

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is in the window."""
        area = self.page.locator("#boxes").bounding_box()
        assert area is not None
        return area["x"] + x / 320 * area["width"], area["y"] + y / 320 * area["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse from one pixel of the image to another."""
        mouse = self.page.mouse
        mouse.move(*self.point(*start))
        mouse.down()
        mouse.move(*self.point(*((a + b) / 2 for a, b in zip(start, end))))
        mouse.move(*self.point(*end))
        mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def saved(self) -> None:
        self.page.locator("#state[data-state=saved]").wait_for()

    def boxes(self) -> list[tuple[Corners, str]]:
        """The boxes that are drawn: corners in pixels of the image, and whether they are dashed."""
        found: list[tuple[Corners, str]] = self.page.evaluate(
            """() => [...document.querySelectorAll("#boxes .box")].map((box) => {
                 const number = (name) => Number(box.getAttribute(name));
                 const [x, y, w, h] = ["x", "y", "width", "height"].map(number);
                 const dashed = getComputedStyle(box).strokeDasharray !== "none";
                 return [[x, y, x + w, y + h].map((v) => Math.round(v * 1000) / 1000),
                         dashed ? "dashed" : "solid"];
               })"""
        )
        return [(tuple(corners), kind) for corners, kind in found]  # type: ignore[misc]

    @property
    def alert(self) -> Locator:
        return self.page.locator("#alert")


@pytest.fixture
def opened(chromium: Browser, server: AnnotationServer) -> Iterator[Annotator]:
    with open_page(chromium, server.url) as page:
        yield Annotator(page)


def pixels(x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box.from_pixels((x1, y1, x2, y2), 320, 320)


def assert_same(truth: GroundTruth, expected: GroundTruth) -> None:
    """Compare annotations; corners up to a hundredth of a pixel."""
    assert truth.cameras == expected.cameras
    assert truth.queries == expected.queries
    for found, wanted in zip(truth.objects, expected.objects, strict=True):
        assert (found.id, found.label, found.topic) == (wanted.id, wanted.label, wanted.topic)
        assert found.keyframes == wanted.keyframes
        assert found.boxes.keys() == wanted.boxes.keys()
        for at, box in wanted.boxes.items():
            assert found.boxes[at].to_pixels(320, 320) == pytest.approx(
                box.to_pixels(320, 320), abs=0.01
            )


def test_a_recording_is_annotated_and_shown_again(
    opened: Annotator, server: AnnotationServer, bag: Path
) -> None:
    page = opened.page
    opened.drag((40, 60), (120, 140))
    assert opened.boxes() == [((40, 60, 120, 140), "solid")]
    page.get_by_label("Label of object 1").fill("blue ball")
    opened.press("Escape")
    for frame in range(2, 6):
        opened.press("ArrowRight")
        opened.at_frame(frame)
    assert opened.boxes() == []
    opened.drag((80, 60), (160, 220))
    opened.press("ArrowLeft", "ArrowLeft")
    opened.at_frame(3)
    assert opened.boxes() == [((60, 60, 140, 180), "dashed")]
    opened.press("ArrowLeft")
    opened.press("q")
    page.get_by_label("Text").fill("the ball falls")
    opened.press("Escape")
    page.get_by_text("Not in the file yet").wait_for()
    opened.press("[", "ArrowRight", "ArrowRight", "]")
    page.get_by_role("button", name="0:00.067").wait_for()
    opened.saved()

    def shown() -> str:
        return page.locator("#objects input").input_value() + page.locator("#queries").inner_text()

    before = shown()
    truth = read_annotations(bag / "annotations.json")
    boxes = {stamp(n): pixels(40 + 10 * n, 60, 120 + 10 * n, 140 + 20 * n) for n in range(5)}
    ball = AnnotatedObject("object-1", "blue ball", TOPIC, boxes, frozenset([stamp(0), stamp(4)]))
    falls = AnnotatedQuery(
        "query-1", "the ball falls", Task.STVG, TOPIC, (Span(stamp(1), stamp(3)),), ("object-1",)
    )
    assert_same(truth, GroundTruth((CAMERA,), (ball,), (falls,)))

    page.reload()
    again = Annotator(page)
    again.page.get_by_role("button", name="the ball falls", exact=False).first.click()
    assert shown() == before
    assert again.boxes() == [((40, 60, 120, 140), "solid")]
    again.press("ArrowRight", "ArrowRight")
    again.at_frame(3)
    assert again.boxes() == [((60, 60, 140, 180), "dashed")]


def test_boxes_are_moved_and_resized_by_mouse_and_keys_and_undone(
    opened: Annotator, bag: Path
) -> None:
    opened.drag((40, 60), (120, 140))
    steps: list[tuple[Callable[[], None], Corners]] = [
        (partial(opened.drag, (80, 100), (100, 130)), (60, 90, 140, 170)),
        (partial(opened.drag, (60, 90), (50, 70)), (50, 70, 140, 170)),  # its upper left corner
        (partial(opened.drag, (140, 120), (200, 120)), (50, 70, 200, 170)),  # its right edge
        (partial(opened.drag, (50, 120), (240, 120)), (200, 70, 240, 170)),  # left beyond right
        (partial(opened.drag, (220, 120), (420, 120)), (280, 70, 320, 170)),  # up to the edge
        (partial(opened.press, "Alt+ArrowLeft", "Alt+ArrowUp"), (279, 69, 319, 169)),
        (partial(opened.press, "Alt+Shift+ArrowDown"), (279, 69, 319, 170)),
    ]
    for action, box in steps:
        action()
        assert opened.boxes() == [(box, "solid")]
    opened.saved()

    def stored() -> Corners:
        (item,) = read_annotations(bag / "annotations.json").objects
        return item.boxes[stamp(0)].to_pixels(320, 320)

    assert stored() == pytest.approx((279, 69, 319, 170), abs=1e-3)
    for _, box in steps[-3::-1]:  # the last two steps were three key presses
        opened.press(*["Control+z"] * (3 if box == steps[-3][1] else 1))
        assert opened.boxes() == [(box, "solid")]
    opened.saved()
    assert stored() == pytest.approx((60, 90, 140, 170), abs=1e-3)
    opened.press("Control+Shift+z")
    assert opened.boxes() == [((50, 70, 140, 170), "solid")]
    opened.press("Control+z", "Control+z", "Control+z")
    assert opened.boxes() == []
    opened.saved()
    assert read_annotations(bag / "annotations.json").objects == ()


def test_an_object_is_not_visible_between_two_frames(opened: Annotator, bag: Path) -> None:
    opened.drag((40, 60), (120, 140))
    opened.press("Shift+ArrowRight")
    opened.at_frame(11)
    opened.drag((140, 160), (220, 240))
    opened.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    opened.at_frame(8)
    opened.press("x")
    opened.page.get_by_text("not visible", exact=True).wait_for()
    opened.saved()
    (item,) = read_annotations(bag / "annotations.json").objects
    assert sorted(item.boxes) == [stamp(n) for n in (0, 1, 2, 3, 4, 5, 6, 10)]
    assert item.keyframes == {stamp(0), stamp(10)}
    opened.press("q", "Escape")
    opened.page.get_by_role("button", name="While visible").click()
    opened.saved()
    (query,) = read_annotations(bag / "annotations.json").queries
    assert query.spans == (Span(stamp(0), stamp(6)), Span(stamp(10), stamp(10)))
    opened.press("x")  # visible again
    opened.saved()
    (item,) = read_annotations(bag / "annotations.json").objects
    assert sorted(item.boxes) == [stamp(n) for n in range(11)]
    assert opened.boxes() == [((110, 130, 190, 210), "dashed")]


def test_a_query_that_matches_nothing(opened: Annotator, bag: Path) -> None:
    opened.press("q")
    opened.page.get_by_label("Text").fill("a dog")
    opened.press("Escape")
    opened.page.get_by_label("Task").select_option("REC")
    opened.page.locator("body").click(position={"x": 5, "y": 5})
    opened.press("m")
    opened.saved()
    (query,) = read_annotations(bag / "annotations.json").queries
    assert (query.text, query.task, query.no_match) == ("a dog", Task.REC, True)
    opened.page.get_by_role("button", name="Delete query a dog").click()
    opened.saved()
    assert read_annotations(bag / "annotations.json").queries == ()


def test_an_existing_file_is_shown_and_only_what_is_edited_changes(
    chromium: Browser, serve: Serve, bag: Path
) -> None:
    first, *others = DEMO.objects
    away = stamp(0) + 1  # no frame has this stamp
    item = replace(first, boxes={**first.boxes, away: first.boxes[stamp(0)]})
    write_annotations(bag / "annotations.json", replace(DEMO, objects=(item, *others)))
    with open_page(chromium, serve(bag).url) as page:
        annotator = Annotator(page)
        page.get_by_text("1 boxes in the annotation file are at stamps without a frame").wait_for()
        labels = [page.get_by_label(f"Label of object {n}").input_value() for n in (1, 2, 3)]
        assert labels == [item.label for item in DEMO.objects]
        expected = tuple(round(v, 3) for v in item.boxes[stamp(0)].to_pixels(320, 320))
        assert (expected, "solid") in annotator.boxes()
        page.locator("#rows").click(position={"x": 10, "y": 50})  # the second row of the timeline
        assert page.locator("#objects .chosen input").input_value() == others[0].label
        annotator.press("1")
        page.get_by_label("Label of object 1").fill("renamed")
        annotator.press("Escape")
        annotator.saved()
    renamed, *kept = read_annotations(bag / "annotations.json").objects
    assert (renamed.label, renamed.keyframes) == ("renamed", item.keyframes)
    assert renamed.boxes.keys() == item.boxes.keys()
    assert kept == others


def test_two_tabs_do_not_overwrite_each_other(
    chromium: Browser, server: AnnotationServer, bag: Path
) -> None:
    tolerated = ("409",)
    with open_page(chromium, server.url, expected_errors=tolerated) as one:
        with open_page(chromium, server.url, expected_errors=tolerated) as two:
            first, second = Annotator(one), Annotator(two)
            first.drag((40, 60), (120, 140))
            first.saved()
            second.drag((200, 60), (280, 140))
            second.alert.get_by_text("changed in another tab").wait_for()
            assert len(read_annotations(bag / "annotations.json").objects) == 1
            second.press("q")  # a further change waits, too
            second.alert.get_by_role("button", name="Keep my changes too").click()
            second.saved()
            assert not second.alert.is_visible()
            # Both tabs had named their object object-1.
            truth = read_annotations(bag / "annotations.json")
            lefts = {o.id: o.boxes[stamp(0)].to_pixels(320, 320)[0] for o in truth.objects}
            assert lefts == {"object-1": pytest.approx(40), "object-2": pytest.approx(200)}
            two.get_by_label("Label of object 2").wait_for()
            assert len(second.boxes()) == 2
            assert two.locator("#objects .chosen input").input_value() == "object 1"
            (query,) = server.session.store.to_json()["queries"]
            assert query["objects"] == ["object-2"]
        first.drag((150, 200), (200, 300))
        first.alert.get_by_role("button", name="Load the newer version").click()
        first.saved()
        assert sorted(corners for corners, _ in first.boxes()) == [
            (40, 60, 120, 140),
            (200, 60, 280, 140),
        ]


def test_an_edit_of_the_file_is_offered_when_the_page_has_the_focus(
    opened: Annotator, bag: Path
) -> None:
    write_annotations(bag / "annotations.json", replace(DEMO, cameras=(HALF_CAMERA,)))
    opened.page.evaluate("dispatchEvent(new Event('focus'))")
    opened.alert.get_by_text("The file was changed by another program").wait_for()
    assert opened.boxes() == []
    opened.alert.get_by_role("button", name="Load the newer version").click()
    opened.saved()
    assert opened.page.get_by_label("Label of object 1").input_value() == DEMO.objects[0].label
    sizes = "is for images of 160x160 pixels; the frames have 320x320"
    opened.page.get_by_text(sizes).wait_for()


def test_the_ends_of_a_span_are_moved(opened: Annotator, bag: Path) -> None:
    opened.press("q")
    opened.page.keyboard.type("the ball")
    opened.press("Escape", "[", *["ArrowRight"] * 4, "]")
    opened.press("ArrowLeft", "]", "ArrowLeft", "ArrowLeft", "[")
    opened.saved()
    (query,) = read_annotations(bag / "annotations.json").queries
    assert query.spans == (Span(stamp(1), stamp(3)),)


def test_undoing_the_deletion_of_an_object_links_it_again(opened: Annotator, bag: Path) -> None:
    opened.drag((40, 60), (120, 140))
    opened.press("q")
    opened.page.keyboard.type("the ball")
    opened.press("Escape")
    opened.page.get_by_role("button", name="While visible").click()
    for action, links in (
        (lambda: opened.page.get_by_label("Delete object object 1").click(), ()),
        (lambda: opened.press("Control+z"), ("object-1",)),
    ):
        action()
        opened.saved()
        (query,) = read_annotations(bag / "annotations.json").queries
        assert query.objects == links


def test_an_unwritable_file_keeps_the_data_over_a_reload(opened: Annotator, bag: Path) -> None:
    file = bag / "annotations.json"
    write_annotations(file, GroundTruth(()))
    opened.page.reload()
    opened = Annotator(opened.page)
    file.chmod(0o444)
    before = file.read_bytes()
    opened.drag((40, 60), (120, 140))
    opened.alert.get_by_text("annotations.json is read-only").wait_for()
    assert file.read_bytes() == before
    opened.page.reload()
    again = Annotator(opened.page)
    assert again.boxes() == [((40, 60, 120, 140), "solid")]
    again.alert.get_by_text("annotations.json is read-only").wait_for()
    file.chmod(0o644)
    again.alert.get_by_role("button", name="Try again").click()
    again.saved()
    assert len(read_annotations(file).objects) == 1


def test_a_finger_draws_a_box(chromium: Browser, server: AnnotationServer) -> None:
    with open_page(chromium, server.url, PHONE) as page:
        annotator = Annotator(page)
        touch = page.context.new_cdp_session(page)

        def send(kind: str, *points: tuple[float, float]) -> None:
            at = [dict(zip("xy", annotator.point(*point))) for point in points]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        send("touchStart", (40, 60))
        send("touchMove", (80, 100))
        send("touchMove", (120, 140))
        send("touchEnd")
        annotator.saved()
        ((corners, kind),) = annotator.boxes()
        assert corners == pytest.approx((40, 60, 120, 140), abs=0.5) and kind == "solid"


def test_without_the_command_the_page_keeps_what_was_drawn(
    chromium: Browser, server: AnnotationServer
) -> None:
    with open_page(chromium, server.url, expected_errors=("ERR_CONNECTION",)) as page:
        annotator = Annotator(page)
        page.route("**/changes", lambda route: route.abort("connectionrefused"))
        annotator.drag((40, 60), (120, 140))
        annotator.alert.get_by_text("the command does not answer").wait_for()
        assert page.evaluate(IS_HELD)
        page.unroute("**/changes")
        annotator.alert.get_by_role("button", name="Try again").click()
        annotator.saved()
        assert not page.evaluate(IS_HELD)
        assert len(server.session.store.to_json()["objects"]) == 1


def test_frames_are_played_and_sought(opened: Annotator) -> None:
    page = opened.page
    opened.press("End")
    opened.at_frame(360)
    opened.press("Home")
    opened.at_frame(1)
    page.get_by_label("Frame", exact=True).last.fill("100")
    opened.at_frame(101)
    page.locator("#stamp", has_text="1700000006.666666667").wait_for()
    opened.press("Shift+ArrowLeft")
    opened.at_frame(91)
    timeline = page.locator("#rows").bounding_box()
    assert timeline is not None
    page.mouse.click(timeline["x"] + timeline["width"] - 1, timeline["y"] + 5)
    opened.at_frame(360)
    opened.press("Shift+ArrowLeft")
    opened.at_frame(350)
    page.get_by_label("Frame", exact=True).last.fill("90")
    opened.at_frame(91)
    page.get_by_label("Speed").select_option("4")
    page.get_by_role("button", name="Play").click()
    page.locator("#clock", has_text=re.compile(r"frame 1[1-9]\d of")).wait_for()
    opened.drag((40, 60), (120, 140))  # on the frame at which it stops
    page.get_by_role("button", name="Play").wait_for()
    assert opened.boxes() == [((40, 60, 120, 140), "solid")]


def test_everything_can_be_done_with_the_keyboard(opened: Annotator, bag: Path) -> None:
    page = opened.page
    opened.press("b", "Alt+ArrowRight", "ArrowRight", "ArrowRight", "k", "q")
    page.keyboard.type("the ball")
    opened.press("Escape", "[", "ArrowRight", "]", "?")
    page.get_by_role("dialog").wait_for()
    opened.press("Escape")
    opened.saved()
    truth = read_annotations(bag / "annotations.json")
    (item,) = truth.objects
    corners = [item.boxes[stamp(n)].to_pixels(320, 320) for n in range(3)]
    assert corners == [pytest.approx((129, 128, 193, 192), abs=1e-3)] * 3
    assert item.keyframes == {stamp(0), stamp(2)}
    (query,) = truth.queries
    assert (query.text, query.spans) == ("the ball", (Span(stamp(2), stamp(3)),))
    # Each stop of the Tab key has a visible outline.
    stops = set()
    for _ in range(12):
        opened.press("Tab")
        stop = page.evaluate(
            """() => { const e = document.activeElement; const s = getComputedStyle(e);
                 return [e.id || e.className || e.tagName, s.outlineStyle, s.outlineWidth]; }"""
        )
        assert stop[1:] == ["solid", "3px"], stop
        stops.add(stop[0])
    assert len(stops) > 6


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 568)], ids=["desktop", "phone", "small"])
def test_the_page_fits_and_everything_has_a_name(
    chromium: Browser, serve: Serve, bag: Path, size: tuple[int, int]
) -> None:
    write_annotations(bag / "annotations.json", DEMO)
    with open_page(chromium, serve(bag).url, size, dark=size == PHONE) as page:
        annotator = Annotator(page)
        annotator.press("1")
        page.locator("#queries .choose").first.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#help-open").click()
        assert page.evaluate("document.querySelector('#help').scrollWidth <= innerWidth")
        page.get_by_role("button", name="Close").click()
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        controls = [
            node
            for node in nodes
            if node.get("role", {}).get("value")
            in ("button", "textbox", "checkbox", "combobox", "slider", "dialog")
        ]
        assert len(controls) > 20
        assert [node for node in controls if not node["name"]["value"].strip()] == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 23, 27)") == (size == PHONE)


def test_a_camera_is_chosen_and_a_cut_is_shown(
    chromium: Browser, serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = [
            writer.add_connection(name, IMAGE, typestore=STORE)
            for name in ("/front", "/rear", "/empty")
        ]
        for n in range(60):
            at = START + n * STEP
            # The rear camera's second message is no image.
            data = b"\0\1\0\0" if n == 1 else image_message(n)
            writer.write(connections[0], at, image_message(n))
            writer.write(connections[1], at, data)
    (folder / "metadata.yaml").unlink()
    file = next(folder.glob("*.mcap"))
    server = serve(file)
    with open_page(chromium, server.url, expected_errors=("ERR_CONNECTION",)) as page:
        annotator = Annotator(page)
        page.route("**/changes", lambda route: route.abort("connectionrefused"))
        options = page.get_by_label("Camera").locator("option")
        assert options.all_inner_texts() == ["/front", "/rear"]
        annotator.press("n")
        annotator.alert.get_by_text("the command does not answer").wait_for()
        page.get_by_label("Camera").select_option("/rear")
        page.get_by_text("the camera can be changed when they are").first.wait_for()
        assert page.get_by_label("Camera").input_value() == "0"
        page.unroute("**/changes")
        annotator.saved()  # it is sent again after a while
        page.get_by_label("Camera").select_option("/rear")
        page.locator("#clock", has_text="of 59").wait_for()
        page.get_by_text("1 of 60 messages on /rear cannot be read").first.wait_for()
    cut = tmp_path / "cut.mcap"
    write_mcap(cut, images(60))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with open_page(chromium, serve(cut).url) as page:
        Annotator(page)
        page.get_by_text("cut.mcap is truncated or damaged").first.wait_for()


def test_a_frame_that_cannot_be_decoded_is_reported(
    chromium: Browser, serve: Serve, tmp_path: Path
) -> None:
    messages = list(images(5))
    # The third image's data are too short for its height and width.
    time = STORE.types["builtin_interfaces/msg/Time"](1_700_000_000, 200_000_000)
    header = STORE.types["std_msgs/msg/Header"](time, "cam")
    short = STORE.types[IMAGE](header, 600, 8, "rgb8", 0, 24, np.zeros(48, np.uint8))
    messages[2] = (messages[2][0], bytes(STORE.serialize_cdr(short, IMAGE)))
    server = serve(write_mcap(tmp_path / "a.mcap", messages))
    with open_page(chromium, server.url, expected_errors=("404",)) as page:
        annotator = Annotator(page)
        annotator.press("ArrowRight", "ArrowRight")
        page.get_by_text("Frame 3 cannot be shown").wait_for()
        annotator.press("ArrowRight")
        annotator.at_frame(4)
        assert not page.locator("#frame-problem").is_visible()


def test_a_page_of_another_site_cannot_change_anything(
    chromium: Browser, server: AnnotationServer, bag: Path, tmp_path: Path
) -> None:
    """Even one that knows the address: its requests have another Origin."""
    attack = tmp_path / "attack.html"
    body = json.dumps({"revision": 1, "changes": {"objects": {}, "queries": {}}})
    attack.write_text(
        f"""<script>
        const send = (headers, mode) => fetch("{server.url}changes",
          {{method: "POST", body: {body!r}, headers, mode}}).then((r) => r.type, () => "failed");
        Promise.all([send({{"Content-Type": "application/json"}}, "cors"),
          send({{"Content-Type": "text/plain"}}, "no-cors")]).then((r) => window.results = r);
        </script>"""
    )
    with open_page(
        chromium, attack.as_uri(), expected_errors=("CORS", "ERR_FAILED", "NotSameOrigin")
    ) as page:
        page.wait_for_function("window.results")
        assert page.evaluate("results[0]") == "failed"
    assert server.session.store.status()["revision"] == 1
    assert not (bag / "annotations.json").exists()
