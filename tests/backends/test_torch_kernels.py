"""The kernel library through its C interface, and torch's operators on it.

The library is built by nvcc and loaded with or without a GPU. With a GPU, and LLAVA_ST_KERNELS set
to a library that was built for it, the kernels' results are compared with float64.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_st_ros.backends.torch_kernels import CudaKernels, use_kernels
from llava_st_ros.engine import kernel_library
from llava_st_ros.engine.kernel_library import NAME, SCALARS, VARIABLE, KernelLibrary, find_kernels
from llava_st_ros.errors import EngineError
from llava_st_ros.model.packer.gather_add_gelu import gather_add_gelu
from llava_st_ros.model.packer.region_attention import region_attention
from llava_st_ros.model.packer.streaming import StreamingPacker
from support.native_build import build_native, run
from support.tiny_model import tiny_config, tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def build() -> Path:
    return build_native()


HALF = SCALARS["float16"]
GRID = (9, 9, 3)  # strides; not used, as there are no tokens


@pytest.fixture(scope="module")
def path(build: Path) -> Path:
    return build / "libllava_st_kernels.so"


@pytest.fixture(scope="module")
def library(path: Path) -> KernelLibrary:
    return KernelLibrary(path)


def test_library_exports_its_functions(path: Path) -> None:
    symbols = run("nm", "-D", "--defined-only", path).stdout.split()[2::3]
    names = ("abi_version", "error", "gather_add_gelu", "region_attention")
    assert sorted(symbols) == [f"llava_st_{name}" for name in names]


@pytest.mark.parametrize("with_addend", [False, True])
def test_cpu_reference_equals_the_operator(build: Path, with_addend: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    terms, table, addend = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 5, 7), (4, 7), (3, 5, 7))
    )
    times = torch.tensor([3, 0, 3])
    output = torch.full((3, 5, 7), torch.nan, dtype=torch.float64)
    names = ctypes.CDLL(str(build / "tests" / "libllava_st_reference_for_python.so"))
    names.gather_add_gelu_reference(
        (ctypes.c_int64 * 4)(3, 5, 7, 4),
        (ctypes.c_void_p * 3)(*(term.data_ptr() for term in terms)),
        *(ctypes.c_void_p(x.data_ptr()) for x in (table, times)),
        ctypes.c_void_p(addend.data_ptr() if with_addend else None),
        ctypes.c_void_p(output.data_ptr()),
    )
    expected = gather_add_gelu(list(terms), table, times, addend if with_addend else None)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_empty_calls_need_no_gpu(library: KernelLibrary) -> None:
    sizes = (0, 27, 27, 8, 1024, 3, 1)
    assert library.region_attention(sizes, 1e-5, HALF, 0, (1, 1), 0, GRID, 0, GRID, 0, 0) == ""
    assert library.gather_add_gelu((0, 729, 2048, 100), HALF, (), 0, 0, 0, 0, 0) == ""


def test_unsupported_sizes_are_described(library: KernelLibrary) -> None:
    def attention(heads: int, epsilon: float) -> str:
        sizes = (1, 3, 3, heads, 64, 3, 1)
        return library.region_attention(sizes, epsilon, HALF, 0, (1, 1), 0, GRID, 0, GRID, 0, 0)

    assert attention(17, 1e-5) == "heads is 17; expected 1 to 16"
    assert attention(16, 0.0) == "epsilon is 0.000000; expected > 0"
    reason = library.gather_add_gelu((1, 729, 2048, 0), HALF, (0,), 0, 0, 0, 0, 0)
    assert reason == "rows of the table is 0; expected 1 to 2147483647"
    assert library.gather_add_gelu((1, 1, 1, 1), 3, (0,), 0, 0, 0, 0, 0) == "scalar is 3"


def test_cuda_errors_are_raised(path: Path) -> None:
    """In a process that sees no GPU."""
    program = (
        "from pathlib import Path\n"
        "from llava_st_ros.engine.kernel_library import KernelLibrary\n"
        f"library = KernelLibrary(Path({str(path)!r}))\n"
        "library.gather_add_gelu((1, 1, 1, 1), 0, (0,), 0, 0, 0, 0, 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "EngineError" in (last := result.stderr.splitlines()[-1])
    assert f"{path}: CUDA: " in last and "kernels built for this GPU and driver" in last


def test_other_files_are_rejected(build: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.so"
    empty.write_bytes(b"")
    other = build / "tests" / "libllava_st_reference_for_python.so"
    for wrong, message in (
        (other, f"is not {NAME}: .*undefined symbol: llava_st_abi_version"),
        (empty, "cannot be loaded: file too short"),
        (tmp_path / "none.so", "cannot be loaded: cannot open shared object file"),
    ):
        with pytest.raises(EngineError, match=f"{wrong} {message}"):
            KernelLibrary(wrong)


def test_a_missing_dependency_is_named(tmp_path: Path) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "part.c", tmp_path / NAME
    dependency = tmp_path / "libdependency.so.7"
    source.write_text("int llava_st_abi_version(void) { return 2; }\n")
    shared = (compiler, "-shared", "-fPIC", source)
    assert run(*shared, "-Wl,-soname,libdependency.so.7", "-o", dependency).returncode == 0
    linked = (*shared, "-Wl,--no-as-needed", dependency, "-o", library)
    assert run(*linked).returncode == 0
    dependency.unlink()
    with pytest.raises(EngineError) as error:
        KernelLibrary(library)
    text = str(error.value)
    assert f"{library} cannot be loaded: libdependency.so.7: cannot open shared object" in text
    assert "install what it names as missing" in text and "\n" not in text


def test_another_abi_version_is_rejected(tmp_path: Path) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    source, newer = tmp_path / "newer.c", tmp_path / "newer.so"
    source.write_text("int llava_st_abi_version(void) { return 1; }\n")
    assert run(compiler, "-shared", "-fPIC", source, "-o", newer).returncode == 0
    with pytest.raises(EngineError, match="kernels of ABI version 1; expected version 2"):
        KernelLibrary(newer)


def test_library_is_found_by_variable_or_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lib" / "python3.12" / "site-packages" / "llava_st_ros"
    monkeypatch.setattr(kernel_library, "__file__", str(package / "engine" / "kernel_library.py"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_kernels() is None and not use_kernels()
    installed = tmp_path / "lib" / "llava_st_ros" / NAME
    installed.parent.mkdir(parents=True)
    installed.write_bytes(b"")
    assert find_kernels() == installed
    named = tmp_path / "named.so"
    monkeypatch.setenv(VARIABLE, str(named))
    with pytest.raises(EngineError, match=f"{VARIABLE}={named}: no such file"):
        find_kernels()
    named.write_bytes(b"")
    assert find_kernels() == named
    with pytest.raises(EngineError, match=f"{named} cannot be loaded: file too short"):
        use_kernels()


def test_kernels_are_registered_with_torch(path: Path) -> None:
    for _ in range(2):
        assert use_kernels(path)
    for name in ("region_attention", "gather_add_gelu"):
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        assert has(f"llava_st::{name}", "CUDA")
    terms, table, times, addend = gelu_inputs(torch.float32, "cpu")
    assert gather_add_gelu(terms, table, times, addend).shape == addend.shape


def attention_inputs(dtype: torch.dtype, device: str, temporal: bool = False) -> tuple[Any, ...]:
    """Queries with heads outermost in memory; keys and values are halves of one tensor."""
    generator = torch.Generator().manual_seed(0)
    side, length = (1, 5) if temporal else (3, 1)
    query = torch.randn(4, 2 * 2 * 3, 64, generator=generator, dtype=torch.float64) / 4
    tokens = torch.randn(2 * length, 2 * side, 3 * side, 128, generator=generator).double()
    query, tokens = query.to(device, dtype), tokens.to(device, dtype)
    key, value = tokens.chunk(2, -1)
    return query.transpose(0, 1).unflatten(0, (2, 2, 3)), key, value, side, length, 1e-5


def gelu_inputs(dtype: torch.dtype, device: str, columns: int = 64) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    terms = [random(9, columns) for _ in range(3)]
    return terms, random(4, columns), torch.tensor([3, 0, 3], device=device), random(3, 9, columns)


def test_operators_pass_opcheck_and_gradcheck() -> None:
    for temporal in (False, True):
        inputs = attention_inputs(torch.float64, "cpu", temporal)
        torch.library.opcheck(region_attention, inputs)
    query, key, value, *settings = attention_inputs(torch.float64, "cpu")
    tensors = [
        x[..., :5].clone().requires_grad_() for x in (query[:1, :1], key[:1, :3], value[:1, :3])
    ]
    assert torch.autograd.gradcheck(lambda *x: region_attention(*x, *settings), tensors)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_region_attention_compiles_without_graph_breaks(backend: str) -> None:
    inputs = attention_inputs(torch.float32, "cpu")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *arguments: region_attention(*arguments) * 2, fullgraph=True, backend=backend
    )
    with torch.inference_mode():
        torch.testing.assert_close(compiled(*inputs), region_attention(*inputs) * 2)


def test_unsupported_dtypes_are_computed_by_torch(library: KernelLibrary) -> None:
    """The kernels have no float64, on any device."""
    kernels = CudaKernels(library)
    inputs = attention_inputs(torch.float64, "cpu")
    assert torch.equal(kernels.region_attention(*inputs), region_attention(*inputs))
    late = gelu_inputs(torch.float64, "cpu")
    assert torch.equal(kernels.gather_add_gelu(*late), gather_add_gelu(*late))


class Recording(KernelLibrary):
    """Records each call's result: "" if the kernel ran."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.results: list[str] = []

    def check_status(self, status: int) -> str:
        self.results.append(super().check_status(status))
        return self.results[-1]


