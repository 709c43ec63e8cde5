"""Windows of training videos with the frames that the node would select."""

from __future__ import annotations

import numpy as np

from llava_st_ros.records import NANOSECONDS
from llava_st_ros.simulation.streams import window_step
from llava_st_ros.streaming.frame_buffer import select_stamps

# The end of a window is a frame of the camera at any time within its cell of the grid. Few of the
# stored frames are not the first of their cell, so these are preferred.
_LATER_WEIGHT = 10.0


def window_frames(stamps: np.ndarray, step: int, end: int, num_frames: int) -> list[int]:
    """Return the frames of the window in which frame ``end`` is the newest.

    Args:
        stamps: Times of the video's frames, float64 [F] in seconds.
        step: The interval between a window's frames in nanoseconds.
        end: Index of the newest frame.
        num_frames: Number of slots.

    Returns:
        The index of the frame in each slot. Frames are repeated if the camera has just started.
    """
    nanoseconds = [round(float(s) * NANOSECONDS) for s in stamps[: end + 1]]
    index = {stamp: i for i, stamp in enumerate(nanoseconds)}
    return [index[stamp] for stamp in select_stamps(nanoseconds, step, num_frames)]


def sample_window(
    seed: int, stamps: np.ndarray, num_frames: int, rng: np.random.Generator
) -> list[int]:
    """Sample a window of a training video, anywhere from its start on; see ``window_frames``.

    Args:
        seed: The video's seed.
        stamps: Times of its frames, float64 [F] in seconds.
        num_frames: Number of slots.
        rng: The random generator.
    """
    step = grid_step(seed, num_frames)
    cells = np.round(stamps * NANOSECONDS).astype(np.int64) // step
    is_later = np.concatenate([[False], cells[1:] == cells[:-1]])
    weights = np.where(is_later, _LATER_WEIGHT, 1.0)
    weights[0] = 0.0  # a single frame shows no motion
    end = int(rng.choice(len(stamps), p=weights / weights.sum()))
    return window_frames(stamps, step, end, num_frames)


def grid_step(seed: int, num_frames: int) -> int:
    """Return the step of a training video's time grid in nanoseconds, as FrameBuffer rounds it."""
    steps = max(1, num_frames - 1)
    return max(1, round(window_step(seed) * steps * NANOSECONDS) // steps)
