"""Files of ``torch.save`` that hold named tensors; no code in them is run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_st_ros.errors import LlavaStError, reason_of


def read_pickle(path: Path, error: type[LlavaStError]) -> dict[str, Tensor]:
    """Read a file of ``torch.save`` that holds named tensors and nothing else.

    Args:
        path: The file.
        error: The class of the error to raise.

    Returns:
        The tensors on the CPU by name, memory-mapped where the format allows it.

    Raises:
        LlavaStError: An ``error``: the file is damaged or holds anything else.
    """
    # A damaged file makes the unpickler raise errors of almost every type, and warnings.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = _load(path)
    except OSError as problem:
        raise _not_tensors(path, f"cannot be read ({reason_of(problem)})", error) from problem
    except Exception as problem:
        raise _not_tensors(path, "contains more than tensors, or is damaged", error) from problem
    if not isinstance(loaded, Mapping):
        raise _not_tensors(path, f"contains a {type(loaded).__name__}", error)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _not_tensors(
                path, f"contains {str(name)[:80]!r} of type {type(value).__name__}", error
            )
        _check_dense(path, name, value, error)
    return {name: value.detach() for name, value in loaded.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # torch.save's legacy format cannot be memory-mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_dense(path: Path, name: str, value: Tensor, error: type[LlavaStError]) -> None:
    """Raise ``error`` unless the file contains every element of a tensor."""
    is_dense = value.layout is torch.strided and value.device.type == "cpu"
    # Strides of 0 make a tensor of any size out of one element.
    if not is_dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise _not_tensors(path, f"has not all elements of {name[:80]}", error)


def _not_tensors(path: Path, problem: str, error: type[LlavaStError]) -> LlavaStError:
    return error(
        f"{path} {problem}; expected named tensors and nothing else, as a pickle can run any code"
    )
