"""Backends: one protocol (``backends.base``) and the runtimes that implement it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.engine.manifest import is_engine_directory, read_manifest
from llava_st_ros.errors import BackendError, CheckpointError
from llava_st_ros.files.checksums import sha256_of

if TYPE_CHECKING:
    from llava_st_ros.backends.base import Backend
    from llava_st_ros.backends.engine_files import EngineFiles
    from llava_st_ros.backends.graph_backend import GraphBackend
    from llava_st_ros.text.tokenizer import Tokenizer

# Each backend's packages for pip. On JetPack, TensorRT comes with the system.
BACKENDS = {
    "torch": "torch transformers",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt cuda-bindings ml_dtypes",
}


def backend_of(path: Path) -> str:
    """Name the backend of a model folder: an engine directory's own, torch for a checkpoint."""
    return read_manifest(path).backend if is_engine_directory(path) else "torch"


def runtime_and_device(path: Path, name: str = "", device: str = "") -> tuple[str, str]:
    """Return the runtime and the device that ``load_backend`` uses for these arguments."""
    runtime = name or backend_of(path)
    return runtime, device or ("cuda" if runtime == "tensorrt" else "cpu")


def model_checksum(folder: Path) -> str:
    """Return the SHA-256 of a model folder.

    It is that of an engine directory's manifest, which has the checksums of its files, or that of
    all files of a checkpoint.

    Raises:
        CheckpointError: There is no such folder, or it has no model.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"no folder {folder}; expected a checkpoint folder or an engine directory"
        )
    if is_engine_directory(folder):
        return sha256_of(folder / "manifest.json")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json; expected a checkpoint folder or an engine directory"
        )
    names = sorted(path for path in folder.iterdir() if path.is_file())
    return sha256_of(*names, prefix="\n".join(path.name for path in names).encode())


def load_backend(
    path: str | Path,
    name: str = "",
    *,
    device: str = "",
    precision: str = "",
    threads: int = 0,
) -> tuple[Backend, Tokenizer]:
    """Load a checkpoint or an engine directory; the runtime's packages are imported on the call.

    Args:
        path: A checkpoint (runs in torch) or an engine directory (runs in the backend that it was
            exported for).
        name: The expected backend, one of BACKENDS; empty accepts the folder's own.
        device: "cpu", "cuda" or "cuda:N"; empty selects a GPU for TensorRT, else the CPU.
        precision: "float32" (default), "bfloat16" or "float16" for a checkpoint. The precision of
            an engine directory is fixed at its export.
        threads: CPU threads that one operation of the network may use; 0 is the runtime's default.

    Returns:
        The backend and the model's tokenizer.

    Raises:
        CheckpointError: The checkpoint is incomplete, or has no tokenizer.
        EngineError: The engine directory is incomplete, or was built for another machine.
        BackendError: The backend, device or precision is unknown or not available.
    """
    path = Path(path)
    if name and name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown; expected one of {', '.join(BACKENDS)}")
    engine = is_engine_directory(path)
    if not engine and name not in ("", "torch"):
        raise BackendError(
            f"{path} has no manifest.json, so backend {name} cannot run it",
            "export an engine directory with `llava-st export`",
        )
    try:
        if engine:
            return _load_engine(path, name, device, precision, threads)
        return _load_checkpoint(path, device or "cpu", precision or "float32", threads)
    except ImportError as error:
        runtime = backend_of(path)
        raise BackendError(
            f"{path} needs the packages of the {runtime} backend: {error}",
            f"pip install {BACKENDS[runtime]}",
        ) from error


def _load_checkpoint(
    path: Path, device: str, precision: str, threads: int
) -> tuple[Backend, Tokenizer]:
    from llava_st_ros.backends.torch import limit_threads, resolve_device
    from llava_st_ros.backends.torch_streaming import torch_backend_class
    from llava_st_ros.model.checkpoint import DTYPES, load_checkpoint

    if precision not in DTYPES:
        raise BackendError(f"precision is {precision!r}; expected one of {', '.join(DTYPES)}")
    resolve_device(device)
    if threads:
        limit_threads(threads)
    dtype = DTYPES[precision]
    checkpoint = load_checkpoint(path, device=device, dtype=dtype)
    tokenizer = require_tokenizer(checkpoint.tokenizer, path)
    backend_class = torch_backend_class(checkpoint.config)
    return backend_class(checkpoint, device=device, dtype=dtype), tokenizer


def _load_engine(
    path: Path, name: str, device: str, precision: str, threads: int
) -> tuple[Backend, Tokenizer]:
    manifest = read_manifest(path)
    if manifest.backend not in BACKENDS:
        raise BackendError(
            f"{path} is an engine directory for {manifest.backend}; expected onnxruntime or "
            "tensorrt",
            "load it with the version that exported it, or export the checkpoint again",
        )
    if precision not in ("", manifest.precision):
        raise BackendError(
            f"{path} was exported in {manifest.precision}, not in {precision}",
            f"leave the precision out, or export again with --precision {precision}",
        )
    from llava_st_ros.backends.engine_files import open_engine

    engine = open_engine(path, name or manifest.backend)
    tokenizer = require_tokenizer(engine.tokenizer, path)
    return create_engine_backend(engine, device=device, threads=threads), tokenizer


def create_engine_backend(
    engine: EngineFiles, *, device: str = "", threads: int = 0
) -> GraphBackend:
    """Create the backend of an engine directory.

    Unlike ``load_backend`` this needs no tokenizer, which a parity case lacks. ``device`` and
    ``threads`` are those of ``load_backend``.
    """
    if engine.manifest.backend == "tensorrt":
        from llava_st_ros.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(engine, device=device or "cuda")
    from llava_st_ros.backends.onnxruntime import OnnxBackend

    return OnnxBackend(engine, device=device or "cpu", threads=threads)


def require_tokenizer(tokenizer: Tokenizer | None, source: Path | str) -> Tokenizer:
    """Return the tokenizer; raise CheckpointError, naming ``source``, when it is None."""
    if tokenizer is None:
        raise CheckpointError(
            f"{source} has no tokenizer", "put its tokenizer.json next to the weights"
        )
    return tokenizer
