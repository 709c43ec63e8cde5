"""What a thread is doing, and since when: the basis of the watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from llava_st_ros.backends.base import Backend, BackendDescription, Cache
from llava_st_ros.records import Prompt


class Step(NamedTuple):
    """The current step and the time of the last progress (of ``Progress``'s clock)."""

    name: str
    since: float


class Stall(NamedTuple):
    """A thread without progress.

    Attributes:
        seconds: Time since the last progress.
        step: What it is doing.
        location: The innermost line of Python that it is executing; empty if unknown.
    """

    seconds: float
    step: str
    location: str

    def __str__(self) -> str:
        where = f" ({self.location})" if self.location else ""
        return f"no progress for {self.seconds:.0f} s in {self.step}{where}"


class Progress:
    """The progress of one thread; may be read from any.

    Args:
        clock: Returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._current = Step("", clock())

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last progress."""
        return self._clock() - self._current.since

    @property
    def step_name(self) -> str:
        return self._current.name

    def mark(self) -> None:
        """Record progress within the current step."""
        self._current = Step(self._current.name, self._clock())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Name what the enclosed code does. Its beginning and end count as progress."""
        outer = self._current.name
        self._current = Step(name, self._clock())
        try:
            yield
        finally:
            self._current = Step(outer, self._clock())


class ObservedBackend:
    """A backend whose calls are steps of a ``Progress``. Other attributes are those of the backend.

    Args:
        backend: The backend.
        progress: Of the thread that calls it.
    """

    def __init__(self, backend: Backend, progress: Progress) -> None:
        self._backend, self._progress = backend, progress

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def describe(self) -> BackendDescription:
        return self._backend.describe()

    def new_cache(self) -> Cache:
        return self._backend.new_cache()

    def encode_frame(self, image: np.ndarray) -> Any:
        with self._progress.step("encode_frame"):
            return self._backend.encode_frame(image)

    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> Any:
        with self._progress.step("pack"):
            return self._backend.pack(features, time_indices)

    def image_tokens(self, features: Any) -> Any:
        with self._progress.step("image_tokens"):
            return self._backend.image_tokens(features)

    def embed(self, prompt: Prompt, visual: Any) -> Any:
        with self._progress.step("embed"):
            return self._backend.embed(prompt, visual)

    def prefill(self, embeddings: Any, cache: Cache) -> np.ndarray:
        with self._progress.step("prefill"):
            return self._backend.prefill(embeddings, cache)

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        with self._progress.step("decode"):
            return self._backend.extend(token_ids, cache)
