"""An engine's estimated memory and a lower bound of its run time, before it is built.

``plan_counts`` counts them for any geometry, with torch. Those of the published models are stored,
so that their plans need no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llava_st_ros.errors import ConfigError
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.yaml_files import read_yaml

BOARDS = Path(__file__).parent / "boards.yaml"
GEOMETRIES = Path(__file__).parent / "geometries"  # config.json of published models
PLANS = Path(__file__).parent / "plans"  # their plans, in each precision
RESERVED = 2.5 * 2**30  # for the system, the node and CUDA, bytes


@dataclass(frozen=True)
class Precision:
    """Bytes per value.

    Attributes:
        matrices: In the decoder's matrices, without scales.
        other_weights: In everything else.
        group: Number of weights that share a 16-bit scale; 0: no scales.
    """

    matrices: float
    other_weights: int
    group: int = 0

    @property
    def matrices_with_scales(self) -> float:
        return self.matrices + (2 / self.group if self.group else 0)


PRECISIONS = {
    "float32": Precision(4, 4),
    "float16": Precision(2, 2),
    "bfloat16": Precision(2, 2),
    "int8": Precision(1, 2),
    "int4": Precision(0.5, 2, group=128),
}


@dataclass(frozen=True)
class Board:
    """A board of boards.yaml.

    Attributes:
        name: Its name.
        memory: Memory shared by CPU and GPU, GiB.
        bandwidth: Memory bandwidth, GB/s.
        tflops: Dense float16 TFLOP/s.
    """

    name: str
    memory: float
    bandwidth: float
    tflops: float


@dataclass(frozen=True)
class GraphCost:
    """Cost of one run of a graph.

    Attributes:
        name: What the run does.
        flops: Floating-point operations; a multiply-add counts as two.
        bytes_moved: Bytes read or written at least once: weights, inputs, outputs.
        working: Bytes of the largest inputs and outputs of a single operation, weights excluded.
    """

    name: str
    flops: int
    bytes_moved: float
    working: float

    def min_seconds(self, board: Board) -> float:
        """Return the roofline: a lower bound of the run time on a board."""
        return max(self.flops / (board.tflops * 1e12), self.bytes_moved / (board.bandwidth * 1e9))


@dataclass(frozen=True)
class ResourcePlan:
    """Estimated memory and cost of a model's engines.

    Attributes:
        precision: Precision of the engines.
        positions: Length of the longest prompt with its answer.
        weights: Bytes of weights by graph.
        cache: Bytes of the KV cache of ``positions``.
        frames: Bytes of the frame pool's features.
        costs: Cost of each kind of run.
    """

    precision: str
    positions: int
    weights: Mapping[str, float]
    cache: float
    frames: float
    costs: tuple[GraphCost, ...]

    @cached_property
    def working(self) -> float:
        """Bytes of the largest operation's inputs and outputs."""
        return max(cost.working for cost in self.costs)

    @cached_property
    def running(self) -> float:
        """Bytes of device memory at run time, without what the system uses."""
        return sum(self.weights.values()) + self.cache + self.frames + self.working

    @cached_property
    def building(self) -> float:
        """Estimated peak bytes of the build: two copies of the largest graph's weights, and the
        largest operation."""
        return 2 * max(self.weights.values()) + self.working

    def fits(self, board: Board) -> bool:
        return max(self.running, self.building) + RESERVED <= board.memory * 2**30


def read_boards() -> list[Board]:
    values = read_yaml(BOARDS, ConfigError)
    return [Board(name, **sizes) for name, sizes in values.items()]


def check_precision(precision: str) -> None:
    """Raise ConfigError if ``precision`` is not in PRECISIONS."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")


def has_stored_plan(model: str) -> bool:
    """Whether ``model`` is the name of a published model with a stored plan."""
    return any(path.stem == model for path in PLANS.glob("*.json"))


def stored_plan(model: str, precision: str) -> ResourcePlan:
    """Return the stored plan of a published model.

    Raises:
        ConfigError: There is none, or ``precision`` is not in PRECISIONS.
    """
    check_precision(precision)
    values = read_json(PLANS / f"{model}.json", ConfigError)[precision]
    costs = tuple(GraphCost(**cost) for cost in values.pop("costs"))
    return ResourcePlan(precision, costs=costs, **values)
