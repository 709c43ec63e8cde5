"""Find the first node of a graph whose output differs from a reference graph's.

Both graphs are exported from one checkpoint by one exporter, so their values have the same names
wherever the precision did not change the nodes around them. Both run in ONNX Runtime with its graph
optimizations off and intermediate values as outputs, and are compared node by node in graph order:
numerical differences need not grow along the graph, so a binary search could miss the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.onnxruntime import QUIET, supply_linked_data
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.errors import EngineError
from llava_st_ros.export.calibration import record_inputs
from llava_st_ros.export.validate.proof import run_reference_inputs

CHUNK = 32  # values fetched per run; those of a 7B's prefill are large
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class Divergence:
    """Difference of one value between a graph and its reference.

    Attributes:
        node: Name of the node that produces the value.
        operator: Operator of the node.
        value: Name of the value.
        relative: Largest absolute difference over the reference's standard deviation.
    """

    node: str
    operator: str
    value: str
    relative: float

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}) differs by {self.relative:.2e} of the deviation"


def first_divergences(reference: Path, folder: Path, bound: float) -> Iterator[str]:
    """Describe the first divergent node of each graph of an engine directory.

    Both engine directories are for ONNX Runtime. Each pair of graphs gets the inputs that the
    reference's graph received while it ran the reference inputs.

    Args:
        reference: Engine directory of the same checkpoint, to compare with.
        folder: Engine directory to examine.
        bound: Relative difference above which a value counts as divergent.

    Yields:
        One line for each graph that has a divergent node.
    """
    feeds = record_inputs(reference, _run_reference_inputs)
    reference_files, files = read_manifest(reference).graphs, read_manifest(folder).graphs
    for name, calls in feeds.items():
        divergence = first_divergence(
            reference / reference_files[name], folder / files[name], calls[0], bound
        )
        if divergence is not None:
            yield f"{name}: {divergence}"


def first_divergence(
    reference: Path, graph: Path, inputs: Mapping[str, np.ndarray], bound: float
) -> Divergence | None:
    """Return the first value that differs by more than ``bound``, or None."""
    differences = compare_values(reference, graph, inputs)
    return next((d for d in differences if not d.relative <= bound), None)


def compare_values(
    reference: Path, graph: Path, inputs: Mapping[str, np.ndarray]
) -> Iterator[Divergence]:
    """Compare every float value that both graphs have, in the order of ``graph``.

    Args:
        reference: ONNX file of the reference.
        graph: ONNX file to compare.
        inputs: Inputs of ``graph`` by name; cast to each graph's own dtypes.

    Raises:
        EngineError: ONNX Runtime cannot run one of the graphs.
    """
    expected_graph, actual_graph = _ProbedGraph(reference), _ProbedGraph(graph)
    common = [name for name in actual_graph.producers if name in expected_graph.producers]
    for first in range(0, len(common), CHUNK):
        names = common[first : first + CHUNK]
        expected = expected_graph.run(names, inputs)
        actual = actual_graph.run(names, inputs)
        for name in names:
            if name in expected and name in actual:
                node = actual_graph.producers[name]
                relative = _relative_difference(expected[name], actual[name])
                yield Divergence(node.name, node.op_type, name, relative)


def _run_reference_inputs(backend: Backend, tokenizer: object) -> None:
    run_reference_inputs(backend)


class _ProbedGraph:
    """A graph, loaded without its weights, whose intermediate values can be read.

    Attributes:
        producers: The node that produces each value, by the value's name.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._model = path, onnx.load(path, load_external_data=False)
        graph = self._model.graph
        self.producers = {name: node for node in graph.node for name in node.output}
        self._floats = {
            value.name: value
            for value in (*graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type in FLOATS
        }

    def run(self, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return those of the named values that are floats, by name."""
        float_names = [name for name in names if name in self._floats]
        if not float_names:
            return {}
        del self._model.graph.output[:]
        self._model.graph.output.extend(self._floats[name] for name in float_names)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = QUIET
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._path.parent)
        )
        data = supply_linked_data(options, self._path)
        try:
            session = onnxruntime.InferenceSession(
                self._model.SerializeToString(), options, ["CPUExecutionProvider"]
            )
            feed = {i.name: inputs[i.name].astype(_dtype(i.type)) for i in session.get_inputs()}
            return dict(zip(float_names, session.run(float_names, feed)))
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise EngineError(
                f"{self._path}: ONNX Runtime cannot run the graph: {error}", "export again"
            ) from error
        finally:
            del data


def _dtype(onnx_type: str) -> np.dtype:
    """Convert ONNX Runtime's type name, such as "tensor(float)"."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


def _relative_difference(reference: np.ndarray, actual: np.ndarray) -> float:
    reference = reference.astype(np.float64)
    finite = np.isfinite(reference)  # infinities (masks) only have to be in the same positions
    if not np.array_equal(finite, np.isfinite(actual)):
        return np.inf
    if not finite.any():
        return 0.0
    largest = float(np.abs(reference[finite] - actual[finite]).max())
    deviation = float(reference[finite].std())
    return largest / deviation if deviation else np.inf if largest else 0.0
