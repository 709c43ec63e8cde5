"""No module calls a parser of files itself: each uses the loader of the format."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import ROOT

FOLDERS = ("llava_st_ros", "engine", "export", "benchmarks", "demo", "examples")
LOADERS = ("llava_st_ros/files/", "llava_st_ros/model/pickle_files.py")
# Modules whose names that start so read a file or text; "" for everything in a module.
PARSERS = {
    "json": ("load", "JSONDecoder"),
    "yaml": ("load", "safe_load", "full_load", "unsafe_load", "parse", "compose", "Loader"),
    "ruamel": ("",),
    "numpy": ("load", "fromfile", "memmap", "genfromtxt", "lib.format.open_memmap"),
    "torch": ("load", "jit.load"),
    "safetensors": ("safe_open", "deserialize"),
    "safetensors.numpy": ("load",),
    "safetensors.torch": ("load",),
    "pickle": ("load", "Unpickler"),
    "zipfile": ("ZipFile",),
    "tomllib": ("",),
    "xml": ("etree", "dom", "parsers", "sax.make_parser", "sax.parse", "sax.expatreader"),
}
ALLOWED = {
    # Compares the text of each value with what rcl's own parser made of it, so it needs the nodes.
    ("llava_st_ros/ros/parameter_sources.py", "yaml.compose_all"),
    # Creates frames.npy (mode="w+").
    ("llava_st_ros/simulation/clip_store.py", "numpy.lib.format.open_memmap"),
    # Creates features, and goes on with an unfinished file whose shape it has checked (mode="r+").
    ("llava_st_ros/training/tiny/vision_features.py", "numpy.lib.format.open_memmap"),
}


def parser_calls(source: str) -> Iterator[str]:
    """The dotted names of parsers that a module uses, by any name that it imports them with."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                names[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    used = set(names.values())
    for node in ast.walk(tree):
        parts: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in names:
            used.add(".".join((names[inner.id], *parts)))
    for name in sorted(used):
        for module, prefixes in PARSERS.items():
            if any(name.startswith(f"{module}.{prefix}") for prefix in prefixes):
                yield name


def test_files_are_read_by_the_loaders_only() -> None:
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            where = path.relative_to(ROOT).as_posix()
            if not where.startswith(LOADERS):
                calls = parser_calls(path.read_text(encoding="utf-8"))
                found |= {(where, name) for name in calls}
    assert found - ALLOWED == set(), "read it with a loader of llava_st_ros/files"
    assert found >= ALLOWED


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import json\njson.loads('')", "json.loads"),
        ("from json import loads as read", "json.loads"),
        ("import numpy as np\nnp.load('a')", "numpy.load"),
        ("import torch\ntorch.load('a')", "torch.load"),
        ("from safetensors.torch import load_file", "safetensors.torch.load_file"),
        ("from xml.etree import ElementTree", "xml.etree.ElementTree"),
        ("def f():\n    import yaml\n    yaml.safe_load('')", "yaml.safe_load"),
    ],
)
def test_a_direct_call_is_found(source: str, name: str) -> None:
    assert list(parser_calls(source)) == [name]


def test_writing_is_not_reported() -> None:
    source = "import json, numpy as np\njson.dumps({})\nnp.save('a', 1)\njson.JSONDecodeError"
    assert [name for name in parser_calls(source) if name != "json.JSONDecodeError"] == []


def test_the_loaders_are_where_they_are_said_to_be() -> None:
    assert all((ROOT / Path(name)).exists() for name in LOADERS)
