"""Print the time of each step of an answer on each backend: medians and speedups over torch.

scripts/with_ros python -m benchmarks.backends CHECKPOINT ENGINE_DIR...
    [--threads 2] [--rounds 10] [--compile] [--out FILE.json]

The first line is the machine's ceiling: the rate of a float32 matrix product in each library (which
library is faster depends on the processor). Each backend runs in its own process, and the rounds
alternate between them, so that other load on the machine slows them equally. All backends see the
same frames. A speedup is the median over pairs of runs, because a tick with a long answer takes
longer than one with a short answer.
One-time work of the first calls, minutes for torch.compile (--compile), is not measured.
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
WARM_UP = 2  # unmeasured runs of each step
REPEATS = 3  # runs of a step per round
SIDE = 1024  # rows and columns of the matrix product
STEPS = ("encode a frame", "pack a window", "prefill", "decode one token", "tick")


class StepRunner:
    """Runs the measured steps on a backend; its inputs are prepared at construction."""

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
        self.token = [tokenizer.encode("the")[0]]
        stream = StreamConfig(window_seconds=WINDOW_SECONDS)
        self.grounder = Grounder(backend, tokenizer, GrounderConfig(stream=stream))
        self.grounder.add_query(QUERY)
        self.pushed = 0
        self.push_frames(WINDOW_SECONDS + 1)
        self.answer: Any = None
        for name in STEPS:
            for _ in range(WARM_UP):
                if name == "tick":
                    self.push_frames(1.0)
                self.step(name)()

    def push_frames(self, seconds: float) -> None:
        """Push frames for a number of seconds at FRAME_RATE."""
        for _ in range(int(seconds * FRAME_RATE)):
            image = np.roll(self.frames[self.pushed % len(self.frames)], self.pushed, axis=1)
            self.grounder.push(Frame(image, self.pushed * NANOSECONDS // FRAME_RATE))
            self.pushed += 1

    def tick(self) -> None:
        """Encode the new frames, pack the window and answer the query."""
        tick = self.grounder.tick()
        (grounding,) = tick.groundings
        self.answer = grounding.answer

    def decode(self) -> None:
        """Decode one token and remove it from the cache."""
        length = self.cache.length
        self.backend.extend(self.token, self.cache)
        self.cache.truncate(length)

    def step(self, name: str) -> Callable[[], Any]:
        """Return a step of STEPS as a function."""
        return {
            "encode a frame": lambda: self.backend.encode_frame(self.frames[0]),
            "pack a window": lambda: self.backend.pack(self.features, range(len(self.features))),
            "prefill": lambda: self.backend.prefill(self.prompt, self.backend.new_cache()),
            "decode one token": self.decode,
            "tick": self.tick,
        }[name]


class RunnerProcess:
    """A StepRunner in its own process, so that no backend is slowed by another's threads.

    Attributes:
        name: The backend, its precision and its model's folder.
        load: Seconds to load the model.
        first_calls: Seconds of the first, unmeasured calls.
    """

    def __init__(self, path: Path, threads: int, compiled: bool = False) -> None:
        context = get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(child_pipe, path, threads, compiled), daemon=True
        )
        self._process.start()
        child_pipe.close()  # so that recv() fails when the process exits
        self.name, self.load, self.first_calls = self._pipe.recv()

    def times(self, step: str) -> list[float]:
        """Return the seconds of REPEATS runs of a step, after an unmeasured one to warm caches."""
        self._pipe.send(step)
        return self._pipe.recv()

    def answer(self) -> Any:
        """Return the last tick's answer."""
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
    runner = StepRunner(backend, tokenizer)
    pipe.send((name, load, time.perf_counter() - start))
    while True:
        try:
            step = pipe.recv()
        except EOFError:  # the parent has exited
            return
        if step == "answer":
            pipe.send(runner.answer)
            continue
        seconds = []
        for _ in range(1 + REPEATS):
            if step == "tick":
                runner.push_frames(1.0)
            seconds.append(_seconds(runner.step(step)))
        pipe.send(seconds[1:])


def _compile(backend: Any) -> None:
    """Compile the network of a TorchBackend.

    The decoder is recompiled for new states of its cache; beyond torch's limit it runs eagerly.
    """
    import torch

    for part in ("vision_features", "project", "pack", "decode", "logits"):
        dynamic = part in ("decode", "logits")  # other sizes are constant
        compiled = torch.compile(getattr(backend.model, part), dynamic=dynamic)
        setattr(backend.model, part, compiled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("engines", type=Path, nargs="*", metavar="ENGINE_DIR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile (takes minutes)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report as JSON")
    options = parser.parse_args()

    runners = [RunnerProcess(options.checkpoint, options.threads)]
    if options.compile:
        runners.append(RunnerProcess(options.checkpoint, options.threads, compiled=True))
    runners += [RunnerProcess(path, options.threads) for path in options.engines]
    report = {
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "runs": options.rounds * REPEATS,
        "product_gflops": {
            "torch": _rate(_torch_product(options.threads)),
            "onnxruntime": _rate(_onnx_product(options.threads)),
        },
        "backends": _measure(runners, options.rounds),
    }
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    print("\n".join(_lines(report)))


def _measure(runners: list[RunnerProcess], rounds: int) -> dict[str, Any]:
    """Measure every step on every backend; the first is the baseline of the speedups."""
    times: dict[str, dict[str, list[float]]] = {r.name: {n: [] for n in STEPS} for r in runners}
    for _ in tqdm(range(rounds), unit="round"):
        for name in STEPS:
            for runner in runners:
                times[runner.name][name] += runner.times(name)
    baseline = times[runners[0].name]
    answers = [runner.answer() for runner in runners]
    return {
        runner.name: {
            "load_seconds": runner.load,
            "first_calls_seconds": runner.first_calls,
            "median_seconds": {n: median(times[runner.name][n]) for n in STEPS},
            "times_as_fast": {
                n: median(a / b for a, b in zip(baseline[n], times[runner.name][n])) for n in STEPS
            },
            "same_answer": answer == answers[0],
        }
        for runner, answer in zip(runners, answers)
    }


def _lines(report: dict[str, Any]) -> Iterator[str]:
    products = ", ".join(f"{rate:.0f} by {n}" for n, rate in report["product_gflops"].items())
    yield (
        f"float32 matrix product, GFLOP/s with {report['threads']} threads: {products}; "
        f"medians of {report['runs']}"
    )
    for name, result in report["backends"].items():
        answer_note = "" if result["same_answer"] else ", DIFFERENT ANSWER"
        yield (
            f"{name}: loads in {result['load_seconds']:.1f} s, "
            f"first calls {result['first_calls_seconds']:.1f} s{answer_note}"
        )
        for step in STEPS:
            seconds, ratio = result["median_seconds"][step], result["times_as_fast"][step]
            yield f"  {step:18} {1000 * seconds:8.2f} ms   {ratio:5.2f} x"


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _rate(product: Callable[[], Any]) -> float:
    """Return the GFLOP/s of the fastest of ten products of two SIDE x SIDE matrices."""
    return 2 * SIDE**3 / min(_seconds(product) for _ in range(10)) / 1e9


def _torch_product(threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(SIDE, SIDE)
    return lambda: a @ a


def _onnx_product(threads: int) -> Callable[[], Any]:
    """Return a product in which both matrices are inputs, so that neither is packed in advance."""
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
