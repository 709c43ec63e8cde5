"""Tensors that claim to be on another device, to find what a GPU would reject on a machine without.

They are computed on the CPU. As on a GPU, operations that mix both devices raise, except copies,
zero-dimensional operands and CPU indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

OTHER = torch.device("meta")  # autograd runs it in the thread of the CPU
_MIXED = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
_INDEXED = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
_TO_HOST = {torch.ops.aten._local_scalar_dense.default}


class OtherTensor(Tensor):
    """A tensor of the other device around the CPU tensor ``inner``."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OtherTensor:
        made: OtherTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=OTHER,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


class _OtherDevice(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


class _PythonValues(TorchFunctionMode):
    """Tensors from and to Python values, which dispatch does not see."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device == OTHER:
            value = func(*args, **{**kwargs, "device": None})
            return value if isinstance(value, OtherTensor) else OtherTensor(value)
        if func is Tensor.tolist:
            return _inner(args[0]).tolist()
        return func(*args, **kwargs)


@contextmanager
def other_device() -> Iterator[None]:
    """Let factory functions with ``device=OTHER`` make OtherTensors within this block."""
    with _OtherDevice(), _PythonValues():
        yield


def to_other_device(module: nn.Module) -> nn.Module:
    """Move a module's parameters and buffers to the other device, in place."""
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            moved = nn.Parameter(OtherTensor(parameter.detach()), parameter.requires_grad)
            child.register_parameter(name, moved)
        for name, buffer in list(child.named_buffers(recurse=False)):
            persistent = name not in child._non_persistent_buffers_set
            child.register_buffer(name, OtherTensor(buffer), persistent)
    return module


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [t for t in tensors if not isinstance(t, OtherTensor) and t.ndim > 0]
    there = [t for t in tensors if isinstance(t, OtherTensor)]
    may_mix = func in _MIXED or (func in _INDEXED and isinstance(args[0], OtherTensor))
    if here and there and not may_mix:
        raise RuntimeError(f"{func} has tensors of two devices: {[t.shape for t in tensors]}")
    device = kwargs.get("device")
    if device is not None:
        is_there = torch.device(device) == OTHER
        kwargs = {**kwargs, "device": torch.device("cpu")}
    else:
        is_there = bool(there) and func not in _TO_HOST
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    result = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable:
        # In-place operations return the tensor that they changed.
        return args[0] if isinstance(result, Tensor) else result
    return tree_map(_wrapped, result) if is_there else result


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OtherTensor) else value


def _wrapped(value: Any) -> Any:
    return OtherTensor(value) if isinstance(value, Tensor) else value
