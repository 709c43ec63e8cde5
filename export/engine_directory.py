"""A checkpoint becomes an engine directory: graphs, what goes with them, and the proof.

The directory is made aside and takes its name once it is whole and proved, so that an interrupted
export leaves nothing and a running node never meets half of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxscript
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from llava_st_ros import __version__
from llava_st_ros.backends.engine_files import COORDINATES, open_engine
from llava_st_ros.backends.onnxruntime import OnnxBackend, check_device
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.engine.manifest import NAME as MANIFEST
from llava_st_ros.engine.manifest import (
    Manifest,
    describe_files,
    fingerprint,
    is_engine_directory,
    read_manifest,
)
from llava_st_ros.errors import DataError, EngineError
from llava_st_ros.export.onnx import graphs, write
from llava_st_ros.export.proof import Proof, check, prove
from llava_st_ros.export.target import Target, read_target
from llava_st_ros.model.checkpoint import DTYPES, Checkpoint, load_checkpoint
from llava_st_ros.model.geometry import write_config
from llava_st_ros.model.prompt_layout import AXES
from llava_st_ros.whole_files import whole_folder

PACKAGES = (torch, onnx, onnxruntime, onnxscript)


def export_checkpoint(
    folder: Path,
    target: Target,
    precision: str,
    out: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Proof:
    """Export ``folder`` for ``target`` into ``out``, and prove it. Returns the proof.

    ``overrides`` are those of ``load_checkpoint``; ``device`` is where the proof runs, the target's
    own unless given; ``on_step`` is told what begins. An engine directory at ``out`` is replaced,
    anything else there refused. Raises CheckpointError, ConfigError, BackendError where the device
    is not there, DataError where ``out`` cannot be written, EngineError where the engine is beyond
    the target's bounds.
    """
    bounds, device = target.bounds(precision), device or target.device
    check_device(device)  # before the work
    _check_place(out)
    checkpoint = load_checkpoint(folder, overrides=overrides, dtype=DTYPES[precision])
    made_from = fingerprint(folder)
    with _to_disk(out), whole_folder(out) as aside:
        _write_model_files(checkpoint, aside)
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
            checkpoint=made_from,
            graphs=names,
            files=describe_files(aside),
            versions={
                "llava_st_ros": __version__,
                **{package.__name__: package.__version__ for package in PACKAGES},
            },
        )
        manifest.write(aside)
        del checkpoint, graph  # the proof loads it again, in float32
        on_step("proof")
        engine = OnnxBackend(open_engine(aside, target.backend), device=device)
        proof = prove(TorchBackend(load_checkpoint(folder, overrides=overrides)), engine)
        check(proof, bounds)
        replace(manifest, proof=proof.values()).write(aside)
    return proof


def verify(folder: Path, source: Path, *, device: str | None = None) -> tuple[Proof, list[str]]:
    """The proof of an engine directory measured anew against the checkpoint it was made from, and
    what of it lies beyond the target's bounds.

    Raises EngineError where the directory is not whole or was made from other weights.
    """
    manifest = read_manifest(folder)
    if fingerprint(source) != manifest.checkpoint:
        raise EngineError(
            f"{source}: another checkpoint",
            f"the one from which {folder} was made",
            "name that checkpoint, or export this one",
        )
    target = read_target(manifest.target)
    engine = OnnxBackend(open_engine(folder, manifest.backend), device=device or target.device)
    proof = prove(TorchBackend(load_checkpoint(source)), engine)
    return proof, proof.problems(target.bounds(manifest.precision))


def _check_place(out: Path) -> None:
    """DataError unless ``out`` is free, or holds an engine directory and nothing else."""
    try:
        if not out.exists():
            return
        if out.is_mount():
            raise DataError(f"{out}: a mount point", "a folder below it", "name one")
        found = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
        known = {MANIFEST, *read_manifest(out).files} if is_engine_directory(out) else set()
    except OSError as error:
        raise DataError(
            f"{out}: {error.strerror}", "a folder to write to", "name another"
        ) from error
    except EngineError:
        known = set()
    if found - known:
        raise DataError(
            f"{out}: there already, with {sorted(found - known)[0]}",
            "a new folder, or an engine directory to replace",
            "name another",
        )


def _write_model_files(checkpoint: Checkpoint, folder: Path) -> None:
    values = write_config(checkpoint.config)
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    tables = {
        axis: checkpoint.model.table(axis, "input").weight.detach().float().numpy() for axis in AXES
    }
    save_file(tables, folder / COORDINATES)
    (folder / COORDINATES).chmod(0o644)  # safetensors lets nobody else read it


@contextmanager
def _to_disk(out: Path) -> Iterator[None]:
    """What the disk refuses becomes a DataError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        where = getattr(error, "filename", None) or out
        raise DataError(
            f"{where}: {getattr(error, 'strerror', None) or error}",
            f"room for the engines and leave to write {out}",
            "free some, or name another folder",
        ) from error
