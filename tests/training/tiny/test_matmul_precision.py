"""Matrix products in training: float32 on a CPU, and unchanged outside the context."""

from __future__ import annotations

import pytest
import torch

from llava_st_ros.training.tiny.matmul_precision import fast_matmul

CPU = torch.device("cpu")


def test_matmul_on_a_cpu_stays_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1024, 1024, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with fast_matmul(CPU):
        found = a @ b
    # Sums of 1,024 terms of size one: operands rounded to bfloat16 would give errors of 0.1.
    assert (found - exact).abs().max() < 2e-3


def test_previous_precision_is_restored_after_an_error() -> None:
    previous = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), fast_matmul(CPU):
        raise KeyError
    assert torch.get_float32_matmul_precision() == previous


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_f": True, "amx_bf16": False}, "medium"),
        ({"avx512_f": True, "amx_bf16": True}, "highest"),  # would round to bfloat16
        ({"avx512_f": False}, "highest"),
        ({"neon": True}, "highest"),
    ],
)
def test_precision_changes_only_on_a_cpu_that_does_not_round(
    able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    with fast_matmul(CPU):
        assert torch.get_float32_matmul_precision() == expected


def test_cuda_uses_tf32() -> None:
    with fast_matmul(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
