"""Registers the CUDA kernels (engine/native/kernels) with the packer's torch operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llava_st_ros.engine.kernel_library import SCALARS, KernelLibrary, find_kernels
from llava_st_ros.model.packer.gather_add_gelu import gather_add_gelu, gather_add_gelu_in_torch
from llava_st_ros.model.packer.region_attention import region_attention, region_attention_in_torch


def use_kernels(path: Path | None = None) -> bool:
    """Use the kernel library for region_attention and gather_add_gelu on CUDA tensors.

    Torch still computes what the kernels do not support: other dtypes and larger sizes. May be
    called again, also with another library.

    Args:
        path: The library; by default the one that ``find_kernels`` finds.

    Returns:
        Whether there is a library.

    Raises:
        EngineError: The file is not this version's library.
    """
    path = path or find_kernels()
    if path is None:
        return False
    kernels = CudaKernels(KernelLibrary(path))
    region_attention.register_kernel("cuda", kernels.region_attention)
    gather_add_gelu.register_kernel("cuda", kernels.gather_add_gelu)
    return True


class CudaKernels:
    """The two operators on CUDA tensors, on torch's current stream."""

    def __init__(self, library: KernelLibrary) -> None:
        self._library = library

    def region_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spatial_region: int,
        temporal_region: int,
        epsilon: float,
    ) -> torch.Tensor:
        """See ``model.packer.region_attention``."""
        frames, height, width, heads, embed_dim = query.shape
        frames, height = frames * temporal_region, height * spatial_region
        width *= spatial_region
        scalar = _scalar((query, key, value))
        if scalar is not None and key.shape == value.shape == (frames, height, width, embed_dim):
            # Flattened, because the heads may be the outermost axis in memory.
            queries, keys, values = map(_with_contiguous_rows, (query.flatten(0, 2), key, value))
            output = query.new_empty(query.shape)
            with torch.cuda.device(query.device):
                reason = self._library.region_attention(
                    (frames, height, width, heads, embed_dim, spatial_region, temporal_region),
                    epsilon,
                    scalar,
                    queries.data_ptr(),
                    queries.stride()[:-1],
                    keys.data_ptr(),
                    keys.stride()[:-1],
                    values.data_ptr(),
                    values.stride()[:-1],
                    output.data_ptr(),
                    torch.cuda.current_stream().cuda_stream,
                )
            if not reason:
                return output
        return region_attention_in_torch(
            query, key, value, spatial_region, temporal_region, epsilon
        )

    def gather_add_gelu(
        self,
        terms: Sequence[torch.Tensor],
        table: torch.Tensor,
        times: torch.Tensor,
        addend: torch.Tensor | None,
    ) -> torch.Tensor:
        """See ``model.packer.gather_add_gelu``. A time out of the table reads its nearest row."""
        rows, (table_rows, columns) = len(terms[0]), table.shape
        shape = (len(terms), rows, columns)
        addends = [] if addend is None else [addend]
        scalar = _scalar((table, *terms, *addends))
        if (
            scalar is not None
            and all(term.shape == shape[1:] for term in terms)
            and all(x.shape == shape for x in addends)
            and (times.dtype, times.device) == (torch.int64, table.device)
            and times.shape == shape[:1]
        ):
            # Copies, if any, must stay alive until the kernel is enqueued.
            tensors = [x.contiguous() for x in (table, times, *terms, *addends)]
            addresses = [x.data_ptr() for x in tensors]
            output = table.new_empty(shape)
            with torch.cuda.device(table.device):
                reason = self._library.gather_add_gelu(
                    (*shape, table_rows),
                    scalar,
                    terms=addresses[2 : 2 + len(terms)],
                    table=addresses[0],
                    times=addresses[1],
                    addend=0 if addend is None else addresses[-1],
                    output=output.data_ptr(),
                    stream=torch.cuda.current_stream().cuda_stream,
                )
            if not reason:
                return output
        return gather_add_gelu_in_torch(terms, table, times, addend)


def _scalar(tensors: Sequence[torch.Tensor]) -> int | None:
    """The library's number of the common dtype; None if dtypes or devices differ."""
    dtype, device = tensors[0].dtype, tensors[0].device
    if any((x.dtype, x.device) != (dtype, device) for x in tensors):
        return None
    return SCALARS.get(str(dtype).removeprefix("torch."))


def _with_contiguous_rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
