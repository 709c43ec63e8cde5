"""Streaming replay: schedules that are worked out by hand, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from test_grounder import (  # noqa: F401
    BALL,
    CUP,
    SECOND,
    Oracle,
    frame,
    model,
    oracle,
    stamp,
    tokenizer,
)
from test_replay import Footage, tenths

from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.evaluation.latency_models import (
    FixedLatency,
    LatencyModel,
    MeasuredLatency,
    QuantileLatency,
    parse_latency,
)
from llava_st_ros.evaluation.streaming_replay import StreamingResult, replay_streaming
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import EventState, Frame, Query, Task

TEN_SECONDS = tenths(0.0, 101)


class Footages:
    """Several cameras' frames in the order of recording: (camera, stamp in s)."""

    def __init__(self, frames: Sequence[tuple[str, float]]) -> None:
        self.frames = frames

    def __iter__(self) -> Iterator[Frame]:
        for camera, seconds in self.frames:
            yield frame(seconds, camera)


def run(
    oracle: Oracle,  # noqa: F811
    stamps: list[float],
    latency: LatencyModel,
    *queries: Query,
    **options,
) -> StreamingResult:
    config = GrounderConfig(
        constrained=False,
        stream=options.pop("stream", StreamConfig()),
        confirmations=options.pop("confirmations", 1),  # no event has its query evaluated early
    )
    grounder = Grounder(oracle, oracle.tokenizer, config)
    footage = options.pop("footage", None) or Footage(stamps)
    result = replay_streaming(grounder, footage, queries or (CUP,), latency, **options)
    assert grounder.queries == ()
    assert result.complete
    return result


def ends(result: StreamingResult, query_id: str = "cup") -> list[float]:
    return [g.window[-1] / SECOND for g in result.groundings if g.query.id == query_id]


def answered_at(result: StreamingResult) -> list[float]:
    return [p.at / SECOND for p in result.published if p.tick.groundings]


def test_a_worker_that_takes_no_time_evaluates_what_offline_replay_does(oracle) -> None:  # noqa: F811
    result = run(oracle, TEN_SECONDS, FixedLatency(0.0))
    assert ends(result) == answered_at(result) == [float(t) for t in range(11)]
    assert (result.due, result.missed, result.busy) == (11, [], 0.0)
    assert result.stamp_to_answer == [0.0] * 11


def test_evaluations_that_an_event_brings_forward_are_due_and_leave_none_missed(oracle) -> None:  # noqa: F811
    result = run(oracle, TEN_SECONDS, FixedLatency(0.0), confirmations=2)
    assert ends(result) == [0.0, *(t + 0.5 for t in range(10))]
    assert (result.due, result.missed) == (11, [])


def test_a_worker_that_is_slower_than_the_period_sees_the_newest_window(oracle) -> None:  # noqa: F811
    result = run(oracle, TEN_SECONDS, FixedLatency(1.3), track_rate=0.0)
    assert ends(result) == [0, 1.3, 2.6, 3.9, 5.2, 6.5, 7.8, 9.1]
    assert answered_at(result) == [1.3, 2.6, 3.9, 5.2, 6.5, 7.8, 9.1, 10.4]
    # Due with every full second. The evaluation at 5.2 s makes up for 5 s, not for 4 s.
    assert result.due == 11
    assert [m.stamp / SECOND for m in result.missed] == [4, 8, 10]
    assert result.stamp_to_answer == [1.3] * 8
    assert result.answer_seconds == [1.3] * 8
    assert result.busy == 1.0
    assert result.notes == ["3 of 11 due evaluations missed, worker busy"]
    assert len(result.published) == 9  # and a tick with the last frames, in which nothing is due
    assert result.published[-1].at == stamp(10.4)


def test_the_windows_have_no_frame_that_has_not_arrived(oracle) -> None:  # noqa: F811
    result = run(oracle, TEN_SECONDS, FixedLatency(0.77))
    published = [p for p in result.published if p.tick.groundings]
    for item, seconds in zip(published, result.answer_seconds):
        started = item.at - stamp(seconds)
        newest = max(s for s in map(stamp, TEN_SECONDS) if s <= started)
        assert item.tick.groundings[0].window[-1] == newest