@pytest.fixture
def recording() -> Recording:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, and a torch with CUDA")
    if (found := find_kernels()) is None:
        pytest.skip(f"needs the kernels built for this GPU: set {VARIABLE}")
    return Recording(found)


ERRORS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(ERRORS))
@pytest.mark.parametrize("temporal", [False, True])
def test_region_attention_on_a_gpu(
    recording: Recording, dtype: torch.dtype, temporal: bool
) -> None:
    query, key, value, *settings = attention_inputs(dtype, "cuda", temporal)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = CudaKernels(recording).region_attention(query, key, value, *settings)
    stream.synchronize()
    assert recording.results == [""]
    expected = region_attention(*(x.double().cpu() for x in (query, key, value)), *settings)
    bound = ERRORS[dtype]
    torch.testing.assert_close(found.double().cpu(), expected, rtol=bound, atol=bound)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(ERRORS))
@pytest.mark.parametrize("columns", [64, 37])
@pytest.mark.parametrize("with_addend", [False, True])
def test_gather_add_gelu_on_a_gpu(
    recording: Recording, dtype: torch.dtype, columns: int, with_addend: bool
) -> None:
    terms, table, times, addend = gelu_inputs(dtype, "cuda", columns)
    addend = addend if with_addend else None
    found = CudaKernels(recording).gather_add_gelu(terms, table, times, addend)
    assert recording.results == [""]
    exact = None if addend is None else addend.double().cpu()
    expected = gather_add_gelu(
        [x.double().cpu() for x in terms], table.double().cpu(), times.cpu(), exact
    )
    bound = ERRORS[dtype]
    torch.testing.assert_close(found.double().cpu(), expected, rtol=bound, atol=bound)


