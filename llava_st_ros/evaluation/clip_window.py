"""Clips asked as on a robot: pushed into a Grounder whose window has exactly their frames."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Grounding, Modality, Query
from llava_st_ros.text.grammar import EVEN_ODDS
from llava_st_ros.text.tokenizer import Tokenizer

CAMERA = "clip"
WINDOW_SECONDS = 6.0


class ClipWindow:
    """Evaluates one-shot queries on clips of as many frames as the model's window has.

    Frames get stamps on the window's own grid, so that the window contains each of them: time token
    i is frame i of the clip.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        stream = StreamConfig(window_seconds=WINDOW_SECONDS)
        self._grounder = Grounder(backend, tokenizer, GrounderConfig(stream=stream))
        frames = backend.describe().model.num_frames
        step = round(WINDOW_SECONDS * NANOSECONDS / max(1, frames - 1))
        self._stamps = [(i + 1) * step for i in range(frames)]

    def load(self, frames: Iterable[np.ndarray]) -> None:
        """Replace the clip.

        Args:
            frames: RGB uint8 [H, W, 3], as many as the model's window has; or one image.
        """
        self._grounder.reset()
        for stamp, image in zip(self._stamps, frames):
            self._grounder.push(Frame(image, stamp, CAMERA, CAMERA))

    def ask(
        self, query: Query, frame: int | None = None, no_match_threshold: float = EVEN_ODDS
    ) -> Grounding:
        """Answer a query about the clip.

        Args:
            query: The query.
            frame: The frame that a query about an image is about.
            no_match_threshold: As in ``text.grammar.Grammar``.
        """
        on_image = query.task.modality is Modality.IMAGE
        expected = [self._stamps[frame or 0]] if on_image else self._stamps
        grounding = self._grounder.ask(
            query, camera=CAMERA, now=expected[-1], no_match_threshold=no_match_threshold
        )
        if list(grounding.window) != expected:
            raise AssertionError(f"{query.id}: the window is {grounding.window}")
        return grounding