def test_what_a_tick_finds_is_published_with_its_last_answer(oracle) -> None:  # noqa: F811
    rec = replace(CUP, id="rec", task=Task.REC)
    result = run(oracle, tenths(0.0, 21), FixedLatency(0.5), CUP, BALL, rec)
    # The video queries share the window at the start of the tick. The image query comes third: its
    # frame arrived while they were answered, as on the node.
    assert ends(result, "cup") == ends(result, "ball") == [0.0, 1.5]
    assert ends(result, "rec") == [1.0, 2.0]
    assert answered_at(result) == [1.5, 3.0]
    assert result.stamp_to_answer == [1.5, 1.5, 0.5, 1.5, 1.5, 1.0]


def test_frames_above_the_maximum_rate_are_skipped(oracle) -> None:  # noqa: F811
    result = run(oracle, TEN_SECONDS, FixedLatency(0.0), max_frame_rate=5.0)
    assert result.skipped == 50
    assert result.notes == ["50 frames not used, faster than max_frame_rate"]
    assert {s // stamp(0.1) % 2 for g in result.groundings for s in g.window} == {0}
    assert len(result.streams[0].stamps) == 101  # the camera's frames are the scores' clock


def test_frames_of_another_size_are_counted_and_not_carried_to(oracle, monkeypatch) -> None:  # noqa: F811
    propagate, heights = Grounder.propagate, []

    def spy(grounder: Grounder, frame: Frame) -> object:
        heights.append(frame.height)
        return propagate(grounder, frame)

    monkeypatch.setattr(Grounder, "propagate", spy)
    frames = [frame(t, size=(8, 6) if t == 0.5 else (4, 6)) for t in tenths(0.0, 20)]
    result = run(oracle, [], FixedLatency(0.0), footage=frames)
    assert result.resized == 1
    assert result.notes == ["1 frames not used, of another size than the stream"]
    assert heights == [4] * (len(frames) - 1)  # another size would forget all tracks


def test_a_clock_that_jumps_starts_a_stream_and_the_virtual_clock_goes_on(oracle) -> None:  # noqa: F811
    result = run(oracle, tenths(300.0, 30) + tenths(0.0, 60), FixedLatency(0.25))
    assert [s.camera for s in result.streams] == ["camera"] * 2
    assert result.stamp_to_answer == [0.25] * len(result.groundings)
    by_stream = {
        number: [
            p.at / SECOND for p in result.published if p.tick.groundings and p.stream == number
        ]
        for number in (0, 1)
    }
    assert by_stream == {
        0: [300.25, 301.25, 302.25],
        1: [0.65, 1.65, 2.65, 3.65, 4.65, 5.65],  # the clock is believed with its fifth frame
    }
    ended = [
        (e.span.end, p.stream)
        for p in result.published
        for e in p.tick.events
        if e.state is EventState.ENDED
    ]
    assert [stream for _, stream in ended] == [0]  # by the reset; the other is still active


def test_an_answer_of_a_stream_that_ended_meanwhile_is_of_that_stream(oracle) -> None:  # noqa: F811
    # 300.0 s is answered until 301.0 s, 302.0 s until 303.0 s on a clock that has jumped by then.
    result = run(oracle, tenths(300.0, 22) + tenths(0.0, 30), FixedLatency(1.0))
    assert result.grounding_streams[:3] == [0, 0, 0]
    assert ends(result)[:4] == [300.0, 301.0, 302.0, 0.9]
    assert [p.at / SECOND for p in result.published if p.tick.groundings][:3] == [301, 302, 303]


def test_cameras_share_the_worker(oracle) -> None:  # noqa: F811
    frames = [(camera, t) for t in tenths(0.0, 31) for camera in ("left", "right")]
    result = run(oracle, [], FixedLatency(0.5), CUP, footage=Footages(frames))
    times = [
        (p.tick.groundings[0].camera, p.at / SECOND) for p in result.published if p.tick.groundings
    ]
    assert times[:4] == [("left", 1.0), ("right", 1.0), ("left", 2.0), ("right", 2.0)]


def test_a_query_on_one_camera_is_due_with_its_frames_only(oracle) -> None:  # noqa: F811
    frames = [(camera, t) for t in tenths(0.0, 31) for camera in ("left", "right")]
    left = replace(CUP, cameras=("left",))
    result = run(oracle, [], FixedLatency(1.3), left, BALL, footage=Footages(frames))
    assert {g.camera for g in result.groundings if g.query.id == "cup"} == {"left"}
    missed = [m.stamp for m in result.missed]
    assert missed == sorted(missed) and {m.query_id for m in result.missed} == {"cup", "ball"}
    assert result.due == 4 + 2 * 4  # at 0, 1, 2, 3 s


def test_a_camera_with_another_clock_is_published_in_its_own_time(oracle) -> None:  # noqa: F811
    frames = [(c, t + d) for t in tenths(0.0, 31) for c, d in (("left", 0.0), ("right", 400.0))]
    result = run(oracle, [], FixedLatency(0.2), CUP, footage=Footages(frames))
    times = [
        (p.tick.groundings[0].camera, p.at / SECOND) for p in result.published if p.tick.groundings
    ]
    assert times[:2] == [("left", 0.4), ("right", 400.4)]
    assert min(result.stamp_to_answer) >= 0.2


def test_a_failed_evaluation_takes_time_too(oracle, monkeypatch) -> None:  # noqa: F811
    prefill, calls = oracle.prefill, []

    def fail_once(embeddings, cache):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return prefill(embeddings, cache)

    monkeypatch.setattr(oracle, "prefill", fail_once)
    result = run(oracle, tenths(0.0, 31), FixedLatency(0.5))
    assert len(result.failures) == 1
    assert [p.at / SECOND for p in result.published if p.tick.failures] == [0.5]
    assert ends(result) == [1.0, 2.0, 3.0]


def test_measured_latency_is_the_time_of_the_answer(oracle, monkeypatch) -> None:  # noqa: F811
    from llava_st_ros.evaluation import streaming_replay

    readings = iter(range(0, 10_000, 2))  # every reading is 2 s after the one before
    monkeypatch.setattr(streaming_replay.time, "perf_counter", lambda: float(next(readings)))
    result = run(oracle, TEN_SECONDS, MeasuredLatency())
    assert set(result.answer_seconds) == {2.0}
    assert ends(result) == [0, 2, 4, 6, 8, 10]


def test_quantiles_of_the_draws() -> None:
    model = QuantileLatency(((0.5, 0.8), (0.99, 1.5)))  # noqa: F811
    draws = sorted(model.seconds("q", "camera", n, 0.0) for n in range(20_000))
    assert draws[10_000] == pytest.approx(0.8, rel=0.01)
    assert draws[19_800] == pytest.approx(1.5, rel=0.02)
    # z of 0.001 is -3.0902 and of 0.99 2.3263: 0.8 * (1.5 / 0.8) ** (-3.0902 / 2.3263)
    assert draws[0] >= 0.8 * (1.5 / 0.8) ** -1.3284
    assert draws[-1] <= 0.8 * (1.5 / 0.8) ** 1.3284
    assert draws[-1] < 1.85
    other = QuantileLatency(model.quantiles, seed=1)
    assert model.seconds("q", "camera", 7, 0.0) != other.seconds("q", "camera", 7, 0.0)
    assert model.seconds("q", "camera", 7, 0.0) != model.seconds("q", "other", 7, 0.0)


def test_a_draw_is_the_same_in_every_process() -> None:
    model = parse_latency("p50=0.8,p99=1.5")  # noqa: F811
    assert round(model.seconds("cup", "camera", 0, 0.0), 9) == 0.817299389


def test_three_quantiles_are_met() -> None:
    model = parse_latency("p99=3,p50=1,p90=1.2")  # noqa: F811
    assert isinstance(model, QuantileLatency)
    assert [round(model.at(p), 6) for p in (0.5, 0.9, 0.99)] == [1.0, 1.2, 3.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected seconds (0.5) or quantiles"),
        ("fast", "expected seconds (0.5) or quantiles"),
        ("-1", "expected 0 to 3600 seconds"),
        ("nan", "expected 0 to 3600 seconds"),
        ("1e9", "expected 0 to 3600 seconds"),
        ("p50=0.8", "one quantile"),
        ("p50=0.8,p50=0.9", "p50 twice"),
        ("p50=0.8,p99=0.5", "p99 is smaller"),
        ("p50=0,p99=1", "expected 1e-06 to 3600"),
        ("p50=0.8,p100=1", "contains 'p100=1'"),
        ("p0=0.8,p99=1", "contains 'p0=0.8'"),
        ("p50=0.8,p99=inf", "expected 1e-06"),
        ("p50=0.8;p99=1", "expected seconds"),
        ("p50=0.8,", "contains ''"),
        ("mean=1,p99=2", "contains 'mean=1'"),
    ],
)
def test_latencies_that_make_no_sense(text, message) -> None:
    from llava_st_ros.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        parse_latency(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_latencies_are_printed_as_they_are_read() -> None:
    for text in ("measured", "0.5", "p50=0.8,p99=1.5"):
        assert str(parse_latency(text)) == text
