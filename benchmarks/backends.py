"""Prints what each step of an answer costs on each backend, in one run, medians and ratios.

scripts/with_ros .venv/bin/python -m benchmarks.backends CHECKPOINT ENGINE_DIR...
    [--threads 2] [--rounds 15] [--compile] [--json]

The first line is what the machine can do at all (a float32 matrix product); rounds go from backend
to backend, so that a busy neighbour slows them all.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.export.reference_inputs import reference_frames
from llava_st_ros.grounder import Grounder
from llava_st_ros.language.prompt import PromptBuilder
from llava_st_ros.language.tasks import from_query
from llava_st_ros.model.tokenizer import Tokenizer
from llava_st_ros.records import NANOSECONDS, Frame, Query, Task

QUERY = Query("q", "the green ball rolls", Task.STVG, period=1.0)
WINDOW_SECONDS, FRAME_RATE = 6.0, 10
STEPS = ("encode a frame", "pack a window", "prefill", "decode one token", "tick")


class Subject:
    """A backend and everything that its steps need, made ready."""

    def __init__(self, name: str, backend: Backend, tokenizer: Tokenizer) -> None:
        self.name, self.backend = name, backend
        config = backend.describe().model
        self.frames = list(reference_frames(config))
        self.features = [backend.encode_frame(frame) for frame in self.frames]
        self.visual = backend.pack(self.features, range(len(self.frames)))
        prompt = PromptBuilder(tokenizer, config).build(from_query(QUERY))
        self.prompt = backend.embed(prompt, self.visual)
        self.cache = backend.new_cache()
        backend.prefill(self.prompt, self.cache)
        self.word = [tokenizer.encode("the")[0]]
        stream = StreamConfig(window_seconds=WINDOW_SECONDS)
        self.grounder = Grounder(backend, tokenizer, GrounderConfig(stream=stream))
        self.grounder.add_query(QUERY)
        self.shown = 0
        self.watch(WINDOW_SECONDS + 1)
        self.answer: Any = None
        self.tick()

    def watch(self, seconds: float) -> None:
        """Push the frames of so long a time, at FRAME_RATE."""
        for _ in range(int(seconds * FRAME_RATE)):
            image = np.roll(self.frames[self.shown % len(self.frames)], self.shown, axis=1)
            self.grounder.push(Frame(image, self.shown * NANOSECONDS // FRAME_RATE))
            self.shown += 1

    def tick(self) -> None:
        """Whatever is new is encoded, the window packed, the question answered."""
        tick = self.grounder.tick(self.shown * NANOSECONDS // FRAME_RATE)
        (grounding,) = tick.groundings
        self.answer = grounding.answer

    def decode(self) -> None:
        length = self.cache.length
        self.backend.extend(self.word, self.cache)
        self.cache.truncate(length)

    def step(self, name: str) -> Callable[[], Any]:
        return {
            "encode a frame": lambda: self.backend.encode_frame(self.frames[0]),
            "pack a window": lambda: self.backend.pack(self.features, range(len(self.features))),
            "prefill": lambda: self.backend.prefill(self.prompt, self.backend.new_cache()),
            "decode one token": self.decode,
            "tick": self.tick,
        }[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("engines", type=Path, nargs="*", metavar="ENGINE_DIR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    ceiling = _ceiling()
    loads, subjects = {}, []
    for path in (options.checkpoint, *options.engines):
        start = time.perf_counter()
        backend, tokenizer = load_backend(path, threads=options.threads)
        described = backend.describe()
        name = f"{described.name} {described.precision}, {path}"
        loads[name] = time.perf_counter() - start
        subjects.append(Subject(name, backend, tokenizer))
    if options.compile:
        backend, tokenizer = load_backend(options.checkpoint, threads=options.threads)
        for part in ("encode_images", "pack", "decode"):
            compiled = torch.compile(getattr(backend.model, part), dynamic=True)
            setattr(backend.model, part, compiled)
        subjects.insert(1, Subject("torch compiled", backend, tokenizer))

    times: dict[str, dict[str, list[float]]] = {s.name: {n: [] for n in STEPS} for s in subjects}
    for _ in range(options.rounds):
        for name in STEPS:
            for subject in subjects:
                if name == "tick":
                    subject.watch(1.0)
                times[subject.name][name].append(_seconds(subject.step(name)))
    medians = {s: {n: median(values) for n, values in steps.items()} for s, steps in times.items()}
    equal = {s.name: s.answer == subjects[0].answer for s in subjects}
    report = {
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "rounds": options.rounds,
        "product_gflops": ceiling,
        "load_seconds": loads,
        "median_seconds": medians,
        "same_answer_as_first": equal,
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"float32 matrix product: {ceiling:.0f} GFLOP/s with {options.threads} threads")
    first = subjects[0].name
    for subject in subjects:
        load = f", loads in {loads[subject.name]:.1f} s" if subject.name in loads else ""
        same = "" if equal[subject.name] else ", ANOTHER ANSWER"
        print(f"{subject.name}{load}{same}")
        for name in STEPS:
            value = medians[subject.name][name]
            print(f"  {name:18} {1000 * value:8.2f} ms   {medians[first][name] / value:5.2f} x")


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _ceiling(size: int = 1024) -> float:
    """GFLOP/s of the best of ten products of two float32 matrices."""
    a = torch.randn(size, size)
    best = min(_seconds(lambda: a @ a) for _ in range(10))
    return 2 * size**3 / best / 1e9


if __name__ == "__main__":
    main()
