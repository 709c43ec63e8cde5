"""Export a checkpoint to an engine directory, and verify an existing one.

An engine directory holds the graphs, the files that a backend needs besides them, and a manifest
with the proof. It is written to a temporary folder and renamed once the proof has passed, so an
interrupted export leaves nothing behind and a running node never reads a partial directory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from llava_st_ros.backends import require_tokenizer
from llava_st_ros.backends.engine_files import COORDINATES
from llava_st_ros.backends.onnxruntime import NAME as ONNXRUNTIME
from llava_st_ros.checkpoint_config import write_config
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.manifest import NAME as MANIFEST
from llava_st_ros.engine.manifest import (
    Manifest,
    check_checkpoint,
    describe_files,
    fingerprint,
    is_engine_directory,
    read_manifest,
)
from llava_st_ros.errors import ConfigError, DataError, EngineError, reason_of
from llava_st_ros.export.calibration import CalibrationQueries, record_inputs
from llava_st_ros.export.onnx_export import export_graph, graph_specs
from llava_st_ros.export.quantize import quantize_int4, quantize_int8
from llava_st_ros.export.runtimes import export_runtime
from llava_st_ros.export.target import Bounds, Target, read_target
from llava_st_ros.export.validate.first_divergence import first_divergences
from llava_st_ros.export.validate.measure import measure_proof
from llava_st_ros.export.validate.proof import Proof, check_bounds
from llava_st_ros.model.checkpoint import DTYPES, Checkpoint, load_checkpoint

INT8, INT4 = "int8", "int4"
QUANTIZED = (INT8, INT4)
PACKAGES = (torch, onnx, onnxruntime, onnxscript)  # versions recorded in the manifest


@dataclass(frozen=True)
class ExportRequest:
    """What to export, for which target, and how to prove it.

    Attributes:
        checkpoint: Folder of the checkpoint.
        target: Machine and runtime to export for.
        precision: Precision of the engine, one of the target's.
        out: Engine directory to write. An engine directory there is replaced; anything else there
            is an error.
        overrides: Config values that replace the checkpoint's, as in ``load_checkpoint``.
        device: Device that runs the proof; empty: the target's.
        plugins: TensorRT plugin library for the packer's region attention. Without it the packer
            uses TensorRT's own operators.
        calibration: Queries that int8 is calibrated with; required for int8.
        simulated_clips: Number of simulated clips that the proof answers as well.
        find_divergence: If the proof exceeds the bounds, report the first node of each graph that
            differs from float32. ONNX Runtime targets only.
    """

    checkpoint: Path
    target: Target
    precision: str
    out: Path
    overrides: Mapping[str, Any] | None = None
    device: str = ""
    plugins: Path | None = None
    calibration: CalibrationQueries | None = None
    simulated_clips: int = 0
    find_divergence: bool = False


def export_checkpoint(
    request: ExportRequest, on_step: Callable[[str], None] = lambda step: None
) -> Proof:
    """Export a checkpoint to an engine directory and prove it against the torch reference.

    Args:
        request: What to export.
        on_step: Called with the name of each step before it starts.

    Returns:
        The proof, which is also stored in the manifest.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        ConfigError: The request is not valid.
        BackendError: The target's runtime or device is missing.
        DataError: ``request.out`` cannot be written.
        EngineError: TensorRT cannot build the engines, or the proof exceeds the target's bounds.
    """
    return _Export(request, on_step).run()


class _Export:
    """One export: a method per step, run in order by ``run``."""

    def __init__(self, request: ExportRequest, on_step: Callable[[str], None]) -> None:
        """Check the request before any work is done."""
        self._request, self._on_step = request, on_step
        target = request.target
        self._device = request.device or target.device
        self._bounds = target.bounds(request.precision)
        if request.find_divergence:
            _require_onnxruntime(target.backend)
        self._runtime = export_runtime(target, self._device, request.plugins)
        _check_out(request.out)
        if request.precision == INT8 and request.calibration is None:
            raise ConfigError("int8 requires calibration queries", "pass queries to calibrate with")

    def run(self) -> Proof:
        checkpoint = self._load()
        config = checkpoint.config
        with _as_data_error(self._request.out), atomic_folder(self._request.out) as folder:
            manifest = self._write_graphs(checkpoint, folder)
            del checkpoint  # the proof loads it again, in float32
            self._quantize(folder, manifest, config)
            manifest = self._build(folder, manifest, config)
            proof = self._prove(folder)
            replace(manifest, proof=proof.as_dict()).write(folder)
        return proof

    def _load(self) -> Checkpoint:
        request = self._request
        dtype = compute_dtype(request.target, request.precision)
        checkpoint = load_checkpoint(request.checkpoint, overrides=request.overrides, dtype=dtype)
        if request.precision == INT8 or request.simulated_clips:
            require_tokenizer(checkpoint.tokenizer, request.checkpoint)
        return checkpoint

    def _write_graphs(self, checkpoint: Checkpoint, folder: Path) -> Manifest:
        """Write the ONNX graphs and the model's other files.

        The manifest has no files yet: later steps replace some of them.
        """
        request = self._request
        _write_model_files(checkpoint, folder)
        versions = {package.__name__: package.__version__ for package in PACKAGES}
        return Manifest(
            backend=request.target.backend,
            target=request.target.name,
            precision=request.precision,
            compat=checkpoint.config.compat,
            checkpoint=fingerprint(request.checkpoint),
            graphs=write_graphs(checkpoint, folder, self._on_step),
            files={},
            versions={"llava_st_ros": __version__, **versions},
        )

    def _quantize(self, folder: Path, manifest: Manifest, config: ModelConfig) -> None:
        precision, calibration = self._request.precision, self._request.calibration
        if precision not in QUANTIZED:
            return
        self._on_step(precision)
        scheme = self._runtime.quantization
        if precision == INT4:
            quantize_int4(folder / manifest.graphs["language"], config.vocabulary, scheme)
            return
        assert calibration is not None  # checked in __init__
        # ONNX Runtime records the inputs, also for engines of another runtime.
        replace(manifest, backend=ONNXRUNTIME, files=describe_files(folder)).write(folder)
        for name, feeds in record_inputs(folder, calibration).items():
            quantize_int8(folder / manifest.graphs[name], feeds, config.vocabulary, scheme)

    def _build(self, folder: Path, manifest: Manifest, config: ModelConfig) -> Manifest:
        self._on_step("engines")
        built = self._runtime.build(folder, manifest.graphs, config)
        manifest = replace(
            manifest,
            graphs=built.files,
            files=describe_files(folder),
            machine=built.machine,
            onnx=built.onnx,
        )
        manifest.write(folder)
        return manifest

    def _prove(self, folder: Path) -> Proof:
        request = self._request
        self._on_step("proof")
        proof = measure_proof(
            request.checkpoint,
            folder,
            overrides=request.overrides,
            device=self._device,
            simulated_clips=request.simulated_clips,
        )
        divergences: list[str] = []
        if request.find_divergence and proof.violations(self._bounds):
            divergences = _divergences(folder, request.checkpoint, self._bounds, request.overrides)
        kept = f"{request.out} is unchanged" if request.out.exists() else "nothing was written"
        check_bounds(proof, self._bounds, divergences, kept)
        return proof


def compute_dtype(target: Target, precision: str) -> torch.dtype:
    """Return the dtype that graphs compute in; for int8 and int4, that of the unquantized part."""
    if precision in QUANTIZED:
        precision = "float32" if target.device == "cpu" else "float16"
    return DTYPES[precision]


def write_graphs(
    checkpoint: Checkpoint, folder: Path, on_step: Callable[[str], None] = lambda step: None
) -> dict[str, str]:
    """Write a checkpoint's graphs to ``folder`` as ONNX files.

    Returns:
        File name by graph name.
    """
    names = {}
    for spec in graph_specs(checkpoint.model):
        on_step(spec.name)
        names[spec.name] = f"{spec.name}.onnx"
        export_graph(spec, folder / names[spec.name])
    return names


def verify(
    folder: Path,
    checkpoint: Path,
    *,
    device: str = "",
    simulated_clips: int = 0,
    find_divergence: bool = False,
) -> tuple[Proof, list[str]]:
    """Measure the proof of an engine directory again, against the checkpoint it was made from.

    Args:
        folder: Engine directory.
        checkpoint: Folder of the checkpoint.
        device: See ``ExportRequest``.
        simulated_clips: See ``ExportRequest``.
        find_divergence: See ``ExportRequest``.

    Returns:
        The proof, and one line for each measure that exceeds the target's bounds.

    Raises:
        EngineError: The directory is incomplete or was made from other weights.
    """
    manifest = read_manifest(folder)
    if find_divergence:
        _require_onnxruntime(manifest.backend)
    check_checkpoint(folder, manifest, checkpoint)
    target = read_target(manifest.target)
    bounds = target.bounds(manifest.precision)
    proof = measure_proof(
        checkpoint, folder, device=device or target.device, simulated_clips=simulated_clips
    )
    violations = proof.violations(bounds)
    if find_divergence and violations:
        violations += _divergences(folder, checkpoint, bounds, None)
    return proof, violations


def _require_onnxruntime(backend: str) -> None:
    if backend != ONNXRUNTIME:
        raise EngineError(
            f"the nodes of {backend} engines cannot be compared one by one",
            "export the same precision for target cpu and compare that",
        )


def _divergences(
    folder: Path, checkpoint: Path, bounds: Bounds, overrides: Mapping[str, Any] | None
) -> list[str]:
    """Export the checkpoint in float32 and compare node by node; one line per divergent graph."""
    with TemporaryDirectory(prefix="float32-") as temporary:
        reference = Path(temporary) / "engine"
        export_checkpoint(
            ExportRequest(checkpoint, read_target("cpu"), "float32", reference, overrides)
        )
        return list(first_divergences(reference, folder, bounds.relative))


def _check_out(out: Path) -> None:
    """Raise DataError unless ``out`` is absent, empty or only an engine directory."""
    try:
        if not out.exists():
            return
        if out.is_mount():
            raise DataError(f"{out} is a mount point", "name a folder below it")
        found = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
        known = {MANIFEST, *read_manifest(out).files} if is_engine_directory(out) else set()
    except OSError as error:
        raise DataError(f"cannot write to {out}: {reason_of(error)}") from error
    except EngineError:
        known = set()
    if found - known:
        raise DataError(
            f"{out} exists already and contains {min(found - known)}",
            "name a new folder, or an engine directory to replace",
        )


def _write_model_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Write config.json, the tokenizer and the coordinate tables."""
    values = write_config(checkpoint.config)
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    tables = {
        axis.table: checkpoint.model.table(axis, "input").weight.detach().float().numpy()
        for axis in Axis
    }
    save_file(tables, folder / COORDINATES)
    (folder / COORDINATES).chmod(0o644)  # safetensors creates it readable by its owner only


@contextmanager
def _as_data_error(out: Path) -> Iterator[None]:
    """Turn write errors into a DataError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        path = getattr(error, "filename", None) or out
        raise DataError(
            f"cannot write {path}: {reason_of(error)}",
            "free disk space, or pass another --out",
        ) from error
