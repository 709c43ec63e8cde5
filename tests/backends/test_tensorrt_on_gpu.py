"""TensorRT on a GPU against the torch backend: engines built here, of the same checkpoints.

By the full TensorRT where it is installed, else by TensorRT for RTX.
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
    """Not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def build(checkpoint: Path, out: Path, precision: str) -> None:
    """An engine directory, wherever its proof stands: that is a test of its own."""
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


def test_memory_keeps_what_it_is_given(gpu: CudaDevice) -> None:
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
    for index in range(100):  # more copies than may be under way; memory given back meanwhile
        assert np.asarray(gpu.put(np.full(1000, index)))[-1] == index


def test_recorded_work_is_done_again(gpu: CudaDevice) -> None:
    source, target = (gpu.put(np.full(4, value, np.float32)) for value in (1, 2))
    graph = gpu.capture(lambda: gpu.copy(source, target))
    np.testing.assert_array_equal(np.asarray(target), np.full(4, 2))
    for value in (3, 4):
        gpu.copy_from_host(np.full(4, value, np.float32), source)
        graph.launch()
        np.testing.assert_array_equal(np.asarray(target), np.full(4, value))


def test_it_says_who_it_is(both: Both) -> None:
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
    """Its places are not TensorRT's 256 bytes: new keys and values are put there by a copy."""
    vocabulary = both.torch.config.vocabulary
    long = [int(i) for i in np.random.default_rng(1).integers(0, vocabulary, MAX_DRAFT_TOKENS + 8)]
    steps = ([3], [1, 2], long)
    theirs, ours = (converse(b, frames, modality, steps) for b in (both.torch, both.tensorrt))
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_a_prompt_longer_than_the_engine_takes_goes_in_pieces(
    both: Both, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = both.tensorrt.embed(
        tiny_video_prompt(both.torch.config), window(both.tensorrt, frames)
    )
    caches = both.tensorrt.new_cache(), both.tensorrt.new_cache()
    whole = both.tensorrt.prefill(prompt, caches[0])
    monkeypatch.setattr(both.tensorrt, "max_prompt", 7)
    np.testing.assert_allclose(both.tensorrt.prefill(prompt, caches[1]), whole, **CLOSE)
    assert caches[0].length == caches[1].length == len(prompt)


def test_a_long_conversation_outgrows_its_cache(
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


def test_threads_may_encode_and_pack_at_once(both: Both, frames: list[np.ndarray]) -> None:
    """While the pool grows under them; each sees its own frames."""
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


def test_cuda_graphs_change_nothing(both: Both, frames: list[np.ndarray]) -> None:
    recorded = TensorRTBackend(open_engine(both.engine, "tensorrt"), cuda_graphs=True)
    ours = [recorded.encode_frame(frame) for frame in frames]
    assert recorded.sessions["vision"].captured_graphs == 1
    for one, frame in zip(ours, frames):
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(both.tensorrt.encode_frame(frame)), **CLOSE
        )


def test_sizes_beyond_the_engine_are_one_line_and_leave_the_cache(both: Both) -> None:
    cache = both.tensorrt.new_cache()
    language, vision = (both.tensorrt.sessions[name] for name in ("language", "vision"))
    cache.length = beyond = language.profiles[1]["past_key_0"].max[0] + 1
    with pytest.raises(BackendError, match=r"outside|at most the model's") as error:
        both.tensorrt.extend([1], cache)
    assert "\n" not in str(error.value) and cache.length == beyond
    with pytest.raises(BackendError, match="pixels"):
        vision.run({"pixels": HOST.put(np.zeros((1, 3, 8, 8), np.float32))}, {})


def test_the_folder_says_what_runs_it(both: Both, tmp_path: Path) -> None:
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
def test_each_precision_is_within_its_targets_bounds(
    random_checkpoint: Path, tmp_path: Path, gpu: CudaDevice, precision: str
) -> None:
    build(random_checkpoint, tmp_path / "engine", precision)
    backend = TensorRTBackend(open_engine(tmp_path / "engine", "tensorrt"))
    expected = run_reference_inputs(TorchBackend(load_checkpoint(random_checkpoint)))
    outputs = run_reference_inputs(backend, teacher_forced=expected.answers)
    proof = compare_outputs(expected, outputs)
    assert proof.violations(read_target("desktop_tensorrt").bounds(precision)) == []
