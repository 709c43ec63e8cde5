"""Answers that are kept, so that other settings can be tried without running the model again.

Every query is decoded as if "no match" were no choice. Whether it is the answer, and whether the
match is its candidate, follow from P(no match), ``no_match_threshold`` and ``evidence_floor``, on
which the rest of an answer does not depend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.wrapped import WrappedBackend
from llava_st_ros.calibration import QueryCalibration
from llava_st_ros.config import GrounderConfig
from llava_st_ros.query_runner import PreparedQuery, QueryRunner, as_no_match, is_no_match
from llava_st_ros.records import Grounding, Query
from llava_st_ros.streaming.view import CameraView
from llava_st_ros.text.grammar import EVEN_ODDS
from llava_st_ros.text.tokenizer import Tokenizer

NEVER = 1.0  # the no_match_threshold at which "no match" is never the answer
Key = tuple[Query, tuple[int, ...]]  # a query and the stamps of a window


class RememberingRunner(QueryRunner):
    """Runs each query on each window once, and applies ``no_match_threshold`` to what it found.

    One instance is for the frames of one camera: windows are known by their stamps.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        config: The settings of the replay. Those of the stream and of decoding must stay the same;
            ``no_match_threshold`` and ``evidence_floor`` are applied to every answer.
        answers: What is known, by query and stamps of the window; it is added to.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: GrounderConfig,
        answers: dict[Key, Grounding],
    ) -> None:
        super().__init__(backend, tokenizer, config)
        self._answers = answers

    def prepare(
        self,
        query: Query,
        no_match_threshold: float = EVEN_ODDS,
        evidence_floor: float = NEVER,
        calibration: QueryCalibration | None = None,
    ) -> PreparedQuery:
        return super().prepare(query, NEVER, calibration=calibration)

    def run(
        self,
        prepared: PreparedQuery,
        view: CameraView,
        *,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Grounding | None:
        window = view.window(prepared.query.task.modality, cancelled)
        if window is None:
            return None
        key = prepared.query, window.stamps
        if key not in self._answers:
            answer = super().run(prepared, view, on_token=on_token, cancelled=cancelled)
            assert answer is not None
            self._answers[key] = answer
        return self._decided(self._answers[key])

    def _decided(self, found: Grounding) -> Grounding:
        """Return the answer at ``no_match_threshold`` and ``evidence_floor``."""
        match = found.match_probability
        if match is None or not is_no_match(match, self._config.no_match_threshold):
            return found
        answer = as_no_match(found, self._no_match_ids)
        is_decoded = not is_no_match(match, 1.0 - self._config.evidence_floor)
        return answer if is_decoded else replace(answer, candidate=None)


class EyelessBackend(WrappedBackend):
    """A backend for replays whose answers are all remembered: it encodes no frame."""

    def encode_frame(self, image: np.ndarray) -> Any:
        return np.empty(0, np.float32)

    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> Any:
        raise AssertionError("an answer is not remembered")

    def image_tokens(self, features: Any) -> Any:
        raise AssertionError("an answer is not remembered")
