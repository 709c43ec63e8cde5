"""The operator ``llava_st::gather_add_gelu``: GELU of frames' terms plus their rows of a table.

The streaming packer (``model.packer.streaming``) splits the first Linear of a frame's tokens into a
term that is computed when the frame arrives and a table row that depends on its time index. This
operator joins the two. It is one operator of torch, so that on a GPU this project's CUDA kernel
(``backends.torch_kernels``) does in one pass over memory what torch does in four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def gather_add_gelu_in_torch(
    terms: Sequence[torch.Tensor],
    table: torch.Tensor,
    times: torch.Tensor,
    addend: torch.Tensor | None,
) -> torch.Tensor:
    """Compute GELU(terms[i] + table[times[i]] + addend[i]) for K frames.

    Args:
        terms: A tensor [k, W] per frame; at least one.
        table: [T, W].
        times: Each frame's row of the table, i64 [K].
        addend: [K, k, W], or None.

    Returns:
        [K, k, W].
    """
    return torch.ops.aten.gelu_(gather_add(terms, table, times, addend))


gather_add_gelu = torch.library.custom_op(
    "llava_st::gather_add_gelu", gather_add_gelu_in_torch, mutates_args=()
)


@gather_add_gelu.register_fake
def _(terms: Sequence[torch.Tensor], table: torch.Tensor, *others: object) -> torch.Tensor:
    return table.new_empty((len(terms), *terms[0].shape))


def gather_add(
    terms: Sequence[torch.Tensor],
    table: torch.Tensor,
    times: torch.Tensor,
    addend: torch.Tensor | None,
) -> torch.Tensor:
    """Compute terms[i] + table[times[i]] + addend[i] in new memory; see ``gather_add_gelu``."""
    total = torch.stack(tuple(terms)).add_(table[times].unsqueeze(1))
    return total if addend is None else total.add_(addend)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    terms, *others = inputs
    ctx.save_for_backward(*others, *terms)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    table, times, addend, *terms = ctx.saved_tensors
    gradient = torch.ops.aten.gelu_backward(gradient, gather_add(terms, table, times, addend))
    rows = torch.zeros_like(table).index_add(0, times, gradient.sum(1))
    return list(gradient.unbind()), rows, None, None if addend is None else gradient


gather_add_gelu.register_autograd(_backward, setup_context=_setup_context)
