"""A checkpoint becomes an engine directory: graphs, what goes with them, and the proof.

The directory is made aside and takes its name once it is whole and proved, so that an interrupted
export leaves nothing and a running node never meets half of one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from llava_st_ros import __version__
from llava_st_ros.backends.engine_files import COORDINATES, open_engine
from llava_st_ros.backends.onnxruntime import OnnxBackend
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.engine.manifest import (
    Manifest,
    describe_files,
    is_engine_directory,
    read_manifest,
    sha256_of,
)
from llava_st_ros.errors import DataError, EngineError
from llava_st_ros.export.onnx import graphs, write
from llava_st_ros.export.proof import Proof, check, prove
from llava_st_ros.export.target import Target, read_target
from llava_st_ros.model.checkpoint import DTYPES, Checkpoint, load_checkpoint
from llava_st_ros.model.geometry import write_config
from llava_st_ros.model.prompt_layout import AXES
from llava_st_ros.model.tensor_files import find_tensors

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript")


def export_checkpoint(
    folder: Path,
    target: Target,
    precision: str,
    out: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Proof:
    """Export ``folder`` for ``target`` into ``out``, and prove it. Returns the proof.

    ``overrides`` are those of ``load_checkpoint``; ``on_step`` is told what begins. An engine
    directory at ``out`` is replaced, anything else there refused. Raises CheckpointError,
    ConfigError, DataError where ``out`` cannot be written, EngineError where the engine is beyond
    the target's bounds.
    """
    bounds = target.bounds(precision)
    if out.exists() and not is_engine_directory(out) and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: there already, and no engine directory", "a new folder", "name another"
        )
    checkpoint = load_checkpoint(folder, overrides=overrides)
    with _made_aside(out) as aside:
        _write_model_files(checkpoint, aside)
        checkpoint.model.to(DTYPES[precision])
        names = {}
        for graph in graphs(checkpoint.model):
            on_step(graph.name)
            names[graph.name] = f"{graph.name}.onnx"
            write(graph, aside / names[graph.name])
        manifest = Manifest(
            backend=target.backend,
            target=target.name,
            precision=precision,
            compat=checkpoint.config.compat,
            checkpoint=_weights_hash(folder),
            graphs=names,
            files=describe_files(aside),
            versions={"llava_st_ros": __version__, **{name: version(name) for name in PACKAGES}},
        )
        manifest.write(aside)
        on_step("proof")
        engine = OnnxBackend(open_engine(aside, target.backend), device=target.device)
        proof = prove(TorchBackend(load_checkpoint(folder, overrides=overrides)), engine)
        check(proof, bounds)
        Manifest(**{**vars(manifest), "proof": proof.values()}).write(aside)
    return proof


def verify(folder: Path, source: Path, *, device: str | None = None) -> tuple[Proof, list[str]]:
    """The proof of an engine directory measured anew against the checkpoint it was made from, and
    what of it lies beyond the target's bounds.

    Raises EngineError where the directory is not whole or was made from other weights.
    """
    manifest = read_manifest(folder)
    weights = _weights_hash(source)
    if weights != manifest.checkpoint:
        raise EngineError(
            f"{source}: weights {weights[:12]}",
            f"{manifest.checkpoint[:12]}, from which {folder} was made",
            "name that checkpoint, or export this one",
        )
    target = read_target(manifest.target)
    engine = OnnxBackend(open_engine(folder, manifest.backend), device=device or target.device)
    proof = prove(TorchBackend(load_checkpoint(source)), engine)
    return proof, proof.problems(target.bounds(manifest.precision))


def _weights_hash(folder: Path) -> str:
    return sha256_of(*sorted(set(find_tensors(folder).files.values())))


def _write_model_files(checkpoint: Checkpoint, folder: Path) -> None:
    values = write_config(checkpoint.config)
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    tables = {axis: checkpoint.model.table(axis, "input").weight.detach().numpy() for axis in AXES}
    save_file(tables, folder / COORDINATES)
    (folder / COORDINATES).chmod(0o644)  # safetensors lets nobody else read it


@contextmanager
def _made_aside(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its name and place if the block ends well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise DataError(
            f"{out}: {error.strerror}", "a folder to write to", "name another"
        ) from None
    try:
        yield aside
        aside.chmod(0o755)
        old = aside.with_name(f"{aside.name}-old")
        if out.exists():
            os.replace(out, old)
        os.replace(aside, out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{out}: {error.strerror or error}",
            "room for the engines",
            "free some, or name another",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
