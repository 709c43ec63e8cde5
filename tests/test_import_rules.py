"""Who may import whom: the rules of docs/architecture.md, read from the sources.

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

ROOT = Path(__file__).resolve().parents[1]
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
    "visualization_msgs",
)
TORCH = ("torch", "transformers")


@dataclass(frozen=True)
class Rule:
    """``targets`` are imported by no module of ``importers`` except those in ``allowed``.

    Each name stands for itself and everything below it.
    """

    name: str
    targets: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    importers: tuple[str, ...] = ("llava_st_ros",)

    def forbids(self, importer: str, target: str) -> bool:
        return (
            _below(importer, self.importers)
            and not _below(importer, self.allowed)
            and _below(target, self.targets)
        )


TORCH_BACKEND = tuple(
    f"llava_st_ros.backends.{name}" for name in ("torch", "torch_kernels", "torch_streaming")
)
RULES = (
    Rule("ROS lives in ros", ROS, allowed=("llava_st_ros.ros",)),
    Rule(
        "only the command line starts the node",
        ("llava_st_ros.ros",),
        allowed=("llava_st_ros.ros", "llava_st_ros.cli"),
    ),
    Rule(
        "the core needs no torch",
        TORCH,
        allowed=(
            *TORCH_BACKEND,
            "llava_st_ros.cli",
            "llava_st_ros.export",
            "llava_st_ros.model",
            "llava_st_ros.training",
        ),
    ),
    Rule(
        "what every backend shares needs no torch",
        TORCH,
        importers=(
            "llava_st_ros.checkpoint_config",
            "llava_st_ros.backends.preprocessing",
            "llava_st_ros.text.prompt_layout",
            "llava_st_ros.text.tokenizer",
        ),
    ),
    Rule(
        "engine knows nothing of the model or the stream",
        ("llava_st_ros.model", "llava_st_ros.streaming"),
        importers=("llava_st_ros.engine",),
    ),
    Rule(
        "engine is reached through the backends and the command line",
        ("llava_st_ros.engine",),
        allowed=(
            "llava_st_ros.backends",
            "llava_st_ros.cli",
            "llava_st_ros.engine",
            "llava_st_ros.export",
        ),
    ),
    Rule(
        "export is reached from the command line",
        ("llava_st_ros.export",),
        allowed=("llava_st_ros.cli", "llava_st_ros.export"),
    ),
    Rule(
        "the simulator knows nothing of the model or of training",
        ("llava_st_ros.model", "llava_st_ros.training"),
        importers=("llava_st_ros.simulation",),
    ),
    Rule("nothing imports the command line", ("llava_st_ros.cli",), allowed=("llava_st_ros.cli",)),
    Rule("the product imports no test, demo or benchmark", ("benchmarks", "demo", "tests")),
)


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


def violations(root: Path) -> list[tuple[str, str]]:
    """(rule's name, "file:line imports what") for each broken rule."""
    return sorted(
        {
            (rule.name, f"{path.relative_to(root)}:{line} imports {target}")
            for name, path in modules(root)
            for line, target in imports(name, path)
            for rule in RULES
            if rule.forbids(name, target)
        }
    )


def test_the_sources_keep_the_rules() -> None:
    found = dict(modules(ROOT))
    assert {"llava_st_ros.records", "llava_st_ros.engine", "llava_st_ros.export"} <= set(found)
    broken = violations(ROOT)
    assert not broken, "\n".join(f"{rule}: {where}" for rule, where in broken)


BAD = [
    ("llava_st_ros/grounder.py", "import rclpy.node", "ROS lives in ros"),
    ("llava_st_ros/tracking/a.py", "from ..msg import Box", "ROS lives in ros"),
    ("llava_st_ros/tracking/a.py", "from llava_st_ros import msg", "ROS lives in ros"),
    ("llava_st_ros/tracking/__init__.py", "from .. import srv", "ROS lives in ros"),
    ("export/onnx.py", "def f():\n    from std_msgs.msg import Header", "ROS lives in ros"),
    ("engine/a.py", "from ..ros.qos import x", "only the command line starts the node"),
    ("llava_st_ros/streaming/a.py", "import numpy, torch as t", "the core needs no torch"),
    (
        "llava_st_ros/text/a.py",
        "class A:\n    def f(self):\n        import torch.nn.functional",
        "the core needs no torch",
    ),
    (
        "llava_st_ros/evaluation/a.py",
        "import importlib\nx = importlib.import_module('torch')",
        "the core needs no torch",
    ),
    (
        "llava_st_ros/backends/tensorrt.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "the core needs no torch",
    ),
    (
        "llava_st_ros/text/tokenizer.py",
        "import transformers",
        "the core needs no torch",
    ),
    (
        "engine/session.py",
        "from llava_st_ros.model import lape",
        "engine knows nothing of the model or the stream",
    ),
    (
        "llava_st_ros/grounder.py",
        "from .engine import session",
        "engine is reached through the backends and the command line",
    ),
    (
        "llava_st_ros/backends/tensorrt.py",
        "import llava_st_ros.export.tensorrt.builder",
        "export is reached from the command line",
    ),
    (
        "llava_st_ros/simulation/a.py",
        "from llava_st_ros.training.tiny.evidence import cell",
        "the simulator knows nothing of the model or of training",
    ),
    ("llava_st_ros/ros/a.py", "from ..cli import ground", "nothing imports the command line"),
    (
        "llava_st_ros/evaluation/a.py",
        "from demo.run import main",
        "the product imports no test, demo or benchmark",
    ),
]
GOOD = [
    ("llava_st_ros/ros/node.py", "import rclpy\nfrom ..msg import Box\nfrom .qos import x"),
    ("llava_st_ros/cli/node.py", "def run(a):\n    from ..ros.node import main"),
    ("llava_st_ros/cli/export.py", "from ..export import onnx\nfrom ..export.engine import build"),
    ("llava_st_ros/backends/torch.py", "import torch"),
    ("llava_st_ros/backends/tensorrt.py", "from ..engine.session import Session"),
    ("llava_st_ros/model/a/b.py", "import torch\nfrom ...records import Box"),
    ("export/onnx.py", "import torch\nfrom llava_st_ros.engine import manifest"),
    ("llava_st_ros/tracking/a.py", "import rclpy_like, torchlike\nfrom .b import msg"),
]


def write(root: Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source + "\n", encoding="utf-8")


@pytest.mark.parametrize(("path", "source", "rule"), BAD)
def test_a_breach_is_found(tmp_path: Path, path: str, source: str, rule: str) -> None:
    write(tmp_path, path, source)
    assert {name for name, _ in violations(tmp_path)} == {rule}


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    for path, source in GOOD:
        write(tmp_path, path, source)
    assert violations(tmp_path) == []


def test_importing_the_core_and_the_command_line_loads_neither_torch_nor_ros() -> None:
    """The rules above see one step; this is the whole way, at import time."""
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
