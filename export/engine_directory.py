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
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
import onnxscript
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from llava_st_ros import __version__
from llava_st_ros.atomic_files import atomic_folder
from llava_st_ros.backends import needed_tokenizer, run_engine
from llava_st_ros.backends.engine_files import COORDINATES, open_engine
from llava_st_ros.backends.onnxruntime import NAME as ONNXRUNTIME
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.checkpoint_config import write_config
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.manifest import NAME as MANIFEST
from llava_st_ros.engine.manifest import (
    Manifest,
    describe_files,
    fingerprint,
    is_engine_directory,
    read_manifest,
)
from llava_st_ros.errors import ConfigError, DataError, EngineError
from llava_st_ros.evaluation.simulated import ClipQuestions
from llava_st_ros.export.calibration import Questions, record
from llava_st_ros.export.onnx import graphs, write
from llava_st_ros.export.quantize import Dialect, quantize_int4, quantize_int8
from llava_st_ros.export.runtimes import runtime_of
from llava_st_ros.export.target import Bounds, Target, read_target
from llava_st_ros.export.validate.accuracy import Answers, answer, compare_answers, simulated_clips
from llava_st_ros.export.validate.bisect import bisect
from llava_st_ros.export.validate.proof import Observation, Proof, check, compare, observe
from llava_st_ros.model.checkpoint import DTYPES, Checkpoint, load_checkpoint

INT8, INT4 = "int8", "int4"
QUANTISED = (INT8, INT4)
PACKAGES = (torch, onnx, onnxruntime, onnxscript)


