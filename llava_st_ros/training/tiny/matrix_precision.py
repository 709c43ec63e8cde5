"""How float32 matrices are multiplied while a model is trained from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Within the block products of matrices are as fast as ``device`` has them for float32.

    On CUDA they are TF32. On x86 with AVX-512 torch's "medium" precision means oneDNN in the place
    of MKL, which has no AVX-512 for AMD's processors: twice as fast there, and still float32. With
    AMX it would mean operands rounded to bfloat16, and so on Arm: these keep what they have.
    """
    usual = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    elif device.type == "cpu" and _wide_without_amx():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)


def _wide_without_amx() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_f")) and not able.get("amx_bf16")
