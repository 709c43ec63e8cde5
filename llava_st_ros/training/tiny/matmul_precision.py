"""The precision of float32 matrix products while a model is trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Use the fastest matrix products that ``device`` has for float32.

    CUDA: TF32. x86 with AVX-512 and without AMX: torch's "medium" precision, which selects oneDNN
    instead of MKL. It still computes in float32, and is twice as fast on AMD processors, for which
    MKL does not use AVX-512. With AMX, and on Arm, "medium" would round operands to bfloat16, so
    the precision is not changed there.
    """
    previous = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    elif device.type == "cpu" and _has_avx512_without_amx():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


def _has_avx512_without_amx() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_f")) and not capabilities.get("amx_bf16")
