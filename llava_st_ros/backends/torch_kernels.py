"""The package's CUDA kernels (engine/native/kernels) behind the torch operators of the packer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llava_st_ros.engine.kernel_library import SCALARS, KernelLibrary, find_kernels
from llava_st_ros.model.packer.late_gelu import late_gelu, late_gelu_in_torch
from llava_st_ros.model.packer.region_attention import region_attention, region_attention_in_torch


def use_kernels(path: Path | None = None) -> bool:
    """From now on compute region_attention and late_gelu on CUDA tensors by the library at
    ``path``, or else by the one that ``find_kernels`` finds; whether there is one.

    What the kernels do not take (other dtypes, sizes beyond theirs) torch's operators still
    compute. May be called again, with another library too. Raises EngineError for a file that is
    not this version's library.
    """
    path = path or find_kernels()
    if path is None:
        return False
    kernels = CudaKernels(KernelLibrary(path))
    region_attention.register_kernel("cuda", kernels.region_attention)
    late_gelu.register_kernel("cuda", kernels.late_gelu)
    return True


class CudaKernels:
    """The two operators on CUDA tensors, by a library's kernels, on torch's current stream."""

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
        """``model.region_attention.region_attention``."""
        frames, height, width, heads, wide = query.shape
        grid = (frames * temporal_region, height * spatial_region, width * spatial_region, wide)
        scalar = _scalar((query, key, value))
        if scalar is not None and key.shape == value.shape == grid:
            # A view of queries whose heads are outermost in memory, too.
            queries, keys, values = map(_in_rows, (query.flatten(0, 2), key, value))
            output = query.new_empty(query.shape)
            with torch.cuda.device(query.device):
                refused = self._library.region_attention(
                    (*grid[:3], heads, wide, spatial_region, temporal_region),
                    epsilon,
                    scalar,
                    *(queries.data_ptr(), queries.stride()[:-1]),
                    *(keys.data_ptr(), keys.stride()[:-1]),
                    *(values.data_ptr(), values.stride()[:-1]),
                    *(output.data_ptr(), torch.cuda.current_stream().cuda_stream),
                )
            if not refused:
                return output
        return region_attention_in_torch(
            query, key, value, spatial_region, temporal_region, epsilon
        )

    def late_gelu(
        self,
        terms: Sequence[torch.Tensor],
        table: torch.Tensor,
        times: torch.Tensor,
        addend: torch.Tensor | None,
    ) -> torch.Tensor:
        """``model.late_gelu.late_gelu``; of times beyond the table the nearest row is taken."""
        rows, (table_rows, wide) = len(terms[0]), table.shape
        shape = (len(terms), rows, wide)
        added = [] if addend is None else [addend]
        scalar = _scalar((table, *terms, *added))
        if (
            scalar is not None
            and all(term.shape == shape[1:] for term in terms)
            and all(x.shape == shape for x in added)
            and (times.dtype, times.device) == (torch.int64, table.device)
            and times.shape == shape[:1]
        ):
            whole = [x.contiguous() for x in (table, times, *terms, *added)]  # held to the end
            addresses = [x.data_ptr() for x in whole]
            output = table.new_empty(shape)
            with torch.cuda.device(table.device):
                refused = self._library.late_gelu(
                    (*shape, table_rows),
                    scalar,
                    addresses[2 : 2 + len(terms)],
                    *addresses[:2],
                    0 if addend is None else addresses[-1],
                    *(output.data_ptr(), torch.cuda.current_stream().cuda_stream),
                )
            if not refused:
                return output
        return late_gelu_in_torch(terms, table, times, addend)


def _scalar(tensors: Sequence[torch.Tensor]) -> int | None:
    """The library's number of the tensors' dtype, where they have one it knows, on one device."""
    dtype, device = tensors[0].dtype, tensors[0].device
    if any((x.dtype, x.device) != (dtype, device) for x in tensors):
        return None
    return SCALARS.get(str(dtype).removeprefix("torch."))


def _in_rows(x: torch.Tensor) -> torch.Tensor:
    """With the elements of a row side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()
