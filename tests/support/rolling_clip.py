"""A clip written by hand, with known boxes and events; it needs no simulator."""

from __future__ import annotations

import numpy as np

from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.scenes import SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent

BALL = SimulatedObject("red", "ball", "small", 0.05)
BOX = SimulatedObject("blue", "box", "large", 0.07)


def rolling_clip() -> SimulatedClip:
    """The ball rolls from upper left to upper right in frames 1 and 2; then the box is hidden."""
    hidden = [np.nan] * 4
    boxes = [
        [[0.1, 0.1, 0.2, 0.2], [0.6, 0.7, 0.8, 0.9]],
        [[0.3, 0.1, 0.4, 0.2], [0.6, 0.7, 0.8, 0.9]],
        [[0.7, 0.1, 0.8, 0.2], hidden],
        [[0.9, 0.1, 1.0, 0.2], hidden],
    ]
    return SimulatedClip(
        seed=0,
        frames=np.zeros((4, 8, 8, 3), dtype=np.uint8),
        boxes=np.array(boxes, dtype=np.float32),
        objects=(BALL, BOX),
        events=(SimulatedEvent(EventKind.ROLLS, 0, None, (1, 2)),),
        stamps=np.arange(4.0),
    )
