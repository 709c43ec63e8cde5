"""Prints what each step of an answer costs on each backend, in one run, medians and ratios.

scripts/with_ros .venv/bin/python -m benchmarks.backends CHECKPOINT ENGINE_DIR...
    [--threads 2] [--rounds 10] [--compile] [--out FILE.json]

The first line is what the machine can do at all (a float32 matrix product, by each library: which
one is faster depends on the processor); each backend has a process of its own, and rounds go from
one to the other, so that a busy neighbor slows them all.
All see the same frames, and one is so many times as fast as another in the median of such pairs:
a tick with a long answer is another work than one with a short one.
What a backend does once, at its first calls, is not in the measurements: of torch.compile
(--compile) these are minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.export.validate.reference_inputs import reference_frames
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Query, Task
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import question_from_query
from llava_st_ros.text.tokenizer import Tokenizer

QUERY = Query("q", "the green ball rolls", Task.STVG, period=1.0)
WINDOW_SECONDS, FRAME_RATE = 6.0, 10
WARM_UP = 2  # runs of each step that nobody measures
REPEATS = 3  # runs of a step before the next backend has its turn
SIDE = 1024  # of the matrices that show what the machine can do
STEPS = ("encode a frame", "pack a window", "prefill", "decode one token", "tick")


class Subject:
    """A backend and everything that its steps need, made ready."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        self.backend = backend
        config = backend.describe().model
        self.frames = list(reference_frames(config))
        self.features = [backend.encode_frame(frame) for frame in self.frames]
        self.visual = backend.pack(self.features, range(len(self.frames)))
        prompt = PromptBuilder(tokenizer, config).build(question_from_query(QUERY))
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
        for name in STEPS:
            for _ in range(WARM_UP):
                if name == "tick":
                    self.watch(1.0)
                self.step(name)()

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


class Worker:
    """A Subject in a process of its own: what one backend imports and leaves spinning is not the
    other's to bear, as on a robot."""

    def __init__(self, path: Path, threads: int, compiled: bool = False) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, path, threads, compiled), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its end is seen here
        self.name, self.load, self.first_calls = self._pipe.recv()

    def times(self, step: str) -> list[float]:
        """Seconds of REPEATS runs of a step, one after the other, behind one that is not measured:
        while others had their turn, caches and memory became theirs."""
        self._pipe.send(step)
        return self._pipe.recv()

    def answer(self) -> Any:
        """The last tick's."""
        self._pipe.send("answer")
        return self._pipe.recv()


def _serve(pipe: Any, path: Path, threads: int, compiled: bool) -> None:
    start = time.perf_counter()
    backend, tokenizer = load_backend(path, threads=threads)
    load = time.perf_counter() - start
    described = backend.describe()
    name = f"{described.name} {described.precision}, {path.name}"
    if compiled:
        name += ", compiled"
        _compile(backend)
    start = time.perf_counter()
    subject = Subject(backend, tokenizer)
    pipe.send((name, load, time.perf_counter() - start))
    while True:
        try:
            step = pipe.recv()
        except EOFError:  # the parent is done
            return
        if step == "answer":
            pipe.send(subject.answer)
            continue
        seconds = []
        for _ in range(1 + REPEATS):
            if step == "tick":
                subject.watch(1.0)
            seconds.append(_seconds(subject.step(step)))
        pipe.send(seconds[1:])


def _compile(backend: Any) -> None:
    """Let torch.compile have all of a TorchBackend's network. Where the decoder meets its cache in
    yet another state, torch gives up compiling after some and runs that eagerly."""
    import torch

    for part in ("vision_features", "project", "pack", "decode", "logits"):
        dynamic = part in ("decode", "logits")  # elsewhere sizes stay as they are
        compiled = torch.compile(getattr(backend.model, part), dynamic=dynamic)
        setattr(backend.model, part, compiled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("engines", type=Path, nargs="*", metavar="ENGINE_DIR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there")
    options = parser.parse_args()

    workers = [Worker(options.checkpoint, options.threads)]
    if options.compile:
        workers.append(Worker(options.checkpoint, options.threads, compiled=True))
    workers += [Worker(path, options.threads) for path in options.engines]
    products = {
        "torch": _rate(_torch_product(options.threads)),
        "onnxruntime": _rate(_onnx_product(options.threads)),
    }
    times: dict[str, dict[str, list[float]]] = {w.name: {n: [] for n in STEPS} for w in workers}
    for _ in tqdm(range(options.rounds), unit="round"):
        for name in STEPS:
            for worker in workers:
                times[worker.name][name] += worker.times(name)
    medians = {w: {n: median(values) for n, values in steps.items()} for w, steps in times.items()}
    eager = times[workers[0].name]
    answers = [worker.answer() for worker in workers]
    report = {
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "runs": options.rounds * REPEATS,
        "product_gflops": products,
        "backends": {
            worker.name: {
                "load_seconds": worker.load,
                "first_calls_seconds": worker.first_calls,
                "median_seconds": medians[worker.name],
                "times_as_fast": {
                    n: median(a / b for a, b in zip(eager[n], times[worker.name][n])) for n in STEPS
                },
                "same_answer": answer == answers[0],
            }
            for worker, answer in zip(workers, answers)
        },
    }
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    print("\n".join(_lines(report)))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    products = ", ".join(f"{rate:.0f} by {n}" for n, rate in report["product_gflops"].items())
    yield (
        f"float32 matrix product, GFLOP/s with {report['threads']} threads: {products}; "
        f"medians of {report['runs']}"
    )
    for name, found in report["backends"].items():
        same = "" if found["same_answer"] else ", ANOTHER ANSWER"
        yield (
            f"{name}: loads in {found['load_seconds']:.1f} s, "
            f"first calls {found['first_calls_seconds']:.1f} s{same}"
        )
        for step in STEPS:
            seconds, ratio = found["median_seconds"][step], found["times_as_fast"][step]
            yield f"  {step:18} {1000 * seconds:8.2f} ms   {ratio:5.2f} x"


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _rate(product: Callable[[], Any]) -> float:
    """GFLOP/s of the best of ten products of two matrices of SIDE."""
    return 2 * SIDE**3 / min(_seconds(product) for _ in range(10)) / 1e9


def _torch_product(threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(SIDE, SIDE)
    return lambda: a @ a


def _onnx_product(threads: int) -> Callable[[], Any]:
    """Both matrices are inputs: none is packed beforehand."""
    import onnxruntime
    from onnx import TensorProto, helper

    a = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    square = [SIDE, SIDE]
    operands = [helper.make_tensor_value_info(n, TensorProto.FLOAT, square) for n in "ab"]
    product = helper.make_tensor_value_info("c", TensorProto.FLOAT, square)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "product", operands, [product]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": a, "b": a})


if __name__ == "__main__":
    main()
