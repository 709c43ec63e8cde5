"""What a page gets: only what has changed, the newest image only, everything after a restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llava_st_ros.errors import FrameError
from llava_st_ros.live_view.bounds import bounded
from llava_st_ros.live_view.live_state import (
    MAX_CAMERAS,
    MAX_EVENTS,
    MAX_QUESTIONS,
    WATCHED_S,
    LiveState,
    Update,
)
from support.manual_clock import ManualClock

TENTH = 100_000_000


@pytest.fixture
def state(clock: ManualClock) -> LiveState:
    return LiveState(10.0, clock)


class Reader:
    """A page: asks with what it was given last."""

    def __init__(self, state: LiveState) -> None:
        self._state = state
        self.epoch, self.version = "", 0

    def update(self, timeout: float = 0.0) -> Update:
        update = self._state.update(self.epoch, self.version, timeout)
        self.epoch, self.version = update.values["epoch"], update.values["version"]
        return update


def event(number: int, state: str = "CONFIRMED") -> dict[str, Any]:
    return {"event_id": number, "state": state}


def tracks(stamp: int, *states: str) -> dict[str, Any]:
    return {"camera": "front", "stamp": stamp, "tracks": [{"state": name} for name in states]}


def jpeg(data: bytes, calls: list[bytes]) -> Callable[[], bytes]:
    def encode() -> bytes:
        calls.append(data)
        return data

    return encode


def test_a_page_gets_what_has_changed(state: LiveState) -> None:
    state.set_part("node", {"name": "/grounding"})
    state.add_event(event(1))
    page, other = Reader(state), Reader(state)
    first = page.update()
    assert first.values["reset"] and first.values["node"] == {"name": "/grounding"}
    assert first.values["events"] == [event(1)]
    state.add_event(event(2))
    state.add_event(event(1, "ENDED"))
    state.add_event(event(2))  # again, for another subscriber
    second = page.update()
    assert not second.values["reset"] and "node" not in second.values
    assert second.values["events"] == [event(2), event(1, "ENDED")]
    assert page.update().values["events"] == []
    assert other.update().values["events"] == [event(2), event(1, "ENDED")]


def test_a_slow_page_gets_the_newest_image_and_the_number_of_the_others(
    state: LiveState, clock: ManualClock
) -> None:
    page, calls = Reader(state), list[bytes]()
    page.update()
    for number in range(1, 6):
        state.add_image("front", number * TENTH, jpeg(b"%d" % number, calls))
        clock.now += 0.1
    update = page.update()
    (camera,) = update.values["cameras"]
    assert update.images == (b"5",) and camera["jpeg"] == 1
    assert (camera["number"], camera["stamp"]) == (5, 5 * TENTH)
    assert page.update().images == ()
    assert calls == [b"5"]


def test_an_image_is_encoded_once_and_only_if_a_page_asks(state: LiveState) -> None:
    calls: list[bytes] = []
    state.add_image("front", TENTH, jpeg(b"a", calls))
    assert not calls
    pages = [Reader(state) for _ in range(3)]
    assert [page.update().images for page in pages] == [(b"a",)] * 3
    assert calls == [b"a"]


def test_tracks_belong_to_their_image(state: LiveState, clock: ManualClock) -> None:
    page = Reader(state)
    state.add_tracks(tracks(TENTH, "PROPAGATED"))
    state.add_image("front", TENTH, jpeg(b"a", []))
    clock.now += 0.1
    state.refresh()
    (camera,) = page.update().values["cameras"]
    shown = {**tracks(TENTH, "PROPAGATED"), "hidden": 0}
    assert (camera["stamp"], camera["tracks"]) == (TENTH, shown)
    state.add_image("front", 2 * TENTH, jpeg(b"b", []))
    (camera,) = page.update().values["cameras"]
    assert camera["stamp"] == TENTH and "tracks" not in camera
    state.add_tracks(tracks(2 * TENTH, "PROPAGATED"))
    clock.now += 0.1
    state.refresh()
    update = page.update()
    (camera,) = update.values["cameras"]
    assert (camera["stamp"], camera["tracks"]["stamp"]) == (2 * TENTH, 2 * TENTH)
    assert update.images == (b"b",)


def test_an_unreadable_image_is_counted_with_its_reason(
    state: LiveState, clock: ManualClock
) -> None:
    def fail() -> bytes:
        raise FrameError("the JPEG is truncated at 7 bytes")

    pages = [Reader(state), Reader(state)]
    state.add_image("front", TENTH, fail)
    for page in pages:
        (camera,) = page.update().values["cameras"]
        assert (camera["unreadable"], camera["jpeg"]) == (1, 0)
        assert camera["problem"] == "the JPEG is truncated at 7 bytes"
    clock.now += 0.1
    state.add_image("front", 2 * TENTH, lambda: b"good")
    (camera,) = pages[0].update().values["cameras"]
    assert (camera["unreadable"], camera["problem"], camera["jpeg"]) == (1, "", 4)


def test_the_age_of_the_last_image_grows(state: LiveState, clock: ManualClock) -> None:
    page = Reader(state)
    state.set_health({"front": {"level": "ok"}})
    assert page.update().values["cameras"][0]["age"] is None
    state.add_image("front", TENTH, lambda: b"")
    clock.now += 7.5
    assert page.update().values["cameras"][0]["age"] == 7.5


def test_the_end_of_the_node_clears_tracks_and_events(state: LiveState, clock: ManualClock) -> None:
    page = Reader(state)
    state.add_event(event(1))
    state.add_tracks(tracks(TENTH, "GROUNDED"))
    clock.now += 1
    state.refresh()
    assert page.update().values["cameras"][0]["tracks"]["tracks"]
    state.add_question({"number": 1})
    state.clear()
    update = page.update()
    assert update.values["reset"] and update.values["events"] == []
    assert update.values["questions"] == [{"number": 1}]
    assert update.values["cameras"][0]["tracks"] is None
    state.clear()
    assert not page.update().values["reset"]


def test_a_request_waits_for_a_change_or_the_end(state: LiveState) -> None:
    page, found = Reader(state), list[Update]()
    page.update()
    waiting = threading.Thread(target=lambda: found.append(page.update(60)))
    waiting.start()
    state.add_event(event(1))
    waiting.join(30)
    assert found[0].values["events"] == [event(1)]
    waiting = threading.Thread(target=lambda: page.update(60))
    waiting.start()
    state.close()
    waiting.join(30)
    assert not waiting.is_alive()


def test_who_watches(state: LiveState, clock: ManualClock) -> None:
    assert not state.is_watched
    Reader(state).update()
    assert state.is_watched
    clock.now += WATCHED_S
    assert not state.is_watched


def test_memory_is_bounded(state: LiveState) -> None:
    for number in range(3 * MAX_EVENTS):
        state.add_event(event(number))
        state.add_question({"number": number})
        state.add_image(f"camera {number}", TENTH, lambda: b"x")
    update = Reader(state).update()
    assert [e["event_id"] for e in update.values["events"]] == [*range(400, 600)]
    assert len(update.values["questions"]) == MAX_QUESTIONS
    assert len(update.values["cameras"]) == MAX_CAMERAS == len(update.images)


def test_the_bytes_are_the_json_and_the_images() -> None:
    data = Update({"a": "é"}, (b"first", b"second")).to_bytes()
    length = int.from_bytes(data[:4], "big")
    assert json.loads(data[4 : 4 + length]) == {"a": "é"}
    assert data[4 + length :] == b"firstsecond"


def test_what_a_message_has_too_much_of_is_cut_with_a_mark(
    state: LiveState, clock: ManualClock
) -> None:
    text = "é" * 5000
    state.set_part("node", {"name": text, "problem": "short"})
    state.set_queries([{"id": text, "text": text, "cameras": ["a"] * 150}] * 103)
    state.set_health({text: {"level": "ok", "message": text}})
    state.add_event({"event_id": 1, "text": text, "query_id": text})
    state.add_question({"number": 1, "text": text, "lines": [text]})
    found = {"label": text, "query_id": text, "state": "LOST", "box": [0.0, 1.0, 2.0, 3.0]}
    state.add_tracks({"camera": text, "stamp": TENTH, "tracks": [found] * 107})
    clock.now += 1
    state.refresh()
    values = Reader(state).update().values
    long, name = "é" * 1968 + "… (3032 more characters)", "é" * 168 + "… (4832 more characters)"
    assert len(long) <= 2000 and len(name) <= 200
    assert values["node"] == {"name": long, "problem": "short"}
    query = {"id": name, "text": long, "cameras": [*["a"] * 100, "… (50 more)"]}
    assert (values["queries"], values["hidden_queries"]) == ([query] * 100, 3)
    assert values["events"] == [{"event_id": 1, "text": long, "query_id": name}]
    assert values["questions"] == [{"number": 1, "text": long, "lines": [long]}]
    (camera,) = values["cameras"]
    assert camera["name"] == name and camera["health"] == {"level": "ok", "message": long}
    shown = {"label": long, "query_id": name, "state": "LOST", "box": [0.0, 1.0, 2.0, 3.0]}
    assert camera["tracks"] == {
        "camera": name,
        "stamp": TENTH,
        "tracks": [shown] * 100,
        "hidden": 7,
    }


def test_a_valid_query_is_not_cut(state: LiveState) -> None:
    query = {"id": "x" * 200, "text": "x" * 2000, "cameras": ["x" * 200] * 100}
    state.set_queries([query])
    assert Reader(state).update().values["queries"] == [query]


def test_what_is_as_before_is_not_sent_again(state: LiveState, clock: ManualClock) -> None:
    nan = float("nan")

    def publish() -> None:
        state.set_part("node", {"name": "/grounding", "rate": float("nan")})
        state.set_queries([{"id": "q1", "period": float("nan")}])
        state.set_health({"front": {"level": "ok", "load": float("nan")}})
        state.add_event({**event(1), "confidence": float("nan")})
        found = {"state": "LOST", "box": [nan, 1.0, 2.0, 3.0]}
        state.add_tracks({"camera": "front", "stamp": TENTH, "tracks": [found]})
        clock.now += 1
        state.refresh()

    publish()
    page = Reader(state)
    first = page.update().values
    assert first["queries"] == [{"id": "q1", "period": None}]
    assert first["cameras"][0]["tracks"]["tracks"][0]["box"] == [None, 1.0, 2.0, 3.0]
    publish()
    second = page.update().values
    assert second["version"] == first["version"] and second["events"] == []
    assert not {"node", "queries", "hidden_queries"} & set(second)
    assert not {"health", "tracks"} & set(second["cameras"][0])


def test_numbers_that_json_lacks_are_null() -> None:
    nan, infinity = float("nan"), float("inf")
    values = {"a": [nan, 1.5, {"b": (infinity, 2)}], "c": -infinity, "d": "NaN"}
    assert bounded(values) == {"a": [None, 1.5, {"b": [None, 2]}], "c": None, "d": "NaN"}
