"""How long each stage of a tick takes: samples for ``RunResults.latency``.

On a GPU, work may still be running when a call returns; it is counted where its result is first
needed. ``prefill`` and ``decode`` return logits on the CPU, so they contain what ``encode`` and
``pack`` have left to do, and ``tick`` is exact.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, Cache
from llava_st_ros.backends.wrapped import WrappedBackend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.grounder import Grounder
from llava_st_ros.query_runner import QueryRunner
from llava_st_ros.records import Frame, Prompt, Query, Tick
from llava_st_ros.text.tokenizer import Tokenizer

READ, ENCODE, PACK, EMBED = "read", "encode", "pack", "embed"
PREFILL, DECODE, TICK = "prefill", "decode", "tick"
MODEL_STAGES = (ENCODE, PACK, EMBED, PREFILL, DECODE)


class StageTimes:
    """Collects the seconds of each stage, summed over each tick that evaluated a query.

    Attributes:
        samples: Seconds by stage: "read" (a frame's message, decompressed and decoded), and for
            each tick "encode" (its new frames), "pack", "embed", "prefill", "decode" and "tick"
            (all of it, but no reading). A stage that a tick did not need has no sample of it.
    """

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}
        self._tick: dict[str, float] = defaultdict(float)  # of the present tick

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Measure a part of the present tick."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._tick[stage] += time.perf_counter() - start

    def read(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames of a source, and measure how long each takes to read."""
        iterator = iter(frames)
        while True:
            start = time.perf_counter()
            frame = next(iterator, None)
            seconds = time.perf_counter() - start
            if frame is None:
                return
            self.samples.setdefault(READ, []).append(seconds)
            self._tick[READ] += seconds
            yield frame

    def run_tick(self, run: Callable[[], Tick]) -> Tick:
        """Run a tick and measure it."""
        self._tick.clear()
        start = time.perf_counter()
        tick = run()
        seconds = time.perf_counter() - start - self._tick[READ]
        if tick.groundings or tick.failures:
            for stage in MODEL_STAGES:
                if stage in self._tick:
                    self.samples.setdefault(stage, []).append(self._tick[stage])
            self.samples.setdefault(TICK, []).append(seconds)
        return tick


class TimedBackend(WrappedBackend):
    """A backend whose calls are stages of StageTimes. It costs about a microsecond a call.

    Args:
        backend: The backend.
        times: Where the times are collected.
    """

    def __init__(self, backend: Backend, times: StageTimes) -> None:
        super().__init__(backend)
        self._times = times

    def encode_frame(self, image: np.ndarray) -> Any:
        with self._times.of(ENCODE):
            return self._backend.encode_frame(image)

    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> Any:
        with self._times.of(PACK):
            return self._backend.pack(features, time_indices)

    def image_tokens(self, features: Any) -> Any:
        with self._times.of(PACK):
            return self._backend.image_tokens(features)

    def embed(self, prompt: Prompt, visual: Any) -> Any:
        with self._times.of(EMBED):
            return self._backend.embed(prompt, visual)

    def prefill(self, embeddings: Any, cache: Cache) -> np.ndarray:
        with self._times.of(PREFILL):
            return self._backend.prefill(embeddings, cache)

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        with self._times.of(DECODE):
            return self._backend.extend(token_ids, cache)


class TimedGrounder(Grounder):
    """A Grounder whose ticks are measured.

    Args:
        backend: A TimedBackend with the same ``times``, wrapped or not.
        tokenizer: The model's tokenizer.
        config: The settings.
        times: Where the times are collected.
        runner: As for ``Grounder``.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: GrounderConfig,
        times: StageTimes,
        runner: QueryRunner | None = None,
    ) -> None:
        super().__init__(backend, tokenizer, config, runner)
        self._times = times

    def tick(
        self,
        now: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_evaluated: Callable[[Query, str], None] | None = None,
    ) -> Tick:
        return self._times.run_tick(partial(super().tick, now, cancelled, on_evaluated))

    def finish(
        self, camera: str | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Tick:
        return self._times.run_tick(partial(super().finish, camera, cancelled))
