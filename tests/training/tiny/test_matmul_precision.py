"""Products while training: as float32 as before on a CPU, and nobody else's products change."""

from __future__ import annotations

import pytest
import torch

from llava_st_ros.training.tiny.matmul_precision import fast_matmul

CPU = torch.device("cpu")


def test_products_on_a_cpu_stay_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1024, 1024, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with fast_matmul(CPU):
        found = a @ b
    # Sums of 1,024 terms of size one; operands rounded to bfloat16 would be off by a tenth.
    assert (found - exact).abs().max() < 2e-3


def test_the_usual_precision_comes_back_also_after_an_error() -> None:
    usual = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), fast_matmul(CPU):
        raise KeyError
    assert torch.get_float32_matmul_precision() == usual


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_f": True, "amx_bf16": False}, "medium"),
        ({"avx512_f": True, "amx_bf16": True}, "highest"),  # would round to bfloat16
        ({"avx512_f": False}, "highest"),
        ({"neon": True}, "highest"),
    ],
)
def test_only_a_cpu_that_does_not_round_multiplies_otherwise(
    able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    with fast_matmul(CPU):
        assert torch.get_float32_matmul_precision() == expected


def test_cuda_multiplies_in_tf32() -> None:
    with fast_matmul(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
