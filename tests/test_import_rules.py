"""Import rules: which package may import which, read from the sources (docs/architecture.md).

Every import statement counts, in functions and under TYPE_CHECKING too, relative or absolute, and
so does ``importlib.import_module`` of a literal name.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.paths import ROOT

FOLDERS = {
    "llava_st_ros": "llava_st_ros",
    "engine": "llava_st_ros.engine",
    "export": "llava_st_ros.export",
}
ROS = (
    "action_msgs",
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "foxglove_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "llava_st_ros.action",
    "llava_st_ros.msg",
    "llava_st_ros.srv",
    "rcl_interfaces",
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "tf2_ros",
    "vision_msgs",
    "visualization_msgs",
)
TOOLS = ("benchmarks", "demo", "examples", "tests")
TORCH = ("torch", "transformers")
FOUNDATION = (
    "errors",
    "coordinates",
    "counts",
    "atomic_files",
    "files",
    "query_rules",
    "records",
    "calibration",
    "config",
    "checkpoint_config",
)

# For each package or module below llava_st_ros the ones that it may import, besides itself. The
# order is bottom up: a row names rows above it only, so that no cycle is possible.
LAYERS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "coordinates": (),
    "counts": (),
    "atomic_files": (),
    "files": ("errors",),
    "fair_lock": (),
    "standard_streams": (),
    "page_server": ("errors", "files"),
    "noun_phrases": (),
    "query_rules": ("errors",),
    "records": ("coordinates", "errors", "noun_phrases", "query_rules"),
    "calibration": ("errors",),
    "camera_geometry": ("errors", "records"),
    "rectification": ("camera_geometry", "errors"),
    "config": ("calibration", "coordinates", "errors"),
    "checkpoint_config": ("calibration", "config", "errors", "files"),
    "engine": ("atomic_files", "errors", "files"),
    "annotations": ("atomic_files", "errors", "files", "query_rules", "records"),
    "media": ("atomic_files", "errors", "files", "records"),
    "text": FOUNDATION,
    "simulation": (
        "annotations",
        "atomic_files",
        "coordinates",
        "errors",
        "files",
        "records",
        "text",
    ),
    "model": (*FOUNDATION, "text"),
    "backends": (*FOUNDATION, "engine", "text", "model"),
    "streaming": (*FOUNDATION, "backends"),
    "decoding": (*FOUNDATION, "text", "backends"),
    "query_runner": (*FOUNDATION, "text", "backends", "streaming", "decoding"),
    "tracking": (*FOUNDATION, "streaming", "query_runner"),
    "grounder": (
        *FOUNDATION,
        "fair_lock",
        "text",
        "backends",
        "streaming",
        "query_runner",
        "tracking",
    ),
    "evaluation": (
        *FOUNDATION,
        "page_server",
        "annotations",
        "media",
        "text",
        "simulation",
        "backends",
        "streaming",
        "query_runner",
        "tracking",
        "grounder",
    ),
    "live_view": ("errors", "files", "page_server", "query_rules"),
    "training": (
        *FOUNDATION,
        "media",
        "text",
        "simulation",
        "model",
        "backends",
        "streaming",
        "evaluation",
    ),
    "export": (
        *FOUNDATION,
        "engine",
        "media",
        "text",
        "model",
        "backends",
        "decoding",
        "grounder",
        "evaluation",
    ),
    "ros": (
        *FOUNDATION,
        "camera_geometry",
        "rectification",
        "standard_streams",
        "media",
        "text",
        "backends",
        "streaming",
        "grounder",
    ),
    "cli": (
        *FOUNDATION,
        "standard_streams",
        "engine",
        "annotations",
        "media",
        "text",
        "simulation",
        "model",
        "backends",
        "streaming",
        "grounder",
        "evaluation",
        "live_view",
        "training",
        "export",
        "ros",
    ),
}
# The package's own __init__.py: the public names, loaded on first use.
PUBLIC_API = (*FOUNDATION, "backends", "grounder")


@dataclass(frozen=True)
class Outside:
    """Third-party packages that only some modules may import, at import time or later."""

    name: str
    targets: tuple[str, ...]
    allowed: tuple[str, ...]


TORCH_BACKEND = tuple(
    f"llava_st_ros.backends.{name}" for name in ("torch", "torch_kernels", "torch_streaming")
)
OUTSIDE = (
    Outside("ROS is imported in ros only", ROS, ("llava_st_ros.ros",)),
    Outside(
        "torch is imported in model, training, export, cli and the torch backend only",
        TORCH,
        (
            *TORCH_BACKEND,
            "llava_st_ros.cli",
            "llava_st_ros.export",
            "llava_st_ros.model",
            "llava_st_ros.training",
        ),
    ),
    Outside("MuJoCo is imported in simulation only", ("mujoco",), ("llava_st_ros.simulation",)),
    Outside("the product imports no test, demo, benchmark or example", TOOLS, ()),
)

# What must not be reachable by any chain of imports, lazy ones included.
UNREACHABLE: dict[str, tuple[str, ...]] = {
    "engine": ("torch", "model", "streaming", "text"),
    "media": ("torch", "text", "backends", "grounder"),
    "text": ("torch", "model", "backends"),
    "simulation": ("torch", "model", "training", "backends"),
    "ros": ("evaluation", "simulation", "training", "export", "cli"),
}
PACKAGE = "llava_st_ros"


def layer_of(name: str) -> str:
    """The row of LAYERS that a module belongs to; "" for the package's own __init__.py."""
    return ".".join(name.split(".")[1:2])


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module of the package's three folders: its dotted name and its file."""
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            name = ".".join((package, *parts))
            yield name.removesuffix(".__init__"), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """The line and absolute name of everything that a module imports.

    ``from a import b`` may mean the module a.b or a name in a: both are given.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def _is_import_call(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr == "import_module"
    return isinstance(function, ast.Name) and function.id in ("__import__", "import_module")


def resolve(target: str, known: dict[str, Path]) -> str:
    """The module of the package that an imported name is or is defined in; "" for outside names."""
    while target and target not in known:
        target = target.rpartition(".")[0]
    return "" if target == PACKAGE else target


def violations(root: Path) -> list[tuple[str, str]]:
    """(rule, "file:line imports what") for each broken rule."""
    known = dict(modules(root))
    found = set()
    for name, path in known.items():
        layer = layer_of(name)
        allowed = LAYERS.get(layer) if layer else PUBLIC_API
        where = str(path.relative_to(root))
        if allowed is None:
            found.add(("every package has a row in LAYERS", f"{where} is in {layer!r}"))
            continue
        for line, target in imports(name, path):
            for rule in OUTSIDE:
                if _below(target, rule.targets) and not _below(name, rule.allowed):
                    found.add((rule.name, f"{where}:{line} imports {target}"))
            other = layer_of(target) if _below(target, (PACKAGE,)) else ""
            if other in LAYERS and other != layer and other not in allowed:
                found.add(("LAYERS", f"{where}:{line} imports {target}"))
    return sorted(found)


def reachable(root: Path) -> dict[str, dict[str, list[str]]]:
    """For each layer everything that its imports lead to, lazy ones included: the layer or
    third-party package reached, with a shortest chain of modules that leads there."""
    known = dict(modules(root))
    targets = {
        name: {(resolve(target, known), target) for _, target in imports(name, path)}
        for name, path in known.items()
    }
    result: dict[str, dict[str, list[str]]] = {}
    for start in known:
        chains, queue = {start: [start]}, [start]
        while queue:
            name = queue.pop(0)
            for module, target in sorted(targets[name]):
                reached = layer_of(module) if module else target.split(".")[0]
                chain = [*chains[name], module or target]
                if reached != layer_of(start):
                    result.setdefault(layer_of(start), {}).setdefault(reached, chain)
                if module and module not in chains:
                    chains[module] = chain
                    queue.append(module)
    return result


def test_sources_follow_the_rules() -> None:
    found = dict(modules(ROOT))
    assert {"llava_st_ros.records", "llava_st_ros.engine", "llava_st_ros.export"} <= set(found)
    broken = violations(ROOT)
    assert not broken, "\n".join(f"{rule}: {where}" for rule, where in broken)


def test_layers_are_listed_bottom_up() -> None:
    above: set[str] = set()
    for layer, allowed in LAYERS.items():
        assert set(allowed) <= above, f"{layer} may import {set(allowed) - above}, listed below it"
        above.add(layer)


@pytest.fixture(scope="module")
def chains() -> dict[str, dict[str, list[str]]]:
    return reachable(ROOT)


@pytest.mark.parametrize("layer", UNREACHABLE)
def test_no_chain_of_imports_reaches(layer: str, chains: dict[str, dict[str, list[str]]]) -> None:
    reached = chains[layer]
    assert set(reached) & set(LAYERS), "a layer that imports nothing proves nothing"
    for target in UNREACHABLE[layer]:
        assert target not in reached, " -> ".join(reached[target])


def test_a_chain_of_imports_is_found(tmp_path: Path) -> None:
    write(tmp_path, "llava_st_ros/simulation/a.py", "def f():\n    from ..text import b")
    write(tmp_path, "llava_st_ros/text/__init__.py", "")
    write(tmp_path, "llava_st_ros/text/b.py", "from llava_st_ros.text.c import d")
    write(tmp_path, "llava_st_ros/text/c.py", "import torch.nn")
    chain = reachable(tmp_path)["simulation"]["torch"]
    assert chain == [
        "llava_st_ros.simulation.a",
        "llava_st_ros.text.b",
        "llava_st_ros.text.c",
        "torch.nn",
    ]


ROS_RULE, TORCH_RULE, MUJOCO_RULE, TOOLS_RULE = (rule.name for rule in OUTSIDE)
BAD = [
    ("llava_st_ros/grounder.py", "import rclpy.node", ROS_RULE),
    ("llava_st_ros/tracking/a.py", "from ..msg import Box", ROS_RULE),
    ("llava_st_ros/tracking/a.py", "from llava_st_ros import msg", ROS_RULE),
    ("llava_st_ros/tracking/__init__.py", "from .. import srv", ROS_RULE),
    ("export/onnx_export.py", "def f():\n    from std_msgs.msg import Header", ROS_RULE),
    ("engine/a.py", "from ..ros.qos import x", "LAYERS"),
    ("llava_st_ros/streaming/a.py", "import numpy, torch as t", TORCH_RULE),
    (
        "llava_st_ros/text/a.py",
        "class A:\n    def f(self):\n        import torch.nn.functional",
        TORCH_RULE,
    ),
    (
        "llava_st_ros/evaluation/a.py",
        "import importlib\nx = importlib.import_module('torch')",
        TORCH_RULE,
    ),
    (
        "llava_st_ros/backends/tensorrt.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        TORCH_RULE,
    ),
    (
        "llava_st_ros/text/tokenizer.py",
        "import transformers",
        TORCH_RULE,
    ),
    (
        "engine/session.py",
        "from llava_st_ros.model import lape",
        "LAYERS",
    ),
    (
        "llava_st_ros/grounder.py",
        "from .engine import session",
        "LAYERS",
    ),
    (
        "llava_st_ros/backends/tensorrt.py",
        "import llava_st_ros.export.tensorrt.builder",
        "LAYERS",
    ),
    (
        "llava_st_ros/simulation/a.py",
        "from llava_st_ros.training.tiny.attention_targets import center_cell",
        "LAYERS",
    ),
    ("llava_st_ros/ros/a.py", "from ..cli import ground", "LAYERS"),
    (
        "llava_st_ros/evaluation/a.py",
        "from demo.run import main",
        TOOLS_RULE,
    ),
]
GOOD = [
    ("llava_st_ros/ros/node.py", "import rclpy\nfrom ..msg import Box\nfrom .qos import x"),
    ("llava_st_ros/cli/node.py", "def run(a):\n    from ..ros.node import main"),
    ("llava_st_ros/cli/export.py", "from ..export import plan\nfrom ..export.engine import build"),
    ("llava_st_ros/backends/torch.py", "import torch"),
    ("llava_st_ros/backends/tensorrt.py", "from ..engine.session import EngineSession"),
    ("llava_st_ros/model/a/b.py", "import torch\nfrom ...records import Box"),
    ("export/onnx_export.py", "import torch\nfrom llava_st_ros.engine import manifest"),
    ("llava_st_ros/tracking/a.py", "import rclpy_like, torchlike\nfrom .b import msg"),
]


def write(root: Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source + "\n", encoding="utf-8")


@pytest.mark.parametrize(("path", "source", "rule"), BAD)
def test_a_breach_is_found(tmp_path: Path, path: str, source: str, rule: str) -> None:
    write(tmp_path, path, source)
    assert {name for name, _ in violations(tmp_path)} == {rule}


def test_allowed_imports_are_not_reported(tmp_path: Path) -> None:
    for path, source in GOOD:
        write(tmp_path, path, source)
    assert violations(tmp_path) == []


def test_importing_the_core_and_the_command_line_loads_neither_torch_nor_ros() -> None:
    """The rules above check single imports; this checks what is loaded at import time."""
    outside = (
        *("llava_st_ros.model", "llava_st_ros.ros"),
        *("llava_st_ros.simulation", "llava_st_ros.training"),
    )
    inside = ("llava_st_ros.backends.preprocessing", "llava_st_ros.text.tokenizer")
    names = [
        name
        for name, _ in modules(ROOT)
        if name not in (*TORCH_BACKEND, "llava_st_ros.cli.__main__")
        and (not _below(name, (*outside, "llava_st_ros.export")) or name in inside)
    ]
    assert len(names) > 20
    heavy = [*TORCH, "rclpy", "mujoco"]
    program = (
        f"import importlib, sys\n"
        f"for name in {names!r}:\n"
        f"    importlib.import_module(name)\n"
        f"    loaded = [heavy for heavy in {heavy!r} if heavy in sys.modules]\n"
        f"    assert not loaded, f'importing {{name}} loads {{loaded}}'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