def export_checkpoint(
    folder: Path,
    target: Target,
    precision: str,
    out: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    plugins: Path | None = None,
    questions: Questions | None = None,
    clips: int = 0,
    locate: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Proof:
    """Export ``folder`` for ``target`` into ``out``, and prove it. Returns the proof.

    ``overrides`` are those of ``load_checkpoint``; ``device`` is where the proof runs, the target's
    own unless given; ``plugins`` is TensorRT's library of the packer's plugin, without which its
    nodes are of TensorRT's own operators; int8 takes its scales from ``questions``; the proof asks
    about ``clips`` simulated clips too; with ``locate`` a failure names the nodes where graphs
    part from float32 (ONNX Runtime's targets only); ``on_step`` is told what begins. An engine
    directory at ``out`` is replaced, anything else there refused. Raises CheckpointError,
    ConfigError, BackendError where the runtime or the device is not there, DataError where ``out``
    cannot be written, EngineError where TensorRT does not build the engines or they are beyond the
    target's bounds.
    """
    bounds = target.bounds(precision)
    if locate:
        _check_onnx(target.backend)
    runtime = runtime_of(target, device or target.device, plugins)  # before the work
    _check_place(out)
    if precision == INT8 and questions is None:
        raise ConfigError(
            "int8 without questions; expected some to take scales from", "give questions"
        )
    checkpoint = load_checkpoint(folder, overrides=overrides, dtype=dtype_of(target, precision))
    config = checkpoint.config
    if precision == INT8 or clips:
        needed_tokenizer(checkpoint.tokenizer, folder)
    with _to_disk(out), atomic_folder(out) as aside:
        _write_model_files(checkpoint, aside)
        manifest = Manifest(
            backend=target.backend,
            target=target.name,
            precision=precision,
            compat=config.compat,
            checkpoint=fingerprint(folder),
            graphs=write_graphs(checkpoint, aside, on_step),
            files={},  # of which some are still to be exchanged
            versions={
                "llava_st_ros": __version__,
                **{package.__name__: package.__version__ for package in PACKAGES},
            },
        )
        del checkpoint  # the proof loads it again, in float32
        if precision in QUANTISED:
            on_step(precision)
            _quantize(aside, manifest, config.vocabulary, questions, runtime.dialect)
        on_step("engines")
        built = runtime.build(aside, manifest.graphs, config)
        manifest = replace(
            manifest,
            graphs=built.files,
            files=describe_files(aside),
            machine=built.machine,
            onnx=built.onnx,
        )
        manifest.write(aside)
        on_step("proof")
        proof = _prove(folder, overrides, aside, device or target.device, clips)
        failed = locate and proof.problems(bounds)
        check(proof, bounds, _divergences(aside, folder, bounds, overrides) if failed else ())
        replace(manifest, proof=proof.values()).write(aside)
    return proof


def dtype_of(target: Target, precision: str) -> torch.dtype:
    """What the graphs compute in; of a quantized precision, what is not quantized."""
    if precision in QUANTISED:
        precision = "float32" if target.device == "cpu" else "float16"
    return DTYPES[precision]


def write_graphs(
    checkpoint: Checkpoint, folder: Path, on_step: Callable[[str], None] = lambda step: None
) -> dict[str, str]:
    """The graphs of a checkpoint as ONNX files in ``folder``; each one's file by name."""
    names = {}
    for graph in graphs(checkpoint.model):
        on_step(graph.name)
        names[graph.name] = f"{graph.name}.onnx"
        write(graph, folder / names[graph.name])
    return names


def verify(
    folder: Path,
    source: Path,
    *,
    device: str | None = None,
    clips: int = 0,
    locate: bool = False,
) -> tuple[Proof, list[str]]:
    """The proof of an engine directory measured anew against the checkpoint it was made from, and
    what of it lies beyond the target's bounds. ``clips`` and ``locate`` as of
    ``export_checkpoint``.

    Raises EngineError where the directory is not whole or was made from other weights.
    """
    manifest = read_manifest(folder)
    if locate:
        _check_onnx(manifest.backend)
    if fingerprint(source) != manifest.checkpoint:
        raise EngineError(
            f"{source}: another checkpoint; expected the one from which {folder} was made",
            "name that checkpoint, or export this one",
        )
    target = read_target(manifest.target)
    bounds = target.bounds(manifest.precision)
    proof = _prove(source, None, folder, device or target.device, clips)
    problems = proof.problems(bounds)
    if locate and problems:
        problems += _divergences(folder, source, bounds, None)
    return proof, problems


def _check_onnx(backend: str) -> None:
    """EngineError unless the runtime's graphs can be looked into."""
    if backend != ONNXRUNTIME:
        raise EngineError(
            f"graphs of {backend} to look into; expected those of {ONNXRUNTIME}",
            "look into an export of the same precision for target cpu",
        )


def _divergences(
    folder: Path, source: Path, bounds: Bounds, overrides: Mapping[str, Any] | None
) -> list[str]:
    """Where the graphs of an engine directory for ONNX Runtime first part from those of its
    checkpoint in float32 by more than its bounds allow: a line each (see ``export.bisect``)."""
    with TemporaryDirectory(prefix="float32-") as aside:
        reference = Path(aside) / "engine"
        export_checkpoint(source, read_target("cpu"), "float32", reference, overrides=overrides)
        return list(bisect(reference, folder, bounds.relative))


def _quantize(
    folder: Path,
    manifest: Manifest,
    vocabulary: int,
    questions: Questions | None,
    dialect: Dialect,
) -> None:
    """The graphs in ``folder``, as they are in the manifest's precision."""
    if manifest.precision == INT4:
        quantize_int4(folder / manifest.graphs["language"], vocabulary, dialect)
        return
    assert questions is not None
    # Whatever will run them, here it is ONNX Runtime.
    replace(manifest, backend=ONNXRUNTIME, files=describe_files(folder)).write(folder)
    for name, feeds in record(folder, questions).items():
        quantize_int8(folder / manifest.graphs[name], feeds, vocabulary, dialect)


def _prove(
    source: Path, overrides: Mapping[str, Any] | None, folder: Path, device: str, clips: int
) -> Proof:
    """Of the engine directory against its checkpoint, one after the other in memory."""
    expected, answers, seen = _of_the_checkpoint(source, overrides, clips)
    files = open_engine(folder, read_manifest(folder).backend)
    engine = run_engine(files, device=device)
    proof = compare(expected, observe(engine, teacher_forced=expected.answers))
    if answers is None:
        return proof
    theirs = answer(engine, needed_tokenizer(files.tokenizer, folder), seen)
    return replace(proof, simulated=compare_answers(answers, theirs))


def _of_the_checkpoint(
    source: Path, overrides: Mapping[str, Any] | None, clips: int
) -> tuple[Observation, Answers | None, list[ClipQuestions]]:
    """What the checkpoint makes of the reference inputs and of so many simulated clips; and those
    clips. Nothing of the network is kept."""
    checkpoint = load_checkpoint(source, overrides=overrides)
    backend = TorchBackend(checkpoint)
    if not clips:
        return observe(backend), None, []
    tokenizer = needed_tokenizer(checkpoint.tokenizer, source)
    seen = simulated_clips(checkpoint.config, clips)
    return observe(backend), answer(backend, tokenizer, seen), seen


def _check_place(out: Path) -> None:
    """DataError unless ``out`` is free, or holds an engine directory and nothing else."""
    try:
        if not out.exists():
            return
        if out.is_mount():
            raise DataError(f"{out}: a mount point; expected a folder below it")
        found = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
        known = {MANIFEST, *read_manifest(out).files} if is_engine_directory(out) else set()
    except OSError as error:
        raise DataError(f"{out}: {error.strerror}; expected a folder to write to") from error
    except EngineError:
        known = set()
    if found - known:
        raise DataError(
            f"{out}: there already, with {sorted(found - known)[0]}"
            "; expected a new folder, or an engine directory to replace",
        )


def _write_model_files(checkpoint: Checkpoint, folder: Path) -> None:
    values = write_config(checkpoint.config)
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    tables = {
        axis.table: checkpoint.model.table(axis, "input").weight.detach().float().numpy()
        for axis in Axis
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
            f"{where}: {getattr(error, 'strerror', None) or error}"
            f"; expected room for the engines and leave to write {out}",
            "free some, or name another folder",
        ) from error
