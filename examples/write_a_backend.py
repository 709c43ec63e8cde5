"""Write a backend: here one that wraps another and measures the time spent in its calls.

    python examples/write_a_backend.py robot.mp4 "the red ball rolls" [MODEL]

A backend is any class with the methods of ``Backend`` in llava_st_ros/backends/base.py. Features,
visual tokens and embeddings are its own arrays, which the Grounder only passes on.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import mean
from typing import Any

from llava_st_ros import Grounder, Query, load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.media.sources import VideoSource


class TimedBackend:
    """Forwards every call to another backend; ``seconds`` has the durations by method."""

    def __init__(self, inner: Backend) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.describe = inner.describe  # geometry, device and precision
        self.new_cache = inner.new_cache  # an empty KV cache
        self.encode_frame = self._timed(inner.encode_frame)  # RGB uint8 [H, W, 3] -> features
        self.pack = self._timed(inner.pack)  # a window's features -> visual tokens of a video
        self.image_tokens = self._timed(inner.image_tokens)  # features -> those of an image
        self.embed = self._timed(inner.embed)  # prompt and visual tokens -> embeddings [L, D]
        self.prefill = self._timed(inner.prefill)  # embeddings -> logits of the last position
        self.extend = self._timed(inner.extend)  # K token ids -> logits [K, vocabulary]

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = method(*arguments)
            self.seconds[method.__name__].append(time.perf_counter() - start)
            return result

        return call


def main(video: str, query: str, model: str = "models/llava-st-tiny") -> None:
    backend, tokenizer = load_backend(model)
    timed = TimedBackend(backend)
    grounder = Grounder(timed, tokenizer)
    for frame in VideoSource(video):
        grounder.push(frame)
    print(grounder.ask(Query("q", query)).answer.text)
    for name, seconds in timed.seconds.items():
        print(f"{name:14} {len(seconds):4} calls, {1e3 * mean(seconds):8.2f} ms on average")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (3, 4) else sys.exit(__doc__)
