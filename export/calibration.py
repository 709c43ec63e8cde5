"""Inputs of the graphs while questions are asked: what int8 takes its scales from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_st_ros.backends import needed_tokenizer
from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.engine_files import EngineFiles, open_engine
from llava_st_ros.backends.graph_backend import Graph
from llava_st_ros.backends.onnxruntime import NAME, OnnxBackend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.engine.device_arrays import DeviceArray
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.replay import replay
from llava_st_ros.evaluation.simulated import SimulatedEvaluation, simulated_questions
from llava_st_ros.grounder import Grounder
from llava_st_ros.media.sources import BagSource, Source, VideoSource
from llava_st_ros.records import Query, Task
from llava_st_ros.text.tokenizer import Tokenizer

SPLIT = "train"  # never one that anything is measured on
SEED = 20282
BAGS = (".mcap", ".db3")  # and folders

ASKED = "questions to calibrate on"

KEPT = 24  # calls of a graph

# Puts questions to a backend, in the words of its tokenizer.
Questions = Callable[[Backend, "Tokenizer | None"], None]
Feeds = dict[str, list[dict[str, np.ndarray]]]  # of each graph


def record(folder: Path, questions: Questions) -> Feeds:
    """What the graphs of an engine directory for ONNX Runtime were given, on the CPU, while the
    questions were answered: up to KEPT calls of each, drawn from all of them alike."""
    engine = open_engine(folder, NAME)
    backend = _RecordingBackend(engine)
    questions(backend, engine.tokenizer)
    return backend.feeds


@dataclass(frozen=True)
class SimulatedQuestions:
    """Those of the simulator's first ``clips`` training clips. Raises what simulated_questions
    does, CheckpointError without a tokenizer."""

    clips: int

    def __call__(self, backend: Backend, tokenizer: Tokenizer | None) -> None:
        evaluation = SimulatedEvaluation(backend, needed_tokenizer(tokenizer, ASKED))
        for clip in simulated_questions(SPLIT, range(self.clips), backend.describe().model):
            evaluation.run(clip)


@dataclass(frozen=True)
class FootageQuestions:
    """The same questions about every video file and bag of ``footage``, once a window. Raises
    ConfigError without questions, DataError for footage that cannot be read, CheckpointError
    without a tokenizer."""

    footage: Sequence[Path]
    words: Sequence[str]

    def __post_init__(self) -> None:
        if not self.words:
            raise ConfigError(
                f"footage {self.footage[0]} without a question; expected what is asked about it",
                "give --query, also more than once",
            )
        for path in self.footage:
            _source(path)  # before the work

    def __call__(self, backend: Backend, tokenizer: Tokenizer | None) -> None:
        config = GrounderConfig()
        seconds = config.stream.window_seconds
        queries = [
            Query(f"{task.value} {words}", words, task, period=seconds)
            for words in self.words
            for task in (Task.STVG, Task.REC)
        ]
        for path in self.footage:
            grounder = Grounder(backend, needed_tokenizer(tokenizer, ASKED), config)
            replay(grounder, _source(path), queries, window_seconds=seconds)


def _source(path: Path) -> Source:
    return BagSource(path) if path.is_dir() or path.suffix in BAGS else VideoSource(path)


class _RecordingBackend(OnnxBackend):
    def __init__(self, engine: EngineFiles) -> None:
        super().__init__(engine)
        self._recording = {name: _RecordingGraph(graph) for name, graph in self._graphs.items()}
        self._graphs = self._recording

    @property
    def feeds(self) -> Feeds:
        return {name: graph.feeds for name, graph in self._recording.items()}


class _RecordingGraph:
    """A graph that keeps inputs of its calls."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._calls, self._rng = 0, np.random.default_rng(SEED)
        self.feeds: list[dict[str, np.ndarray]] = []

    @property
    def inputs(self) -> Collection[str]:
        return self._graph.inputs

    @property
    def outputs(self) -> Collection[str]:
        return self._graph.outputs

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        place = self._calls if self._calls < KEPT else int(self._rng.integers(self._calls + 1))
        self._calls += 1
        if place < KEPT:
            feed = {name: np.array(array) for name, array in inputs.items()}
            self.feeds[place : place + 1] = [feed]
        self._graph.run(inputs, outputs)
