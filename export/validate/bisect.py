"""Where in a graph the numbers part: the first node whose outputs differ from another graph's.

Both graphs are of one checkpoint and one exporter, so values have the same names where the
precision did not change the nodes around them. They run in ONNX Runtime without its optimisations,
every value of both made an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.onnxruntime import QUIET
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.errors import EngineError
from llava_st_ros.export.calibration import record
from llava_st_ros.export.validate.proof import observe

AT_ONCE = 32  # values kept at a time: those of a 7B's prefill are large
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class Divergence:
    """The node that gave ``value``; ``relative`` is the largest difference over the reference's
    standard deviation."""

    node: str
    operator: str
    value: str
    relative: float

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}) differs by {self.relative:.2e} of the deviation"


def bisect(reference: Path, folder: Path, bound: float) -> Iterator[str]:
    """For each graph of an engine directory for ONNX Runtime that parts from the reference's by
    more than ``bound`` where: a line. ``reference`` is one of the same checkpoint; both graphs are
    given what its own were while they answered export.reference_inputs."""
    feeds = record(reference, _observe)
    ours, theirs = read_manifest(reference).graphs, read_manifest(folder).graphs
    for name, calls in feeds.items():
        parting = first_beyond(reference / ours[name], folder / theirs[name], calls[0], bound)
        if parting is not None:
            yield f"{name}: {parting}"


def differences(
    reference: Path, graph: Path, inputs: Mapping[str, np.ndarray]
) -> Iterator[Divergence]:
    """Every value that both graphs have, in the order of ``graph``, with how far it is off.

    ``inputs`` are those of ``graph``; for the reference they are brought to its dtypes. Raises
    EngineError where ONNX Runtime does not run one of them.
    """
    ours, theirs = _Opened(reference), _Opened(graph)
    common = [name for name in theirs.given_by if name in ours.given_by]
    for first in range(0, len(common), AT_ONCE):
        names = common[first : first + AT_ONCE]
        expected, found = ours.values(names, inputs), theirs.values(names, inputs)
        for name in names:
            if name in expected and name in found:
                node = theirs.given_by[name]
                relative = _relative(expected[name], found[name])
                yield Divergence(node.name, node.op_type, name, relative)


def first_beyond(
    reference: Path, graph: Path, inputs: Mapping[str, np.ndarray], bound: float
) -> Divergence | None:
    """The first value that differs by more than ``bound``, if any does."""
    return next((p for p in differences(reference, graph, inputs) if not p.relative <= bound), None)


def _observe(backend: Backend, tokenizer: object) -> None:
    observe(backend)


class _Opened:
    """A graph without its weights; ``given_by`` is the node of each value."""

    def __init__(self, path: Path) -> None:
        self._path, self._model = path, onnx.load(path, load_external_data=False)
        graph = self._model.graph
        self.given_by = {name: node for node in graph.node for name in node.output}
        self._floats = {
            value.name: value
            for value in (*graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type in FLOATS
        }

    def values(
        self, names: Sequence[str], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Those of the named values that are of floats, by name."""
        wanted = [name for name in names if name in self._floats]
        if not wanted:
            return {}
        del self._model.graph.output[:]
        self._model.graph.output.extend(self._floats[name] for name in wanted)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = QUIET
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._path.parent)
        )
        try:
            session = onnxruntime.InferenceSession(
                self._model.SerializeToString(), options, ["CPUExecutionProvider"]
            )
            given = {i.name: inputs[i.name].astype(_dtype(i.type)) for i in session.get_inputs()}
            return dict(zip(wanted, session.run(wanted, given)))
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            raise EngineError(
                f"{self._path}: {error}; expected a graph that ONNX Runtime runs", "export again"
            ) from error


def _dtype(kind: str) -> np.dtype:
    """Of ONNX Runtime's "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


def _relative(reference: np.ndarray, found: np.ndarray) -> float:
    reference = reference.astype(np.float64)
    # Minus infinity is equal to itself, and of no weight.
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(found)):
        return np.inf
    if not finite.any():
        return 0.0
    largest = float(np.abs(reference[finite] - found[finite]).max())
    deviation = float(reference[finite].std())
    return largest / deviation if deviation else np.inf if largest else 0.0
