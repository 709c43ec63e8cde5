"""Windows: each frame is encoded once, and time tokens are mapped to stamps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.config import StreamConfig
from llava_st_ros.records import Box, Frame, FrameFeatures, Span
from llava_st_ros.streaming.frame_buffer import FrameBuffer
from llava_st_ros.streaming.window import encode_window, span_of_tokens, tube_of_tokens

MS = 1_000_000


class Encoder:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, image: np.ndarray) -> float:
        self.calls.append(int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]))
        return float(self.calls[-1])


def frame(i: int, fps: float, width: int = 8) -> Frame:
    image = np.zeros((4, width, 3), np.uint8)
    image[..., 0], image[..., 1] = i // 256, i % 256
    return Frame(image, round(i / fps * 1e9), "left", "left_optical")


def test_each_frame_of_a_sliding_stream_is_encoded_once():
    encoder = Encoder()
    buffer = FrameBuffer(StreamConfig(), 20)
    fps, seconds = 30, 25
    windows = 0
    for i in range(fps * seconds):
        buffer.push(frame(i, fps))
        if i % fps == 0:
            window = encode_window(buffer, encoder)
            windows += 1
            assert len(window.frames) == 20
            assert window.time_indices == tuple(range(20))
            assert window.newest.stamp == window.stamps[-1] == round(i / fps * 1e9)
            for features in window.frames:  # the features of its own image
                assert features.features == round(features.stamp / 1e9 * fps)
    assert len(set(encoder.calls)) == len(encoder.calls)
    # One frame per grid cell and the newest frame of each window, no other.
    assert len(encoder.calls) <= seconds / (6 / 19) + windows + 1
    assert len(encoder.calls) < windows * 20 / 4


def test_features_outside_the_window_are_dropped():
    buffer = FrameBuffer(StreamConfig(), 20)
    encoder = Encoder()
    for i in range(30 * 30):
        buffer.push(frame(i, 30))
        encode_window(buffer, encoder)
    assert len(buffer) <= 21
    assert buffer.raw_bytes == 0
    assert buffer.sample()[0].stamp > 23e9


def test_a_window_has_the_size_and_frame_of_its_camera():
    buffer = FrameBuffer(StreamConfig(), 5)
    assert encode_window(buffer, Encoder()) is None
    buffer.push(frame(0, 1, width=8))
    buffer.push(frame(2, 1, width=16))
    window = encode_window(buffer, Encoder())
    newest = window.newest
    assert (newest.camera, newest.frame_id, newest.width, newest.height) == (
        "left",
        "left_optical",
        16,
        4,
    )
    assert window.frames[0].width == 8
    assert isinstance(newest, FrameFeatures)


def test_a_repeated_frame_is_encoded_once():
    buffer = FrameBuffer(StreamConfig(), 20)
    encoder = Encoder()
    buffer.push(frame(7, 1))
    window = encode_window(buffer, encoder)
    assert window.stamps == (7_000_000_000,) * 20
    assert encoder.calls == [7]


def test_the_last_box_of_a_repeated_frame_is_used():
    stamps = (10, 10, 20, 30, 30)
    boxes = [(i, Box(0.1 * i, 0.0, 0.5, 0.5)) for i in range(5)]
    tube = tube_of_tokens(boxes, stamps)
    assert tube.stamps == (10, 20, 30)
    assert [box.x1 for box in tube.boxes] == pytest.approx([0.1, 0.2, 0.4])


def test_tokens_past_the_window_are_clamped_in_spans_and_dropped_in_tubes():
    stamps = (10, 20, 30)
    assert span_of_tokens((1, 99), stamps) == Span(20, 30)
    assert span_of_tokens((2, 1), stamps) == Span(20, 30)
    tube = tube_of_tokens([(2, Box(0, 0, 1, 1)), (3, Box(0, 0, 0.5, 1))], stamps)
    assert tube.stamps == (30,)


def test_the_box_of_an_image_has_the_stamp_of_its_frame():
    tube = tube_of_tokens([(None, Box(0.2, 0.3, 0.4, 1.5))], (77,))
    assert tube.as_dict() == {77: Box(0.2, 0.3, 0.4, 1.0)}


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12).map(sorted),
    st.lists(st.integers(-2, 15), max_size=12),
)
def test_a_tube_of_any_tokens_has_stamps_of_the_window(stamps, tokens):
    boxes = [(token, Box(0.0, 0.0, 1.0, 1.0)) for token in tokens]
    tube = tube_of_tokens(boxes, stamps)
    assert set(tube.stamps) == {stamps[t] for t in tokens if 0 <= t < len(stamps)}
