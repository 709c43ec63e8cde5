"""FrameBuffer: order, duplicates, jumps, bounds, and the selection of a window."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_st_ros.config import StreamConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.records import Frame, FrameFeatures
from llava_st_ros.streaming.frame_buffer import FrameBuffer
from llava_st_ros.streaming.stream_clock import ClockJump

MS = 1_000_000
SECOND = 1000 * MS
EPOCH = 1_700_000_000 * SECOND  # a robot's clock does not start at 0


def frame(ms: float, value: int = 0, size: int = 4) -> Frame:
    return Frame(np.full((size, size, 3), value, np.uint8), EPOCH + round(ms * MS))


def buffer(num_frames: int = 20, **settings: float) -> FrameBuffer:
    return FrameBuffer(StreamConfig(**settings), num_frames)


def fill(target: FrameBuffer, fps: float, seconds: float, start: float = 0.0) -> None:
    for i in range(round(seconds * fps)):
        target.push(frame(1000 * (start + i / fps)))


def ms_of(entries) -> list[int]:
    return [round((entry.stamp - EPOCH) / MS) for entry in entries]


def encode(target: FrameBuffer, entry: Frame, values: object = None) -> FrameFeatures:
    features = FrameFeatures(
        entry.image.mean() if values is None else values,
        entry.stamp,
        entry.camera,
        entry.frame_id,
        entry.width,
        entry.height,
    )
    target.replace_image(entry, features)
    return features


@pytest.mark.parametrize("fps", [4.0, 10.0, 29.97, 60.0])
def test_a_full_window_is_evenly_spaced_and_ends_with_the_newest_frame(fps):
    b = buffer()
    fill(b, fps, 15.0)
    stamps = [e.stamp for e in b.sample()]
    assert len(stamps) == 20
    assert stamps[-1] == b.newest == frame(1000 * (round(15 * fps) - 1) / fps).stamp
    gaps = np.diff(stamps) / SECOND
    assert (gaps > 0).all()
    # A frame is at most one camera period after the start of its grid cell.
    assert np.abs(gaps[:-1] - 6 / 19).max() <= 1 / fps + 1e-6
    assert abs((stamps[-1] - stamps[0]) / SECOND - 6.0) <= 6 / 19 + 1 / fps


@pytest.mark.parametrize("fps", [5.0, 30.0])
@pytest.mark.parametrize("period", [0.2, 1.0, 1.7])
def test_a_sliding_window_reuses_its_frames(fps, period):
    """In a full window, only the newest frame can be dropped before it is too old."""
    b = buffer()
    before: list[int] = []
    encoded: list[int] = []
    ticks = 0
    for i in range(round(20 * fps)):
        b.push(frame(1000 * i / fps))
        if i % round(period * fps) == 0:
            ticks += 1
            entries = {entry.stamp: entry for entry in b.sample()}
            if i / fps > 7:
                kept = {stamp for stamp in before if min(entries) <= stamp < before[-1]}
                assert kept <= set(entries)
                assert len(kept) >= 20 - 2 - period / (b.step / SECOND)
            before = sorted(entries)
            for entry in entries.values():
                if isinstance(entry, Frame):
                    encoded.append(encode(b, entry).stamp)
    assert len(set(encoded)) == len(encoded)
    assert len(encoded) <= 20 * SECOND / b.step + ticks + 1


def test_only_images_that_a_window_can_select_are_kept():
    b = buffer(num_frames=20)
    fill(b, 30.0, 20.0)
    assert len(b) <= 21
    assert b.raw_bytes <= 21 * 4 * 4 * 3


def test_a_short_stream_fills_the_window_with_repeated_frames():
    b = buffer(num_frames=5)
    assert b.sample() == ()
    assert b.latest() is None
    b.push(frame(100))
    assert ms_of(b.sample()) == [100] * 5
    b.push(frame(1700))
    assert ms_of(b.sample()) == [100, 100, 100, 1700, 1700]
    b.push(frame(3300))
    assert ms_of(b.sample()) == [100, 100, 1700, 1700, 3300]


def test_a_gap_is_filled_with_the_nearest_frames():
    b = buffer(num_frames=20)
    fill(b, 10.0, 3.0)
    fill(b, 10.0, 1.0, start=5.0)
    picked = ms_of(b.sample())
    assert len(picked) == 20
    assert picked[-1] == 5900
    before, after = picked.count(2800) + picked.count(2900), picked.count(5000)
    assert before >= 3
    assert after >= 3
    even = np.linspace(picked[0], picked[-1], 20)
    assert np.abs(even - picked).max() <= 1250  # half the gap and a grid cell


def test_frames_exactly_on_the_grid_are_all_used():
    """A clip as long as the window, with as many frames, is used completely."""
    b = buffer(num_frames=20)
    first = -(-EPOCH // b.step) * b.step
    stamps = [first + round(i * 6 * SECOND / 19) for i in range(20)]
    for stamp in stamps:
        b.push(Frame(np.zeros((2, 2, 3), np.uint8), stamp))
    assert [e.stamp for e in b.sample()] == stamps


def test_frames_later_than_now_are_ignored():
    b = buffer(num_frames=5)
    for ms in (0, 1600, 3200, 4800):
        b.push(frame(ms))
    assert b.latest(EPOCH + 3300 * MS).stamp == EPOCH + 3200 * MS
    assert ms_of(b.sample(EPOCH + 3300 * MS))[-1] == 3200
    assert b.sample(EPOCH - 1) == ()
    assert b.latest(EPOCH - 1) is None


def test_duplicates_are_ignored_and_counted():
    b = buffer()
    b.push(frame(0, value=1))
    b.push(frame(0, value=2))
    assert b.counts.duplicates == 1
    assert b.counts.received == 2
    assert len(b) == 1
    assert b.latest().image[0, 0, 0] == 1


def test_a_late_frame_is_inserted_in_order():
    b = buffer(num_frames=5)
    for ms in (0, 3100, 4700, 3900):
        b.push(frame(ms))
    assert b.counts.late == 1
    assert b.counts.resets == 0
    assert b.newest == EPOCH + 4700 * MS
    stamps = ms_of(b.sample())
    assert stamps == sorted(stamps)


def test_a_late_frame_does_not_replace_an_encoded_one():
    b = buffer(num_frames=5, window_seconds=4.0)
    second = EPOCH // b.step * b.step + b.step - EPOCH
    b.push(frame(second / MS + 500))
    first = encode(b, b.latest())
    b.push(frame(second / MS + 1200))
    b.push(frame(second / MS + 400))
    assert b.sample()[0] is first


def test_a_frame_too_late_for_the_window_is_discarded():
    b = buffer(num_frames=5, window_seconds=1.0, reset_seconds=10.0)
    b.push(frame(5000))
    b.push(frame(2000))
    assert b.counts.discarded == 1
    assert b.counts.resets == 0
    assert len(b) == 1


def test_a_jump_back_resets_the_stream():
    b = buffer(num_frames=5)
    fill(b, 10.0, 5.0, start=100.0)
    generation = b.generation
    old = b.latest()
    fill(b, 10.0, 0.4)
    assert b.generation == generation  # one to four frames may have a wrong stamp
    assert b.newest == old.stamp
    b.push(frame(400))
    assert b.generation == generation + 1
    assert b.counts.resets == 1
    assert b.counts.implausible == 0
    assert b.report.jumps == (ClockJump(old.stamp, frame(0).stamp),)
    assert ms_of(b.sample())[0] == 0  # the frames before the decision are in the new stream
    assert b.newest == frame(400).stamp
    encode(b, old)  # encoded during the reset
    assert b.raw_bytes == 48 * len(b)
    fill(b, 10.0, 1.0, start=0.5)
    assert b.counts.resets == 1
    assert b.newest == frame(1400).stamp


def test_features_do_not_replace_a_frame_of_another_generation():
    b = buffer()
    b.push(frame(0, value=1))
    old = b.latest()
    b.push(frame(90_000))
    for ms in (-200, -100, 0):
        b.push(frame(ms, value=2))
    assert b.generation == 1
    encode(b, old)
    assert isinstance(b.latest(), Frame)
    assert b.latest().image[0, 0, 0] == 2


def test_a_jump_forward_drops_old_frames_and_the_stream_recovers_from_a_wrong_stamp():
    b = buffer(num_frames=5)
    fill(b, 10.0, 8.0)
    b.push(frame(10_000_000))
    assert ms_of(b.sample()) == [10_000_000] * 5
    fill(b, 10.0, 8.0, start=8.0)  # the far stamp was wrong
    assert b.counts.resets == 1
    assert b.newest == frame(15_900).stamp
    assert len(set(ms_of(b.sample()))) == 5


def test_features_replace_images():
    b = buffer(num_frames=5)
    fill(b, 10.0, 8.0)
    before = b.raw_bytes
    for entry in {e.stamp: e for e in b.sample()}.values():
        encode(b, entry)
    assert before > 0
    assert b.raw_bytes < before
    assert all(isinstance(e, FrameFeatures) for e in b.sample())


def test_bytes_and_frames_are_bounded_and_the_newest_frame_is_kept():
    image = 4 * 4 * 3
    b = buffer(num_frames=20, buffer_bytes=5 * image)
    fill(b, 10.0, 8.0)
    assert b.raw_bytes <= 5 * image
    assert b.newest == frame(7900).stamp
    assert b.counts.discarded > 0
    assert len(b.sample()) == 20

    b = buffer(num_frames=20, buffer_frames=3)
    fill(b, 10.0, 8.0)
    assert len(b) == 3
    assert b.latest().stamp == frame(7900).stamp

    b = buffer(num_frames=20, buffer_bytes=1)
    fill(b, 10.0, 8.0)
    assert len(b) == 1
    assert b.latest().stamp == frame(7900).stamp


def test_features_count_towards_the_memory_limit():
    features = np.zeros((10, 20), np.float32)  # larger than an image
    b = buffer(num_frames=20, buffer_bytes=5 * features.nbytes)
    for i in range(20):
        b.push(frame(100 * i))
        encode(b, b.latest(), features)
        assert b.held_bytes <= 5 * features.nbytes
    assert b.held_bytes == 5 * features.nbytes
    assert [e.stamp for e in b.sample()][-1] == frame(1900).stamp
    assert len({e.stamp for e in b.sample()}) == 5
    assert b.counts.discarded > 0


def test_a_window_of_one_frame():
    b = buffer(num_frames=1)
    fill(b, 10.0, 8.0)
    assert ms_of(b.sample()) == [7900]


def test_a_window_of_no_frames_is_rejected():
    with pytest.raises(ConfigError, match="at least 1"):
        FrameBuffer(StreamConfig(), 0)


def test_push_and_sample_from_several_threads():
    b = buffer(num_frames=10, window_seconds=2.0, reset_seconds=1000.0)
    failures: list[BaseException] = []
    done = threading.Event()

    def push(offset: int) -> None:
        try:
            for i in range(400):
                b.push(frame(25 * i + offset))
        except BaseException as error:
            failures.append(error)

    def read() -> None:
        try:
            while not done.is_set():
                entries = b.sample()
                stamps = [e.stamp for e in entries]
                assert stamps == sorted(stamps)
                for entry in entries:
                    if isinstance(entry, Frame):
                        encode(b, entry)
        except BaseException as error:
            failures.append(error)

    pushers = [threading.Thread(target=push, args=(k,)) for k in range(3)]
    reader = threading.Thread(target=read)
    reader.start()
    for thread in pushers:
        thread.start()
    for thread in pushers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    counts = b.counts
    assert counts.received == 1200
    assert b.newest == frame(25 * 399 + 2).stamp
    raw = sum(
        e.image.nbytes for e in {id(e): e for e in b.sample()}.values() if hasattr(e, "image")
    )
    assert 0 <= raw <= b.raw_bytes <= 11 * 48


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 12_000), min_size=1, max_size=80),
    st.integers(1, 12),
    st.integers(1, 4000),
)
def test_a_window_is_ordered_and_of_one_generation_for_any_stamps(stamps, num_frames, reset_ms):
    b = FrameBuffer(StreamConfig(window_seconds=3.0, reset_seconds=reset_ms / 1000), num_frames)
    newest, generation = None, 0
    for ms in stamps:
        changed = b.push(frame(ms))
        assert changed == ((b.generation, b.newest) != (generation, newest))
        if newest is not None and b.generation == generation:
            assert b.newest >= newest
        newest, generation = b.newest, b.generation
        entries = b.sample()
        picked = [e.stamp for e in entries]
        assert len(picked) == num_frames
        assert picked == sorted(picked)
        assert picked[-1] == b.newest == b.latest().stamp
        assert picked[-1] - picked[0] <= max(1, num_frames) * b.step
        assert len(b) <= num_frames + 1
        assert b.raw_bytes == 48 * len(b)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6000), min_size=1, max_size=60, unique=True), st.randoms())
def test_the_order_of_arrival_does_not_change_the_window(stamps, random):
    first = FrameBuffer(StreamConfig(window_seconds=3.0, reset_seconds=100.0), 8)
    second = FrameBuffer(StreamConfig(window_seconds=3.0, reset_seconds=100.0), 8)
    for ms in stamps:
        first.push(frame(ms))
    random.shuffle(stamps)
    for ms in stamps:
        second.push(frame(ms))
    assert ms_of(first.sample()) == ms_of(second.sample())


@pytest.mark.parametrize(
    ("fps", "settings", "evicts"),
    [
        (5.0, {"window_seconds": 0.1}, False),  # one frame is longer than the window
        (0.3, {"window_seconds": 2.0}, False),
        (5.0, {"window_seconds": 6.0, "buffer_bytes": 1}, True),
    ],
)
def test_frames_that_never_fill_the_window_are_reported(fps, settings, evicts):
    b = buffer(num_frames=20, history=0.9, **settings)
    fill(b, fps, 20.0)
    assert not b.state.has_history
    assert b.report.covered < b.report.required
    assert b.report.unfilled > 2 * b.report.required
    assert (b.counts.evicted > 0) == evicts


def test_a_pause_is_not_reported_as_frames_that_never_fill_the_window():
    b = buffer(num_frames=20, history=0.9, window_seconds=6.0)
    fill(b, 10.0, 8.0)
    assert b.report.unfilled == 0
    b.push(frame(1_000_000))  # after 17 minutes: only this frame is left
    fill(b, 10.0, 5.0, start=1000.1)
    assert not b.state.has_history
    assert b.report.unfilled <= 2 * b.report.required
    fill(b, 10.0, 3.0, start=1005.1)
    assert b.state.has_history
    assert b.report.unfilled == 0
