"""The TensorRT backend on a GPU against the torch backend; engines are built by the tests.

Uses TensorRT if it is installed, else TensorRT for RTX.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from llava_st_ros.backends import graph_backend, load_backend
from llava_st_ros.backends.engine_files import open_engine
from llava_st_ros.backends.tensorrt import TensorRTBackend
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.engine.cuda_device import CudaDevice
from llava_st_ros.engine.device_arrays import HOST
from llava_st_ros.engine.manifest import describe_files, read_manifest
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
from llava_st_ros.export.target import Bounds, read_target
from llava_st_ros.export.tensorrt.profiles import MAX_DRAFT_TOKENS
from llava_st_ros.export.validate.proof import compare_outputs, run_reference_inputs
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.records import Modality
from support.backend_agreement import (
    check_features_and_visual_tokens,
    converse,
    ten_frames,
    window,
)
from support.tiny_model import (
    tiny_config,
    tiny_model,
    tiny_tokenizer,
    tiny_video_prompt,
)

pytestmark = pytest.mark.gpu

CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def gpu() -> CudaDevice:
    try:
        return CudaDevice()
    except BackendError as error:
        pytest.skip(f"needs a GPU: {error}")


class Both(NamedTuple):
    torch: TorchBackend
    tensorrt: TensorRTBackend
    engine: Path


@pytest.fixture(scope="module", autouse=True)
def timings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep TensorRT's timing cache out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def build(checkpoint: Path, out: Path, precision: str) -> None:
    """Build an engine directory without bounds for its proof, which another test checks."""
    any_numbers = {precision: Bounds(inf, inf, 0.0)}
    target = dataclasses.replace(read_target("desktop_tensorrt"), precisions=any_numbers)
    export_checkpoint(ExportRequest(checkpoint, target, precision, out))


@pytest.fixture(scope="module", params=["paper", "released"])
def both(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    gpu: CudaDevice,
) -> Both:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer, compat=request.param)
    root = tmp_path_factory.mktemp(request.param)
    folder, engine = root / "checkpoint", root / "engine"
    save_checkpoint(folder, tiny_model(config), config, tokenizer, "float32")
    build(folder, engine, "float32")
    return Both(
        TorchBackend(load_checkpoint(folder)),
        TensorRTBackend(open_engine(engine, "tensorrt")),
        engine,
    )


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return ten_frames()


def test_device_memory_keeps_its_values(gpu: CudaDevice) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    array = gpu.put(values)
    np.testing.assert_array_equal(np.asarray(array), values)
    np.testing.assert_array_equal(np.asarray(array[1][1:]), values[1, 1:])
    assert np.asarray(array[0][3:]).shape == (0, 4)
    for axis in range(3):
        longer = gpu.grow(array, 7, axis)
        kept = np.asarray(longer).take(range(values.shape[axis]), axis)
        np.testing.assert_array_equal(kept, values)
        assert longer.shape[axis] == 7
    other = gpu.empty(array.shape, array.dtype)
    gpu.copy(array, other)
    assert array.address % 256 == 0 and other.address != array.address
    np.testing.assert_array_equal(np.asarray(other), values)
    for index in range(100):  # more than MAX_PENDING copies, while memory is freed
        assert np.asarray(gpu.put(np.full(1000, index)))[-1] == index


def test_captured_graph_is_replayed(gpu: CudaDevice) -> None:
    source, target = (gpu.put(np.full(4, value, np.float32)) for value in (1, 2))
    graph = gpu.capture(lambda: gpu.copy(source, target))
    np.testing.assert_array_equal(np.asarray(target), np.full(4, 2))
    for value in (3, 4):
        gpu.copy_from_host(np.full(4, value, np.float32), source)
        graph.launch()
        np.testing.assert_array_equal(np.asarray(target), np.full(4, value))


def test_describe_names_backend_device_and_precision(both: Both) -> None:
    description = both.tensorrt.describe()
    assert (description.name, description.device, description.precision) == (
        "tensorrt",
        "cuda:0",
        "float32",
    )


def test_features_and_visual_tokens_agree(both: Both, frames: list[np.ndarray]) -> None:
    check_features_and_visual_tokens(both.tensorrt, both.torch, frames, **CLOSE)


@pytest.mark.parametrize("modality", list(Modality))
def test_logits_agree_along_a_conversation(
    both: Both, frames: list[np.ndarray], modality: Modality
) -> None:
    """Cache rows are not aligned to TensorRT's 256 bytes, so keys and values are copied there."""
    vocabulary = both.torch.config.vocabulary
    long = [int(i) for i in np.random.default_rng(1).integers(0, vocabulary, MAX_DRAFT_TOKENS + 8)]
    steps = ([3], [1, 2], long)
    theirs, ours = (converse(b, frames, modality, steps) for b in (both.torch, both.tensorrt))
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_long_prompt_is_prefilled_in_chunks(
    both: Both, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = both.tensorrt.embed(
        tiny_video_prompt(both.torch.config), window(both.tensorrt, frames)
    )
    caches = both.tensorrt.new_cache(), both.tensorrt.new_cache()
    one_pass = both.tensorrt.prefill(prompt, caches[0])
    monkeypatch.setattr(both.tensorrt, "max_prompt", 7)
    np.testing.assert_allclose(both.tensorrt.prefill(prompt, caches[1]), one_pass, **CLOSE)
    assert caches[0].length == caches[1].length == len(prompt)


def test_cache_grows_with_the_conversation(
    both: Both, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = both.tensorrt.embed(
        tiny_video_prompt(both.torch.config), window(both.tensorrt, frames)
    )
    roomy = both.tensorrt.new_cache()
    monkeypatch.setattr(graph_backend, "CACHE_STEP", 4)
    tight = both.tensorrt.new_cache()
    rows = []
    for cache in (roomy, tight):
        both.tensorrt.prefill(prompt[:3], cache)
        both.tensorrt.prefill(prompt[3:], cache)
        rows.append([both.tensorrt.extend([token], cache) for token in range(1, 12)])
    np.testing.assert_allclose(rows[1], rows[0], **CLOSE)
    assert tight.keys.shape[1] < roomy.keys.shape[1]


def test_concurrent_encode_and_pack(both: Both, frames: list[np.ndarray]) -> None:
    """While the frame pool grows; each thread sees its own frames."""
    orders = [frames[i:] + frames[:i] for i in range(4)]
    expected = [np.asarray(window(both.tensorrt, order).slow) for order in orders]

    def work(order: list[np.ndarray]) -> np.ndarray:
        kept = [both.tensorrt.encode_frame(frame) for frame in frames]
        video = window(both.tensorrt, order)
        assert len(kept) == 10
        return np.asarray(video.slow)

    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(work, orders), expected):
            np.testing.assert_allclose(found, right, **CLOSE)


def test_cuda_graphs_do_not_change_results(both: Both, frames: list[np.ndarray]) -> None:
    recorded = TensorRTBackend(open_engine(both.engine, "tensorrt"), cuda_graphs=True)
    ours = [recorded.encode_frame(frame) for frame in frames]
    assert recorded.sessions["vision"].captured_graphs == 1
    for one, frame in zip(ours, frames):
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(both.tensorrt.encode_frame(frame)), **CLOSE
        )


