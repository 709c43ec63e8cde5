"""Safetensors files, opened with NumPy or with torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.files.checksums import check_seal


class TensorFile:
    """An open safetensors file, whose header was checked by safetensors.

    Attributes:
        path: The file.
        names: The names of the tensors, in the file's order.
        metadata: The text values of the header.
    """

    def __init__(self, path: Path, file: Any, error: type[LlavaStError], remedy: str) -> None:
        self.path = path
        self._file, self._error, self._remedy = file, error, remedy
        self.names: tuple[str, ...] = tuple(file.keys())
        self.metadata: dict[str, str] = dict(file.metadata() or {})

    def header(self, name: str) -> tuple[tuple[int, ...], str]:
        """The shape and the dtype, as safetensors spells it ("F16"), of a tensor."""
        part = self._file.get_slice(name)
        return tuple(part.get_shape()), part.get_dtype()

    def tensor(self, name: str) -> Any:
        """A tensor: a NumPy array or a torch tensor, memory-mapped by torch."""
        try:
            return self._file.get_tensor(name)
        except Exception as problem:  # NumPy lacks dtypes such as bfloat16: TypeError and others
            raise self._error(
                f"{self.path}: cannot read tensor {name[:80]}: {reason_of(problem)}", self._remedy
            ) from problem


@contextmanager
def open_tensors(
    path: Path, error: type[LlavaStError], remedy: str = "", *, framework: str = "np"
) -> Iterator[TensorFile]:
    """Open a safetensors file.

    Args:
        path: The file.
        error: The class of the error to raise.
        remedy: What the user can do about a file that cannot be read.
        framework: "np" for NumPy arrays or "pt" for torch tensors on the CPU.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, is truncated or is not safetensors.
    """
    try:
        with path.open("rb"):
            pass
    except (OSError, ValueError) as problem:  # ValueError: the path has a NUL or a lone surrogate
        raise error(f"cannot read {path}: {reason_of(problem)}", remedy) from problem
    try:
        opened = safe_open(str(path), framework=framework)
        file = opened.__enter__()
    except Exception as problem:  # SafetensorError, and errors of torch's storage
        raise error(
            f"{path} is truncated or not a safetensors file: {reason_of(problem)}", remedy
        ) from problem
    try:
        yield TensorFile(path, file, error, remedy)
    finally:
        opened.__exit__(None, None, None)


def read_tensors(
    path: Path, error: type[LlavaStError], remedy: str = "", *, framework: str = "np"
) -> dict[str, Any]:
    """Read all tensors of a safetensors file, by name; check its checksum if it is sealed.

    Raises ``error`` like ``open_tensors``.
    """
    with open_tensors(path, error, remedy, framework=framework) as file:
        check_seal(path, file.metadata, error)
        return {name: file.tensor(name) for name in file.names}
