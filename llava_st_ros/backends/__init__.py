"""What runs the network: one protocol, several runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.engine.manifest import is_engine_directory, read_manifest
from llava_st_ros.errors import BackendError, CheckpointError

if TYPE_CHECKING:
    from llava_st_ros.backends.base import Backend
    from llava_st_ros.backends.engine_files import EngineFiles
    from llava_st_ros.backends.graph_backend import GraphBackend
    from llava_st_ros.text.tokenizer import Tokenizer

# By name the packages that pip installs for it; JetPack brings its own TensorRT.
BACKENDS = {
    "torch": "torch transformers",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt cuda-bindings ml_dtypes",
}


def backend_of(path: Path) -> str:
    """The backend that a model's folder says: of an engine directory its own, else torch."""
    return read_manifest(path).backend if is_engine_directory(path) else "torch"


def load_backend(
    path: str | Path,
    name: str = "",
    *,
    device: str = "",
    precision: str = "",
    threads: int = 0,
) -> tuple[Backend, Tokenizer]:
    """Load a checkpoint or an engine directory into a backend, which is imported only now.

    The folder says which: a checkpoint runs in torch, an engine directory in what it was exported
    for; a ``name`` must agree. ``device`` is cpu, cuda or cuda:N; left empty, a GPU for TensorRT
    and the CPU for the others. ``precision`` is float32 (default), bfloat16 or float16 of a
    checkpoint; an engine has its own. ``threads`` is how many CPU threads this process may use for
    one operation of the network; 0 leaves it to the runtime. Raises CheckpointError or EngineError
    for a folder that is not whole (a tokenizer is needed) or for another machine, BackendError for
    an unknown backend, device or precision.
    """
    path = Path(path)
    if name and name not in BACKENDS:
        raise BackendError(f"backend {name!r}; expected one of {', '.join(BACKENDS)}")
    engine = is_engine_directory(path)
    if not engine and name not in ("", "torch"):
        raise BackendError(
            f"backend {name} for {path}, which has no manifest.json; expected an engine directory",
            "make one with `llava-st export`",
        )
    try:
        if engine:
            return _load_engine(path, name, device, precision, threads)
        return _load_checkpoint(path, device or "cpu", precision or "float32", threads)
    except ImportError as error:
        runtime = backend_of(path)
        raise BackendError(
            f"{path}: {error}; expected the packages of the {runtime} backend",
            f"pip install {BACKENDS[runtime]}",
        ) from error


def _load_checkpoint(
    path: Path, device: str, precision: str, threads: int
) -> tuple[Backend, Tokenizer]:
    from llava_st_ros.backends.torch import check_device, limit_threads
    from llava_st_ros.backends.torch_streaming import faster_backend
    from llava_st_ros.model.checkpoint import DTYPES, load_checkpoint

    if precision not in DTYPES:
        raise BackendError(f"precision {precision!r}; expected one of {', '.join(DTYPES)}")
    check_device(device)
    if threads:
        limit_threads(threads)
    dtype = DTYPES[precision]
    checkpoint = load_checkpoint(path, device=device, dtype=dtype)
    tokenizer = needed_tokenizer(checkpoint.tokenizer, path)
    backend = faster_backend(checkpoint.config)
    return backend(checkpoint, device=device, dtype=dtype), tokenizer


def _load_engine(
    path: Path, name: str, device: str, precision: str, threads: int
) -> tuple[Backend, Tokenizer]:
    manifest = read_manifest(path)
    if manifest.backend not in BACKENDS:
        raise BackendError(
            f"{path}: an engine directory for {manifest.backend}"
            "; expected one for onnxruntime or tensorrt",
            "use the version that made it, or export again",
        )
    if precision not in ("", manifest.precision):
        raise BackendError(
            f"precision {precision} for {path}, which is {manifest.precision}"
            "; expected the precision of its export, or none",
            f"export again with --precision {precision}",
        )
    from llava_st_ros.backends.engine_files import open_engine

    engine = open_engine(path, name or manifest.backend)
    tokenizer = needed_tokenizer(engine.tokenizer, path)
    return run_engine(engine, device=device, threads=threads), tokenizer


def run_engine(engine: EngineFiles, *, device: str = "", threads: int = 0) -> GraphBackend:
    """What runs the files of an engine directory, ``device`` and ``threads`` as of
    ``load_backend``; without a tokenizer too, which a parity case has not."""
    if engine.manifest.backend == "tensorrt":
        from llava_st_ros.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(engine, device=device or "cuda")
    from llava_st_ros.backends.onnxruntime import OnnxBackend

    return OnnxBackend(engine, device=device or "cpu", threads=threads)


def needed_tokenizer(tokenizer: Tokenizer | None, of: Path | str) -> Tokenizer:
    """Raises CheckpointError where there is none."""
    if tokenizer is None:
        raise CheckpointError(
            f"{of}: no tokenizer; expected tokenizer.json beside the weights",
            "add the tokenizer's files",
        )
    return tokenizer