def test_unsupported_sizes_are_rejected_and_leave_the_cache(both: Both) -> None:
    cache = both.tensorrt.new_cache()
    language, vision = (both.tensorrt.sessions[name] for name in ("language", "vision"))
    cache.length = beyond = language.profiles[1]["past_key_0"].max[0] + 1
    with pytest.raises(BackendError, match=r"outside|at most the model's") as error:
        both.tensorrt.extend([1], cache)
    assert "\n" not in str(error.value) and cache.length == beyond
    with pytest.raises(BackendError, match="pixels"):
        vision.run({"pixels": HOST.put(np.zeros((1, 3, 8, 8), np.float32))}, {})


def test_load_backend_selects_the_backend_of_the_folder(both: Both, tmp_path: Path) -> None:
    backend, tokenizer = load_backend(both.engine)
    assert backend.describe().name == "tensorrt"
    tokenizer.check_fits(backend.describe().model)
    moved = Path(shutil.copytree(both.engine, tmp_path / "moved"))
    manifest = read_manifest(moved)
    dataclasses.replace(manifest, machine={**manifest.machine, "gpu": "Another"}).write(moved)
    with pytest.raises(EngineError, match=r"gpu Another \(here "):
        load_backend(moved)
    name = manifest.graphs["vision"]
    (moved / name).write_bytes((moved / name).read_bytes()[:5000])
    dataclasses.replace(manifest, files=describe_files(moved)).write(moved)
    with pytest.raises(EngineError, match=name) as error:
        load_backend(moved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_precisions_are_within_the_targets_bounds(
    random_checkpoint: Path, tmp_path: Path, gpu: CudaDevice, precision: str
) -> None:
    build(random_checkpoint, tmp_path / "engine", precision)
    backend = TensorRTBackend(open_engine(tmp_path / "engine", "tensorrt"))
    expected = run_reference_inputs(TorchBackend(load_checkpoint(random_checkpoint)))
    outputs = run_reference_inputs(backend, teacher_forced=expected.answers)
    proof = compare_outputs(expected, outputs)
    assert proof.violations(read_target("desktop_tensorrt").bounds(precision)) == []
