"""Record the inputs of an engine directory's graphs while it answers calibration queries.

int8 quantization computes its activation scales from these inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_st_ros.backends import require_tokenizer
from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.engine_files import EngineFiles, open_engine
from llava_st_ros.backends.graph_backend import GraphSession
from llava_st_ros.backends.onnxruntime import NAME, OnnxBackend
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.engine.device_arrays import DeviceArray
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.replay import replay
from llava_st_ros.evaluation.simulated import SimulatedEvaluation, simulated_questions
from llava_st_ros.grounder import Grounder
from llava_st_ros.media.bags import is_storage_file
from llava_st_ros.media.sources import BagSource, Source, VideoSource
from llava_st_ros.records import Query, Task
from llava_st_ros.text.tokenizer import Tokenizer

SPLIT = "train"  # validation and test clips are reserved for measurements
SEED = 20282

PURPOSE = "calibration queries"  # what needs the tokenizer, for the error message

MAX_CALLS = 24  # recorded calls of a graph

# Runs queries on a backend. The tokenizer is None if the checkpoint has none.
CalibrationQueries = Callable[[Backend, "Tokenizer | None"], None]
Feeds = dict[str, list[dict[str, np.ndarray]]]  # by graph, the inputs of each recorded call


def record_inputs(folder: Path, queries: CalibrationQueries) -> Feeds:
    """Run queries on an ONNX Runtime engine directory, on the CPU, and record graph inputs.

    Returns:
        Inputs of up to MAX_CALLS calls of each graph, a uniform sample of all its calls.
    """
    engine = open_engine(folder, NAME)
    backend = _RecordingBackend(engine)
    queries(backend, engine.tokenizer)
    return backend.feeds


@dataclass(frozen=True)
class SimulatedQueries:
    """The queries of the simulator's first ``clips`` training clips.

    A call raises CheckpointError without a tokenizer, and what ``simulated_questions`` raises.
    """

    clips: int

    def __call__(self, backend: Backend, tokenizer: Tokenizer | None) -> None:
        evaluation = SimulatedEvaluation(backend, require_tokenizer(tokenizer, PURPOSE))
        for clip in simulated_questions(SPLIT, range(self.clips), backend.describe().model):
            evaluation.run(clip)


@dataclass(frozen=True)
class FootageQueries:
    """Run the same queries on every video file and bag, once per window.

    Attributes:
        footage: Video files and bags.
        texts: Query texts; each is run as STVG and as REC.
        topic: Image topic of the bags; by default the only one of each.
        on_note: Called with each note on the footage, after its last window.

    Raises:
        ConfigError: ``texts`` is empty.
        DataError: Footage cannot be read.

    A call raises CheckpointError without a tokenizer.
    """

    footage: Sequence[Path]
    texts: Sequence[str]
    topic: str | None = None
    on_note: Callable[[str], None] = lambda note: None

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError(
                f"there is no query for the footage {self.footage[0]}",
                "describe what to look for with --query, once or more often",
            )
        for path in self.footage:
            self._open(path)  # unreadable footage fails before the export starts

    def __call__(self, backend: Backend, tokenizer: Tokenizer | None) -> None:
        config = GrounderConfig(
            stream=StreamConfig(history=HISTORY), max_queries=max(1, 2 * len(self.texts))
        )
        seconds = config.stream.window_seconds
        queries = [
            Query(f"{task.value} {number}", text, task, period=seconds)
            for number, text in enumerate(self.texts)
            for task in (Task.STVG, Task.REC)
        ]
        for path in self.footage:
            grounder = Grounder(backend, require_tokenizer(tokenizer, PURPOSE), config)
            source = self._open(path)
            result = replay(grounder, source, queries)
            result.check_complete()
            if source.dropped:
                self.on_note(f"{path}: {source.dropped} frames dropped; last: {source.problem}")
            for note in (*source.notes, *result.notes):
                self.on_note(f"{path}: {note}")

    def _open(self, path: Path) -> Source:
        if path.is_dir() or is_storage_file(path):
            return BagSource(path, self.topic)
        return VideoSource(path)


class _RecordingBackend(OnnxBackend):
    def __init__(self, engine: EngineFiles) -> None:
        super().__init__(engine)
        self._recording = {name: _RecordingSession(graph) for name, graph in self.sessions.items()}
        self.sessions = dict[str, GraphSession](self._recording)

    @property
    def feeds(self) -> Feeds:
        return {name: graph.feeds for name, graph in self._recording.items()}


class _RecordingSession:
    """A graph that records the inputs of some of its calls (reservoir sampling)."""

    def __init__(self, graph: GraphSession) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._calls, self._rng = 0, np.random.default_rng(SEED)
        self.feeds: list[dict[str, np.ndarray]] = []

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        slot = self._calls if self._calls < MAX_CALLS else int(self._rng.integers(self._calls + 1))
        self._calls += 1
        if slot < MAX_CALLS:
            feed = {name: np.array(array) for name, array in inputs.items()}
            self.feeds[slot : slot + 1] = [feed]
        self._graph.run(inputs, outputs)
