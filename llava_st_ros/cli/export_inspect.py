"""``llava-st export inspect``: list the content of an engine directory."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from llava_st_ros.cli.export_flags import add_shared_flags

HELP = "list an engine directory's graphs, their inputs and outputs, and the proof"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE_DIR", type=Path, help="the engine directory")
    add_shared_flags(parser, {"--json": "print one JSON object"}, action=True)


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.engine.manifest import read_manifest
    from llava_st_ros.export.validate.stored_proof import proof_lines

    manifest = read_manifest(args.engine)
    # TensorRT engines can be inspected only on the machine that they were built for.
    onnx_files = {name: file for name, file in manifest.graphs.items() if file.endswith(".onnx")}
    graphs, missing = _inspect({name: args.engine / file for name, file in onnx_files.items()})
    engines = {
        name: manifest.files[file].size
        for name, file in manifest.graphs.items()
        if name not in onnx_files
    }
    report = {
        **{
            key: getattr(manifest, key)
            for key in ("backend", "target", "precision", "compat", "checkpoint", "versions")
        },
        "machine": manifest.machine,
        "graphs": graphs,
        "engines": engines,
        "proof": manifest.proof,
    }
    if args.json:
        print(json.dumps(report))
    else:
        print("\n".join((*_lines(report), "proof:", *proof_lines(manifest))))
    if missing:
        print(f"the graphs are not listed: {missing}", file=sys.stderr)
    return 0


def _inspect(paths: dict[str, Path]) -> tuple[dict[str, Any], str]:
    """Describe ONNX files by name; without the package onnx only say so."""
    if not paths:
        return {}, ""
    try:
        from llava_st_ros.export.inspection import inspect_graph
    except ImportError as error:
        return {}, f"{error}; pip install '.[export]' in the source folder"
    return {name: inspect_graph(path) for name, path in paths.items()}, ""


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{report['target']}: {report['backend']}, {report['precision']}, "
        f"compat {report['compat']}",
        "exported with " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
    ]
    for name, graph in report["graphs"].items():
        lines.append(
            f"{name}: {graph['nodes']} nodes, {graph['weights'] / 1e6:.1f} MB of weights "
            f"({', '.join(graph['precisions'])})"
            + (f", plugin layers {graph['plugins']}" if graph["plugins"] else "")
        )
        for kind in ("inputs", "outputs"):
            for tensor in graph[kind]:
                lines.append(f"  {kind[:-1]:<7}{tensor}")
    lines += [f"{name}: {size / 1e6:.1f} MB" for name, size in report["engines"].items()]
    if report["machine"]:
        lines.append("for " + ", ".join(f"{k} {v}" for k, v in report["machine"].items()))
    return lines