@pytest.mark.gpu
def test_unsupported_sizes_are_computed_by_torch_on_a_gpu(recording: Recording) -> None:
    query, key, value, *settings = attention_inputs(torch.float32, "cuda")
    query = query.repeat(1, 1, 1, 5, 1)  # 20 heads
    found = CudaKernels(recording).region_attention(query, key, value, *settings)
    assert recording.results == ["heads is 20; expected 1 to 16"]
    expected = region_attention(*(x.double().cpu() for x in (query, key, value)), *settings)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_operators_in_packer_graph_and_autograd_on_a_gpu(recording: Recording) -> None:
    """Called by the streaming packer, captured into a CUDA graph, and differentiated."""
    assert use_kernels(recording.path)
    model = tiny_model(tiny_config(num_frames=10))
    shape = (10, model.config.tokens_per_frame, model.config.language.hidden_size)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.double().pack(features.double(), range(10))
    packer = StreamingPacker(model.to("cuda", torch.float32))
    window = packer.pack([packer.frame(one) for one in features.cuda()], range(10))
    for found, exact in zip(window.tokens, expected):
        assert (found.double().cpu() - exact).abs().max() <= 1e-4 * exact.std()

    terms, table, times, addend = gelu_inputs(torch.float32, "cuda")
    eager = gather_add_gelu(terms, table, times, addend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gather_add_gelu(terms, table, times, addend)
    captured.zero_()
    graph.replay()
    torch.testing.assert_close(captured, eager)

    table.requires_grad_()
    gather_add_gelu(terms, table, times, addend).sum().backward()
    on_cpu = gelu_inputs(torch.float32, "cpu")
    on_cpu[1].requires_grad_()
    gather_add_gelu(*on_cpu).sum().backward()
    torch.testing.assert_close(table.grad.cpu(), on_cpu[1].grad, rtol=1e-4, atol=1e-4)
