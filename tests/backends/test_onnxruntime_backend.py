"""The ONNX Runtime backend against the torch backend, with an exported checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from llava_st_ros.backends import graph_backend, load_backend
from llava_st_ros.backends.engine_files import open_engine
from llava_st_ros.backends.onnxruntime import OnnxBackend
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.manifest import describe_files, read_manifest
from llava_st_ros.errors import BackendError, ConfigError, EngineError
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
from llava_st_ros.export.target import read_target
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

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class Both(NamedTuple):
    torch: TorchBackend
    onnx: OnnxBackend
    folder: Path
    engine: Path


@pytest.fixture(scope="module", params=["paper", "released"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer, compat=request.param)
    root = tmp_path_factory.mktemp(request.param)
    folder, engine = root / "checkpoint", root / "engine"
    save_checkpoint(folder, tiny_model(config), config, tokenizer, "float32")
    export_checkpoint(ExportRequest(folder, read_target("cpu"), "float32", engine))
    return Both(
        TorchBackend(load_checkpoint(folder)),
        OnnxBackend(open_engine(engine, "onnxruntime"), threads=1),
        folder,
        engine,
    )


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return ten_frames()


def test_describe_names_backend_device_and_precision(both: Both) -> None:
    description = both.onnx.describe()
    assert (description.name, description.device, description.precision) == (
        "onnxruntime",
        "cpu",
        "float32",
    )
    assert description.model == both.torch.config


def test_features_and_visual_tokens_agree(both: Both, frames: list[np.ndarray]) -> None:
    check_features_and_visual_tokens(both.onnx, both.torch, frames, **CLOSE)


@pytest.mark.parametrize("modality", list(Modality))
def test_logits_agree_along_a_conversation(
    both: Both, frames: list[np.ndarray], modality: Modality
) -> None:
    config = both.torch.config
    steps = [
        [3],
        [config.coordinates.ids(Axis.TIME)[4], 9, config.coordinates.ids(Axis.WIDTH)[11]],
        [1, 2],
    ]
    theirs, ours = (converse(b, frames, modality, steps) for b in (both.torch, both.onnx))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_conversations_are_independent(both: Both, frames: list[np.ndarray]) -> None:
    prompt = both.onnx.embed(tiny_video_prompt(both.torch.config), window(both.onnx, frames))
    caches = both.onnx.new_cache(), both.onnx.new_cache()
    for cache in caches:
        both.onnx.prefill(prompt, cache)
    both.onnx.extend([7, 7, 7], caches[0])
    alone = both.onnx.new_cache()
    both.onnx.prefill(prompt, alone)
    np.testing.assert_array_equal(both.onnx.extend([5], caches[1]), both.onnx.extend([5], alone))


def test_cache_grows_with_the_conversation(
    both: Both, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = both.onnx.embed(tiny_video_prompt(both.torch.config), window(both.onnx, frames))
    roomy = both.onnx.new_cache()
    monkeypatch.setattr(graph_backend, "CACHE_STEP", 4)
    tight = both.onnx.new_cache()
    rows = []
    for cache in (roomy, tight):
        both.onnx.prefill(prompt[:3], cache)
        both.onnx.prefill(prompt[3:], cache)
        rows.append([both.onnx.extend([token], cache) for token in range(1, 12)])
    np.testing.assert_array_equal(rows[1], rows[0])
    assert tight.keys.shape[1] < roomy.keys.shape[1]
    for ours, theirs in ((tight.keys, roomy.keys), (tight.values, roomy.values)):
        length = tight.length
        np.testing.assert_array_equal(np.asarray(ours)[:, :length], np.asarray(theirs)[:, :length])


def test_rows_of_released_frames_are_reused(both: Both, frames: list[np.ndarray]) -> None:
    held = [both.onnx.encode_frame(frame) for frame in frames]
    before = [np.asarray(feature).copy() for feature in held]
    rows = len(both.onnx.frame_pool)
    for _ in range(3 * rows):
        both.onnx.encode_frame(frames[0])
    assert len(both.onnx.frame_pool) == rows
    more = [both.onnx.encode_frame(frames[1]) for _ in range(rows)]
    assert len(both.onnx.frame_pool) == 2 * rows
    for feature, values in zip(held, before):
        np.testing.assert_array_equal(np.asarray(feature), values)
    np.testing.assert_array_equal(np.asarray(more[-1]), before[1])


def test_invalid_calls_are_rejected(both: Both, frames: list[np.ndarray]) -> None:
    backend, config = both.onnx, both.torch.config
    feature = backend.encode_frame(frames[0])
    for wrong, error in (
        (lambda: backend.pack([], []), BackendError),
        (lambda: backend.pack([feature] * 5, [0, 1, 2, 3, 10]), BackendError),
        (lambda: backend.pack([feature] * 5, [0, 1]), BackendError),
        (lambda: backend.pack([feature] * 4, range(4)), ConfigError),
        (lambda: backend.extend([config.vocabulary], backend.new_cache()), BackendError),
        (lambda: backend.extend([-1], backend.new_cache()), BackendError),
        (lambda: backend.extend([1], both.torch.new_cache()), BackendError),
        (lambda: backend.new_cache().truncate(1), BackendError),
        (lambda: backend.embed(tiny_video_prompt(config), None), BackendError),
    ):
        with pytest.raises(error):
            wrong()
    cache = backend.new_cache()
    cache.length = config.language.max_position_embeddings
    with pytest.raises(BackendError, match=f"at most {cache.length}"):
        backend.extend([1], cache)


def test_load_backend_selects_the_backend_of_the_folder(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert load_backend(both.folder)[0].describe().name == "torch"
    backend, tokenizer = load_backend(both.engine, threads=1)
    assert backend.describe().name == "onnxruntime"
    tokenizer.check_fits(backend.describe().model)
    for path, wrong in (
        (both.engine, {"name": "torch"}),
        (both.folder, {"name": "onnxruntime"}),
        (both.engine, {"precision": "float16"}),
        (both.engine, {"device": "cuda"}),
        (both.engine, {"device": "cuda:x"}),
        (both.engine, {"device": "tpu"}),
        (both.engine, {"device": "cpu:3"}),
    ):
        with pytest.raises((BackendError, EngineError)) as error:
            load_backend(path, **wrong)
        assert "\n" not in str(error.value)


def test_answering_does_not_import_torch(both: Both) -> None:
    program = f"""
