"""replay: the same answers as the node gives, and clocks that jump within a recording."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from test_grounder import CUP, SECOND, Oracle, frame, model, oracle, stamp, tokenizer  # noqa: F401

from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.evaluation.replay import ReplayResult, replay
from llava_st_ros.evaluation.replay_report import replay_json, tables
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import EventState, Frame, Query, Task
from llava_st_ros.streaming.stream_clock import ClockJump

RECORDED = 1_700_000_000.0


@dataclass
class Footage:
    """Frames with the given stamps (s), recorded at 10 Hz."""

    stamps: list[float]
    name: str = "footage"
    length: int | None = None
    dropped: int = 0
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Frame]:
        for i, seconds in enumerate(self.stamps):
            image = frame(abs(seconds) % 500.0).image
            yield Frame(image, stamp(seconds), arrival=stamp(RECORDED + i / 10))


def tenths(start: float, count: int) -> list[float]:
    return [start + i / 10 for i in range(count)]


def run(oracle: Oracle, stamps: list[float], *queries: Query) -> tuple[ReplayResult, dict]:  # noqa: F811
    config = GrounderConfig(constrained=False, stream=StreamConfig(history=HISTORY))
    grounder = Grounder(oracle, oracle.tokenizer, config)
    footage = Footage(stamps)
    result = replay(grounder, footage, queries or (CUP,))
    assert grounder.queries == ()
    for table in tables(result):
        assert table is not None
    return result, json.loads(json.dumps(replay_json("model", footage, queries or (CUP,), result)))


def ends(result: ReplayResult, query_id: str = "cup") -> list[float]:
    return [g.window[-1] / SECOND for g in result.groundings if g.query.id == query_id]


def test_image_tasks_are_answered_at_once_and_video_tasks_with_their_history(oracle) -> None:  # noqa: F811
    rec = replace(CUP, id="rec", task=Task.REC)
    result, _ = run(oracle, tenths(0.0, 100), CUP, rec)
    assert ends(result, "rec") == pytest.approx([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9.9])
    first = ends(result)[0]
    assert 0.85 * 6 <= first <= 5.5
    assert ends(result)[-1] == 9.9


def test_footage_shorter_than_the_window_is_answered_at_its_end(oracle) -> None:  # noqa: F811
    result, values = run(oracle, tenths(0.0, 20))
    assert ends(result) == [1.9]
    assert [e.state for e in result.recording.events] == [EventState.ENDED]
    assert values["notes"] == []


@pytest.mark.parametrize("wrong", [1, 2, 3])
@pytest.mark.parametrize("clock", [350.0, 40.0])
def test_first_frames_of_another_clock_cost_no_answer(oracle, wrong, clock) -> None:  # noqa: F811
    reference, _ = run(oracle, tenths(50.0 + wrong / 10, 200))
    result, values = run(oracle, tenths(clock, wrong) + tenths(50.0 + wrong / 10, 200))
    assert [end for end in ends(result) if 50 <= end < 300] == ends(reference)
    assert len(ends(reference)) > 10
    assert [s.first_frame for s in result.streams] == [0, wrong]
    assert [len(s.stamps) for s in result.streams] == [wrong, 200]
    assert len(values["notes"]) == 1
    assert f"at frame {wrong}" in values["notes"][0]


def test_a_simulation_that_restarts_is_two_streams(oracle) -> None:  # noqa: F811
    result, values = run(oracle, tenths(300.0, 30) + tenths(0.0, 100))
    second, _ = run(oracle, tenths(0.0, 100))
    assert ends(result) == [302.9, *ends(second)]  # the first part is answered at its end
    assert result.grounding_streams == [0] + [1] * len(ends(second))
    assert result.streams[1].jump == ClockJump(stamp(302.9), 0)
    assert result.frame_streams == [0] * 30 + [1] * 100
    assert [(s["start"], s["end"], s["frames"]) for s in values["streams"]] == [
        (stamp(300.0), stamp(302.9), 30),
        (0, stamp(9.9), 100),
    ]
    assert values["streams"][1]["clock_jump"] == {"from": stamp(302.9), "to": 0}
    assert values["start"] <= values["end"]
    assert values["notes"] == [
        "the clock of the stamps jumps 302.900 s back, from 302.900 to 0.000 s at frame 30; a new "
        "stream starts there"
    ]
    assert {e["stream"]: e["state"] for e in values["events"]} == {0: "ENDED", 1: "ENDED"}
    for track in values["tracks"]:
        low, high = (stamp(300.0), stamp(302.9)) if track["stream"] == 0 else (0, stamp(9.9))
        assert all(low <= row["stamp"] <= high for row in track["tube"])


def test_a_loop_draws_each_stream_on_its_own_frames(oracle) -> None:  # noqa: F811
    stamps = tenths(0.0, 80) * 2
    result, _ = run(oracle, stamps)
    shown = result.recording.annotations(result.stamps, result.frame_streams)
    ids = [{t.track_id for t in annotations.tracks} for annotations in shown]
    assert {i for s in ids[:80] for i in s} == {0}
    assert {i for s in ids[80:] for i in s} == {1}


def test_single_wrong_stamps_change_no_answer_and_are_listed(oracle) -> None:  # noqa: F811
    stamps = tenths(50.0, 150)
    reference, _ = run(oracle, stamps)
    result, values = run(oracle, [*stamps[:70], 400.0, 0.0, *stamps[70:]])
    assert ends(result) == ends(reference)
    assert result.frame_streams == [0] * 70 + [None] * 2 + [0] * 80
    assert values["notes"] == [
        "2 frames not used, implausible stamp: frame 70 at 400.000 s, 71 at 0.000 s"
    ]


def test_repeated_stamps_are_counted(oracle) -> None:  # noqa: F811
    _, values = run(oracle, [*tenths(0.0, 10), 0.9, 0.9])
    assert values["notes"] == ["2 frames not used, stamp of an earlier frame"]


def test_frames_for_which_there_is_no_room_are_counted(oracle) -> None:  # noqa: F811
    config = GrounderConfig(constrained=False, stream=StreamConfig(buffer_frames=3))
    result = replay(Grounder(oracle, oracle.tokenizer, config), Footage(tenths(0.0, 60)), [CUP])
    assert result.discarded > 0
    assert result.notes == [f"{result.discarded} frames not used, too old or no room in the buffer"]


def test_ticks_are_published_with_the_newest_frame_of_their_stream(oracle) -> None:  # noqa: F811
    result, _ = run(oracle, tenths(300.0, 30) + tenths(0.0, 80))
    first = [tick for tick in result.published if tick.stream == 0]
    second = [tick for tick in result.published if tick.stream == 1]
    assert [tick.at for tick in first[:-1]] == result.streams[0].stamps
    # The first five frames of a new clock confirm it: they join the stream together.
    assert [tick.at for tick in second[:-1]] == result.streams[1].stamps[4:]
    assert first[-1].at == stamp(302.9) and second[-1].at == stamp(7.9)  # at the end of each stream
    assert [g for t in result.published for g in t.tick.groundings] == result.groundings
    for tick in result.published:
        assert all(grounding.window[-1] == tick.at for grounding in tick.tick.groundings)


def test_ticks_of_two_cameras_are_published_apart(oracle) -> None:  # noqa: F811
    grounder = Grounder(oracle, oracle.tokenizer, GrounderConfig(constrained=False))
    frames = [
        replace(item, camera=name)
        for item in Footage(tenths(0.0, 80))
        for name in ("front", "rear")[: 1 + (item.stamp < stamp(4.0))]
    ]
    result = replay(grounder, frames, [CUP])
    assert [stream.camera for stream in result.streams] == ["front", "rear"]
    for number, name in enumerate(("front", "rear")):
        ticks = [tick for tick in result.published if tick.stream == number]
        # A query that is due may be evaluated with the frame of the other camera.
        assert sorted({tick.at for tick in ticks}) == result.streams[number].stamps
        records = [r for t in ticks for r in (*t.tick.groundings, *t.tick.tracks, *t.tick.events)]
        assert records and {record.camera for record in records} == {name}
