"""GELU of a sum of which a part is late: what a frame's first Linear gave, known when the frame
came, plus the row of its time index.

With LAPE taken through the first Linear (``model.streaming_packer``) this stands between the kept
terms and the second Linear. For torch it is one operator, so that on a GPU the CUDA kernel of this
project (``backends.torch_kernels``) does in one pass what torch's operators do in four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def late_gelu_in_torch(
    terms: Sequence[torch.Tensor],
    table: torch.Tensor,
    times: torch.Tensor,
    addend: torch.Tensor | None,
) -> torch.Tensor:
    """GELU(terms[i] + table[times[i]] + addend[i]) of K frames, 1 or more -> [K, k, W].

    ``terms`` [k, W] of each frame; ``table`` [T, W]; ``times`` i64 [K], rows of the table;
    ``addend`` [K, k, W].
    """
    return torch.ops.aten.gelu_(late_sum(terms, table, times, addend))


late_gelu = torch.library.custom_op("llava_st::late_gelu", late_gelu_in_torch, mutates_args=())


@late_gelu.register_fake
def _(terms: Sequence[torch.Tensor], table: torch.Tensor, *others: object) -> torch.Tensor:
    return table.new_empty((len(terms), *terms[0].shape))


def late_sum(
    terms: Sequence[torch.Tensor],
    table: torch.Tensor,
    times: torch.Tensor,
    addend: torch.Tensor | None,
) -> torch.Tensor:
    """``late_gelu`` before its GELU; new memory."""
    total = torch.stack(tuple(terms)).add_(table[times].unsqueeze(1))
    return total if addend is None else total.add_(addend)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    terms, *others = inputs
    ctx.save_for_backward(*others, *terms)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    table, times, addend, *terms = ctx.saved_tensors
    gradient = torch.ops.aten.gelu_backward(gradient, late_sum(terms, table, times, addend))
    rows = torch.zeros_like(table).index_add(0, times, gradient.sum(1))
    return list(gradient.unbind()), rows, None, None if addend is None else gradient


late_gelu.register_autograd(_backward, setup_context=_keep)
