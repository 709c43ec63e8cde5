"""The positions of a prompt that hold visual tokens or coordinate values instead of embeddings.

These are the rules of the published code, for every backend; NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError


class Block(NamedTuple):
    """``length`` positions from ``position`` hold the visual tokens from ``row``."""

    position: int
    row: int
    length: int


@dataclass(frozen=True)
class PromptLayout:
    """The positions that do not hold token embeddings.

    Attributes:
        blocks: The blocks of visual tokens.
        inputs: The positions, int64 [K], of each axis's coordinate values.
    """

    blocks: tuple[Block, ...]
    inputs: dict[Axis, np.ndarray]


def make_layout(
    ids: np.ndarray,
    config: ModelConfig,
    visual: Sequence[int],
    inputs: Mapping[Axis, Sequence[float]],
) -> PromptLayout:
    """Return the layout of a prompt.

    Args:
        ids: The prompt's token ids, int64 [L].
        config: The checkpoint's geometry.
        visual: As in ``visual_blocks``.
        inputs: The coordinate values of each axis.

    Raises:
        BackendError: The length of a block or the number of values does not match the ids.
    """
    blocks = visual_blocks(ids, config, visual)
    written = written_inputs(config)
    positions = {}
    for axis in Axis:
        values = inputs.get(axis, ())
        found = np.flatnonzero(ids == config.special_tokens.input_of(axis))
        if len(found) != len(values):
            raise BackendError(
                f"{len(found)} {axis.input_token} tokens but {len(values)} values; "
                "expected one value for each",
                "build the prompt with PromptBuilder",
            )
        positions[axis] = found if axis in written else found[:0]
    return PromptLayout(blocks, positions)


def visual_blocks(ids: np.ndarray, config: ModelConfig, visual: Sequence[int]) -> tuple[Block, ...]:
    """Return the blocks of visual tokens in a prompt.

    In the "released" compat mode the fast tokens are not written, as in the published code.

    Args:
        ids: The prompt's token ids, int64 [L].
        config: The checkpoint's geometry.
        visual: The number of visual tokens: (N,) for an image, (fast, slow) for a video, () for
            none.

    Raises:
        BackendError: The ids do not contain exactly these blocks.
    """
    special = config.special_tokens
    if len(visual) == 1:
        start = _start(ids, special.im_start, special.im_end, visual[0], "image")
        return (Block(start, 0, visual[0]),)
    if visual:
        fast, slow = visual
        fast_start = _start(ids, special.vid_start, special.vid_end, fast, "fast")
        slow_start = _start(ids, special.slow_vid_start, special.slow_vid_end, slow, "slow")
        fast_block, slow_block = Block(fast_start, 0, fast), Block(slow_start, fast, slow)
        return (slow_block,) if config.compat == "released" else (fast_block, slow_block)
    if np.isin(ids, (special.im_start, special.vid_start, special.slow_vid_start)).any():
        raise BackendError(
            "the prompt has a visual block but there are no visual tokens", "pass visual"
        )
    return ()


def written_inputs(config: ModelConfig) -> dict[Axis, int]:
    """Return the axes whose values replace placeholder embeddings, with the placeholders' ids.

    In the "released" compat mode the widths are not written, as in the published code.
    """
    return {
        axis: config.special_tokens.input_of(axis)
        for axis in Axis
        if not (config.compat == "released" and axis is Axis.WIDTH)
    }


def _start(ids: np.ndarray, start_id: int, end_id: int, length: int, name: str) -> int:
    """Return the start of the only block from start_id to end_id; its length must match."""
    starts, ends = np.flatnonzero(ids == start_id), np.flatnonzero(ids == end_id)
    if len(starts) != 1 or len(ends) != 1:
        raise BackendError(
            f"{len(starts)} starts and {len(ends)} ends of a {name} block in the prompt; "
            "expected one of each",
            "build the prompt with PromptBuilder for this modality",
        )
    found = int(ends[0] - starts[0]) + 1
    if found != length:
        raise BackendError(
            f"the {name} block has {found} positions for {length} visual tokens; "
            "expected equal numbers",
            "build the prompt for this number of frames",
        )
    return int(starts[0])
