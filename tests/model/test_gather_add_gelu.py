"""The operator gather_add_gelu: values, gradients, opcheck and torch.compile."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from llava_st_ros.model.packer.gather_add_gelu import gather_add_gelu

FRAMES, ROWS, COLUMNS, TIMES = 3, 2, 5, [3, 0, 3]


def inputs(dtype: torch.dtype = torch.float64, gradients: bool = False) -> tuple[Any, ...]:
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, requires_grad=gradients)

    terms = [random(ROWS, COLUMNS) for _ in range(FRAMES)]
    return terms, random(4, COLUMNS), torch.tensor(TIMES), random(FRAMES, ROWS, COLUMNS)


@pytest.mark.parametrize("with_addend", [False, True])
def test_values_are_gelu_of_the_sums(with_addend: bool) -> None:
    terms, table, times, addend = inputs()
    copies = [x.clone() for x in (*terms, table, addend)]
    result = gather_add_gelu(terms, table, times, addend if with_addend else None)
    assert result.shape == (FRAMES, ROWS, COLUMNS)
    for i, time in enumerate(TIMES):
        for row in range(ROWS):
            for column in range(COLUMNS):
                x = float(terms[i][row, column] + table[time, column])
                x += float(addend[i, row, column]) if with_addend else 0.0
                expected = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
                assert float(result[i, row, column]) == pytest.approx(expected, abs=1e-14)
    assert all(map(torch.equal, copies, (*terms, table, addend))), "inputs were changed"


def test_terms_may_be_strided() -> None:
    terms, table, times, _ = inputs()
    strided = [
        torch.zeros(COLUMNS, 2 * ROWS, dtype=table.dtype)[:, ::2].t().copy_(x) for x in terms
    ]
    assert not strided[0].is_contiguous()
    assert torch.equal(
        gather_add_gelu(strided, table, times, None), gather_add_gelu(terms, table, times, None)
    )


def test_gradients_match_finite_differences() -> None:
    terms, table, times, addend = inputs(gradients=True)

    def of(table: torch.Tensor, addend: torch.Tensor | None, *terms: torch.Tensor) -> torch.Tensor:
        return gather_add_gelu(terms, table, times, addend)

    assert torch.autograd.gradcheck(of, (table, addend, *terms))
    assert torch.autograd.gradgradcheck(of, (table, addend, *terms))
    assert torch.autograd.gradcheck(lambda table, *terms: of(table, None, *terms), (table, *terms))


@pytest.mark.parametrize("with_addend", [False, True])
def test_operator_passes_opcheck(with_addend: bool) -> None:
    terms, table, times, addend = inputs(torch.float32, gradients=True)
    torch.library.opcheck(gather_add_gelu, (terms, table, times, addend if with_addend else None))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_operator_compiles_without_graph_breaks(backend: str) -> None:
    terms, table, times, addend = inputs(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *arguments: gather_add_gelu(*arguments) * 2, fullgraph=True, backend=backend
    )
    with torch.inference_mode():
        expected = gather_add_gelu(terms, table, times, addend) * 2
        assert torch.equal(compiled(terms, table, times, addend), expected)
