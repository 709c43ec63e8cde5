"""Builds the CUDA kernels, the TensorRT plugin and their C++ tests with CMake."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from support.paths import ROOT

NATIVE = ROOT / "engine" / "native"
BUILD = ROOT / "build" / "engine-tests"  # kept between runs: the kernels take a minute


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def header_options() -> list[str]:
    """Options for TensorRT's headers from the kernel_lens wheel; without it, CMake searches."""
    spec = importlib.util.find_spec("kernel_lens")
    if spec is None or spec.origin is None:
        return []
    return [f"-DTENSORRT_INCLUDE_DIR={Path(spec.origin).parent / 'include' / 'tensorrt'}"]


def build_native() -> Path:
    """Build both libraries and their tests; return the build folder. Skips if a tool is missing."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing")
    configured = run(
        "cmake",
        "-S",
        NATIVE,
        "-B",
        BUILD,
        "-DCMAKE_BUILD_TYPE=Release",
        "-DLLAVA_ST_ENGINE_TESTS=ON",
        "-DCMAKE_CUDA_ARCHITECTURES=87-real;90-real",
        *header_options(),
    )
    errors = " ".join(configured.stderr.split())
    if configured.returncode and " is missing; " in errors:
        pytest.skip(errors)
    assert configured.returncode == 0, configured.stdout + configured.stderr
    built = run("cmake", "--build", BUILD, "--parallel", 2)  # warnings are errors
    assert built.returncode == 0, built.stdout + built.stderr
    return BUILD
