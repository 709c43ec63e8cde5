"""``llava-st watch`` and ``ask``: the lines and the table, from values as NodeClient gives them."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from llava_st_ros.cli import following
from llava_st_ros.cli.ask import answer_lines
from llava_st_ros.cli.live_results import MAX_CAMERAS, MAX_EVENTS, LiveResults
from llava_st_ros.cli.times import interval_text, time_text
from llava_st_ros.records import NANOSECONDS


def track(number: int, state: str = "GROUNDED", stamp: float = 10.0, **changes: Any) -> dict:
    values = {"query_id": "cup", "track_id": number, "label": "the red cup", "state": state}
    values |= {"confidence": 0.75, "stamp": round(stamp * NANOSECONDS), "image": [640, 480]}
    return {**values, "box": [10.4, 20.0, 30.6, 40.0], **changes}


def tracks(*entries: dict, camera: str = "front", stamp: float = 10.0) -> dict:
    stamp_ns = round(stamp * NANOSECONDS)
    return {"camera": camera, "stamp": stamp_ns, "frame_id": "", "tracks": list(entries)}


def event(number: int, state: str, reason: str = "NONE", **changes: Any) -> dict:
    values = {"camera": "front", "query_id": "cup", "event_id": number, "text": "the cup falls"}
    values |= {"start": NANOSECONDS, "end": 3 * NANOSECONDS, "state": state}
    return {**values, "confidence": 0.5, "reason": reason, **changes}


def shown(results: LiveResults, rows: int = 20, width: int = 110) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results.view("title", rows))
    return console.export_text()


def test_a_line_for_each_track_that_is_new_lost_found_or_gone() -> None:
    results = LiveResults()
    assert results.add_tracks(tracks(track(1))) == [
        "track 1 on front GROUNDED at [10, 20, 31, 40], confidence 0.75: the red cup"
    ]
    assert results.add_tracks(tracks(track(1, "PROPAGATED"))) == []
    (lost,) = results.add_tracks(tracks(track(1, "LOST")))
    assert lost.startswith("track 1 on front LOST")
    assert len(results.add_tracks(tracks(track(1), track(2)))) == 2
    assert results.add_tracks(tracks(camera="back")) == []
    assert results.add_tracks(tracks()) == [
        "track 1 on front is gone: the red cup",
        "track 2 on front is gone: the red cup",
    ]


def test_a_line_for_each_change_of_an_event() -> None:
    results = LiveResults()
    assert results.add_event(event(3, "CONFIRMED")) == [
        "event 3 on front CONFIRMED 1.0 s - 3.0 s (2.0 s), confidence 0.50: the cup falls"
    ]
    assert results.add_event(event(3, "CONFIRMED")) == []  # again, for another subscriber
    (line,) = results.add_event(event(3, "ENDED", "CAMERA_SILENT"))
    assert "ENDED 1.0 s - 3.0 s (2.0 s) (camera silent), confidence" in line


def test_nothing_holds_after_the_end_of_the_node() -> None:
    results = LiveResults()
    results.add_tracks(tracks(track(1)))
    results.add_event(event(3, "CONFIRMED"))
    results.clear()
    assert "CONFIRMED" not in shown(results) and "GROUNDED" not in shown(results)
    assert len(results.add_event(event(3, "CONFIRMED"))) == 1


def test_watch_forgets_the_results_of_a_node_that_has_ended() -> None:
    calls: list[str] = []

    class EndedNode:
        target, is_alive = "/grounding", False

        def spin(self, seconds: float) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        following.follow(EndedNode(), print, print, lambda: calls.append("end"), calls.append)
    assert calls == ["end", "/grounding has ended or cannot be reached"]


def test_ages_are_on_the_cameras_clock() -> None:
    now = 100.0
    results = LiveResults(lambda: now)
    results.add_tracks(tracks(track(1, stamp=12.0), track(2, stamp=10.5), stamp=12.0))
    now = 103.0
    rows = [line.split() for line in shown(results).splitlines() if "front" in line]
    assert [row[-1] for row in rows] == ["3.0", "4.5"]


def test_active_events_come_first_and_the_rows_are_bounded() -> None:
    results = LiveResults()
    for number in range(30):
        results.add_tracks(tracks(*(track(i) for i in range(30))))
        results.add_event(event(number, "ENDED" if number else "CONFIRMED"))
    text = shown(results, rows=10)
    assert "tracks (5 of 30)" in text and "events (5 of 30)" in text
    body = text.split("events (5 of 30)")[1]
    states = [word for word in body.split() if word in ("CONFIRMED", "ENDED")]
    assert states == ["CONFIRMED"] + ["ENDED"] * 4
    assert len(text.splitlines()) <= 10 + 11


def test_memory_is_bounded() -> None:
    results = LiveResults()
    for number in range(2 * MAX_EVENTS):
        results.add_event(event(number, "ENDED"))
        results.add_tracks(tracks(track(number), camera=f"camera {number}"))
    assert len(results._events) == MAX_EVENTS
    assert len(results._cameras) == MAX_CAMERAS


def test_nothing_of_a_message_acts_on_the_terminal() -> None:
    results, hostile = LiveResults(), "\x1b[2J[bold]\r\n" + "x" * 5000
    lines = results.add_tracks(tracks(track(1, hostile, label=hostile), camera=hostile))
    lines += results.add_event(event(1, hostile, hostile, text=hostile, camera=hostile))
    assert all(line.isprintable() for line in lines) and len(lines) == 2
    assert "\x1b" not in shown(results) and "[bold]" in shown(results)


def test_times_are_of_day_or_of_a_simulation() -> None:
    assert time_text(0) == "0.0 s"
    assert time_text(1_700_000_000 * NANOSECONDS + 990_000_000).endswith(".9")
    assert interval_text(NANOSECONDS, NANOSECONDS) == "1.0 s"


def answer(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"camera": "front", "query_id": "q1", "window": [0, 6 * NANOSECONDS]}
    values |= {"image": [640, 480], "text": "raw", "span": None, "boxes": [], "caption": None}
    values |= {"phrases": [], "segments": [], "no_match": False, "problems": []}
    return {**values, "confidence": 0.5, **changes}


def test_answers_are_in_words() -> None:
    head = "camera front, 0.0 s - 6.0 s (6.0 s), 640x480 px, confidence 0.50"
    boxes = [{"stamp": i * NANOSECONDS, "box": [1.0, 2.0, 3.0, 4.0 + i]} for i in (1, 2)]
    assert list(answer_lines(answer(no_match=True))) == [head, "nothing matches"]
    assert list(answer_lines(answer())) == [head, "raw"]
    assert list(answer_lines(answer(span=[NANOSECONDS, 2 * NANOSECONDS], boxes=boxes))) == [
        head,
        "when: 1.0 s - 2.0 s (1.0 s)",
        "where: [1, 2, 3, 6] at 2.0 s, the last of 2 boxes",
    ]
    segment = {"start": 0, "end": NANOSECONDS, "text": "it falls"}
    phrase = {"text": "a cup", "box": [1.0, 2.0, 3.0, 4.0]}
    many = answer(caption="A cup.", phrases=[phrase], segments=[segment], problems=["no end"])
    assert list(answer_lines(many)) == [
        head,
        "not understood: no end",
        "A cup.",
        "a cup: [1, 2, 3, 4]",
        "0.0 s - 1.0 s (1.0 s): it falls",
    ]
