"""Which positions of a prompt hold no token's row but a visual token or a coordinate.

The rules of the published code in one place, for every backend; NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import BackendError

AXES = ("temporal", "spatial_height", "spatial_width")


class Block(NamedTuple):
    """``length`` positions from ``position`` on hold the visual tokens from ``row`` on."""

    position: int
    row: int
    length: int


@dataclass(frozen=True)
class PromptLayout:
    """``blocks`` of visual tokens; for each axis of AXES the positions i64 [K] that are given its
    coordinate values."""

    blocks: tuple[Block, ...]
    inputs: dict[str, np.ndarray]


def lay_out(
    ids: np.ndarray,
    config: ModelConfig,
    visual: Sequence[int],
    values: Sequence[Sequence[float]],
) -> PromptLayout:
    """The layout of a prompt i64 [L].

    ``visual`` counts its visual tokens: (N,) of an image, (fast, slow) of a video, () of none;
    ``values`` are the coordinate values of each axis. In the "released" compat mode the fast tokens
    and the width inputs are not written, as in the published code. Raises BackendError where a
    block's length or the number of values does not fit.
    """
    special, released = config.special_tokens, config.compat == "released"
    blocks = []
    if len(visual) == 1:
        start = _start(ids, special.im_start, special.im_end, visual[0], "image")
        blocks.append(Block(start, 0, visual[0]))
    elif visual:
        fast, slow = visual
        start = _start(ids, special.vid_start, special.vid_end, fast, "fast")
        if not released:
            blocks.append(Block(start, 0, fast))
        start = _start(ids, special.slow_vid_start, special.slow_vid_end, slow, "slow")
        blocks.append(Block(start, fast, slow))
    elif np.isin(ids, (special.im_start, special.vid_start, special.slow_vid_start)).any():
        raise BackendError(
            "a visual block in the prompt but no visual tokens; expected both or neither",
            "pass visual",
        )
    inputs = {}
    for axis, given in zip(AXES, values):
        places = np.flatnonzero(ids == getattr(special, f"{axis}_input"))
        if len(places) != len(given):
            raise BackendError(
                f"{len(places)} {axis} input tokens but {len(given)} values"
                "; expected one value for each token",
                "build the prompt with PromptBuilder",
            )
        unwritten = released and axis == "spatial_width"
        inputs[axis] = places[:0] if unwritten else places
    return PromptLayout(tuple(blocks), inputs)


def _start(ids: np.ndarray, start_id: int, end_id: int, length: int, name: str) -> int:
    """Where the only block of ``length`` positions from start_id to end_id begins."""
    starts, ends = np.flatnonzero(ids == start_id), np.flatnonzero(ids == end_id)
    if len(starts) != 1 or len(ends) != 1:
        raise BackendError(
            f"{len(starts)} starts and {len(ends)} ends of a {name} block"
            "; expected one of each in the prompt",
            "build the prompt with PromptBuilder and pass on_image as it does",
        )
    found = int(ends[0] - starts[0]) + 1
    if found != length:
        raise BackendError(
            f"a {name} block of {found} positions for {length} visual tokens"
            "; expected equal counts",
            "build the prompt for this number of frames",
        )
    return int(starts[0])
