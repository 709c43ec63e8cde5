"""Windows of training videos have the frames that the node's buffer selects."""

from __future__ import annotations

import numpy as np
import pytest

from llava_st_ros.config import StreamConfig
from llava_st_ros.records import NANOSECONDS, Frame
from llava_st_ros.simulation.simulator import split_seed
from llava_st_ros.simulation.streams import window_stamps, window_step
from llava_st_ros.streaming.frame_buffer import FrameBuffer
from llava_st_ros.training.tiny.windows import grid_step, sample_window, window_frames

SLOTS = 20


@pytest.mark.parametrize("index", range(6))
def test_windows_are_those_of_the_nodes_buffer(index: int) -> None:
    """From the first frame on, when it repeats frames, to windows with frames of all cells."""
    seed = split_seed("wide", index)
    stamps = window_stamps(seed, 120)
    config = StreamConfig(window_seconds=window_step(seed) * (SLOTS - 1))
    buffer = FrameBuffer(config, SLOTS)
    step = grid_step(seed, SLOTS)
    assert step == buffer.step
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    for end, seconds in enumerate(stamps):
        buffer.push(Frame(image, round(float(seconds) * NANOSECONDS), "camera", "frame"))
        expected = [entry.stamp for entry in buffer.sample()]
        frames = window_frames(stamps, step, end, SLOTS)
        assert [round(float(stamps[f]) * NANOSECONDS) for f in frames] == expected
        assert frames == sorted(frames) and frames[-1] == end


def test_frame_times_are_those_of_a_camera() -> None:
    for index in range(20):
        seed = split_seed("wide", index)
        stamps, step = window_stamps(seed, 120), window_step(seed)
        assert len(stamps) == 120 and stamps[0] == 0.0 and (np.diff(stamps) > 0).all()
        assert 5 <= 19 * step <= 7
        rates = [r for r in (10, 15, 30) if np.allclose(stamps * r, np.round(stamps * r))]
        assert rates
        cells, counts = np.unique((stamps / step + 1e-9).astype(int), return_counts=True)
        assert (np.diff(cells) == 1).all() and counts.max() == 2
        later = counts == 2
        assert (cells[later] % 4 == 0).all() and later.mean() > 0.15
        # The first frame of each cell is the camera's first one in it.
        first = stamps[np.cumsum(counts) - counts]
        assert (first - cells * step < 1 / min(rates) + 1e-6).all()


def test_sampled_windows_start_anywhere_and_often_end_within_a_cell() -> None:
    seed = split_seed("wide", 3)
    stamps = window_stamps(seed, 120)
    rng = np.random.default_rng(0)
    windows = [sample_window(seed, stamps, SLOTS, rng) for _ in range(400)]
    ends = {w[-1] for w in windows}
    assert min(ends) < 10 and max(ends) > 110 and 0 not in ends
    repeated = np.mean([len(set(w)) < SLOTS for w in windows])
    assert 0.05 < repeated < 0.3
    last = np.array([stamps[w[-1]] - stamps[w[-2]] for w in windows]) / window_step(seed)
    assert np.mean((last < 0.9) | (last > 1.1)) > 0.5