import sys
import numpy as np
from llava_st_ros.backends import load_backend
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import Frame, Query, Task
grounder = Grounder(*load_backend({str(both.engine)!r}, threads=1))
grounder.push(Frame(np.zeros((40, 40, 3), np.uint8), 0, "camera"))
print(grounder.ask(Query("q", "the red cube", Task.REC)).answer)
heavy = [name for name in ("torch", "transformers", "onnx", "onnxscript") if name in sys.modules]
assert not heavy, heavy
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "Answer(" in result.stdout


def test_number_of_threads_is_bounded(both: Both) -> None:
    """With threads=1 a graph starts no threads of its own; with threads=3 it starts two."""
    program = f"""
import os
from llava_st_ros.backends import load_backend
counts = []
for threads in (1, 1, 3):
    kept = load_backend({str(both.engine)!r}, threads=threads)
    counts.append(len(os.listdir("/proc/self/task")))
    del kept
print(counts[1] - counts[0], counts[2] - counts[0])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0", "8"]


def test_concurrent_encode_and_pack(both: Both, frames: list[np.ndarray]) -> None:
    """While the frame pool grows; each thread sees its own frames."""
    expected = [np.asarray(window(both.onnx, frames[i:] + frames[:i]).slow) for i in range(4)]

    def work(start: int) -> np.ndarray:
        kept = [both.onnx.encode_frame(frame) for frame in frames * 3]
        video = window(both.onnx, frames[start:] + frames[:start])
        assert len(kept) == 30
        return np.asarray(video.slow)

    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(work, range(4)), expected):
            np.testing.assert_array_equal(found, right)


def test_engine_of_another_version_is_rejected(both: Both, tmp_path: Path) -> None:
    engine = Path(shutil.copytree(both.engine, tmp_path / "engine"))
    shutil.copy(engine / "image.onnx", engine / "vision.onnx")
    manifest = read_manifest(engine)
    dataclasses.replace(manifest, files=describe_files(engine)).write(engine)
    with pytest.raises(EngineError, match="other inputs or outputs") as error:
        load_backend(engine)
    assert "\n" not in str(error.value)
    dataclasses.replace(manifest, backend="another", files=describe_files(engine)).write(engine)
    with pytest.raises(BackendError, match="for another"):
        load_backend(engine)
