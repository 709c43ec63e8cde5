"""What runs the network: one protocol, several runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.errors import BackendError, CheckpointError

if TYPE_CHECKING:
    from llava_st_ros.backends.base import Backend
    from llava_st_ros.model.tokenizer import Tokenizer

BACKENDS = ("torch",)


def load_backend(
    path: str | Path,
    name: str = "torch",
    *,
    device: str = "cpu",
    precision: str = "float32",
    threads: int = 0,
) -> tuple[Backend, Tokenizer]:
    """Load a checkpoint folder into the backend ``name``, imported only now.

    ``precision`` is float32, bfloat16 or float16. ``threads`` is how many CPU threads this process
    may use for one operation of the network; 0 leaves it to the runtime (OMP_NUM_THREADS). Raises
    CheckpointError for a folder that is not whole (a tokenizer is needed), BackendError for an
    unknown backend, device or precision.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r}", f"one of {', '.join(BACKENDS)}", "choose one")
    from llava_st_ros.backends.torch import TorchBackend, check_device, limit_threads
    from llava_st_ros.model.checkpoint import DTYPES, load_checkpoint

    if precision not in DTYPES:
        raise BackendError(f"precision {precision!r}", f"one of {', '.join(DTYPES)}", "choose one")
    check_device(device)
    if threads:
        limit_threads(threads)
    dtype = DTYPES[precision]
    checkpoint = load_checkpoint(path, device=device, dtype=dtype)
    if checkpoint.tokenizer is None:
        raise CheckpointError(
            f"{path}: no tokenizer",
            "tokenizer.json beside the weights",
            "add the tokenizer's files",
        )
    return TorchBackend(checkpoint, device=device, dtype=dtype), checkpoint.tokenizer
