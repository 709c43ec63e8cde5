"""The TensorRT backend without a GPU: profiles, the check of the machine, and errors."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.engine_files import open_engine
from llava_st_ros.backends.onnxruntime import OnnxBackend
from llava_st_ros.backends.tensorrt import append_in_chunks, cached_positions
from llava_st_ros.cli.__main__ import main
from llava_st_ros.engine import manifest as manifests
from llava_st_ros.engine.machine import (
    HARDWARE_COMPATIBLE,
    VERSION_COMPATIBLE,
    check_machine,
    differences,
)
from llava_st_ros.engine.manifest import Manifest, read_manifest
from llava_st_ros.engine.profiles import ShapeRange, describe_misfit, select_profile
from llava_st_ros.engine.session import TensorRTRuntime
from llava_st_ros.engine.tensorrt_api import load_plugins, load_tensorrt
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export.tensorrt.profiles import MAX_ANSWER_TOKENS, TEXT_TOKENS
from llava_st_ros.export.tensorrt.profiles import profiles as export_profiles
from llava_st_ros.files.checksums import checksum_of
from llava_st_ros.records import Modality
from llava_st_ros.text.prompt import visual_block
from support.stream_config import stream_config
from support.tiny_model import tiny_tokenizer

pytestmark = pytest.mark.slow

ORIN = {
    "runtime": "tensorrt",
    "tensorrt": "10.3.0",
    "cuda": "12.6",
    "gpu": "Orin",
    "compute_capability": "8.7",
    "plugins": "ab12",
}


@pytest.fixture(scope="module")
def ranges():
    return export_profiles(stream_config(tiny_tokenizer()))


def decoder_shapes(ranges, positions: int, before: int, rows: int = 1):
    """Shapes of the language graph's inputs, with the visual tokens of a video."""
    profile = ranges["language"][0]
    shapes = {name: (before, *sizes.opt[1:]) for name, sizes in profile.items()}
    visual = profile["visual"].opt
    return {**shapes, "ids": (positions,), "rows": (rows,), "visual": visual, "mixed": (1, 32)}


def test_positions_are_those_of_the_cache_in_the_profiles(ranges) -> None:
    config = stream_config(tiny_tokenizer())
    prompt = max(len(visual_block(config, kind)) for kind in Modality) + TEXT_TOKENS
    assert cached_positions(ranges["language"]) == prompt + MAX_ANSWER_TOKENS


def test_nearest_profile_is_selected(ranges) -> None:
    prompt = ranges["language"][0]["ids"].opt[0]
    for positions, before, rows, profile in (
        (prompt, 0, 1, 0),
        (prompt - 60, 0, 1, 0),
        (60, prompt - 60, 1, 0),  # another query on a view: too long for the second profile
        (1, prompt, 1, 1),
        (1, 5, 1, 1),
        (20, prompt, 20, 1),
        (33, prompt, 33, None),
        (prompt + 1, 0, 1, None),
    ):
        shapes = decoder_shapes(ranges, positions, before, rows)
        assert select_profile(ranges["language"], shapes) == profile, (positions, before, rows)
    pixels = ranges["vision"][0]["pixels"].min
    assert select_profile(ranges["vision"], {"pixels": pixels}) == 0
    for wrong in ({"pixels": (5, *pixels[1:])}, {"pixels": pixels[1:]}, {"image": pixels}):
        assert select_profile(ranges["vision"], wrong) is None


def test_shapes_that_fit_no_profile_are_described(ranges) -> None:
    said = describe_misfit(ranges["language"], decoder_shapes(ranges, 33, 100, 33))
    assert said == "rows [33] outside [1] to [1]"
    assert describe_misfit(ranges["vision"], {"image": (1,)}) == "unknown image"
    long = describe_misfit(ranges["language"], decoder_shapes(ranges, 1, 10**6))
    assert long.count("outside") <= 3 and "past_key_0" in long


SIZES = st.integers(0, 9)


@given(
    st.lists(st.tuples(SIZES, SIZES, SIZES).map(sorted), min_size=1, max_size=3),
    SIZES,
)
def test_a_profile_is_selected_if_one_fits(bounds, size) -> None:
    profiles = [{"x": ShapeRange(*((b,) for b in three))} for three in bounds]
    found = select_profile(profiles, {"x": (size,)})
    fitting = [i for i, (least, _, most) in enumerate(bounds) if least <= size <= most]
    assert found in fitting if fitting else found is None
    exact = [i for i in fitting if bounds[i][1] == size]
    assert not exact or found == exact[0]


@pytest.mark.parametrize(
    ("built", "here", "differ"),
    [
        ({}, {}, []),
        ({}, {"cuda": "13.0"}, []),
        ({}, {"cuda": "12.4"}, ["cuda 12.6 (here 12.4)"]),
        ({}, {"tensorrt": "10.3.0.30"}, ["tensorrt 10.3.0 (here 10.3.0.30)"]),
        (
            {},
            {"gpu": "Thor", "compute_capability": "11.0"},
            ["gpu Orin (here Thor)", "compute capability 8.7 (here 11.0)"],
        ),
        ({}, {"plugins": "cd34"}, ["plugins ab12 (here cd34)"]),
        ({"plugins": None}, {}, ["plugins none (here ab12)"]),
        ({}, {"plugins": None}, ["plugins ab12 (here none)"]),
        ({VERSION_COMPATIBLE: "yes"}, {"tensorrt": "10.13.2"}, []),
        ({VERSION_COMPATIBLE: "yes"}, {"tensorrt": "10.2.0"}, ["tensorrt 10.3.0 (here 10.2.0)"]),
        ({VERSION_COMPATIBLE: "yes"}, {"tensorrt": "11.0.0"}, ["tensorrt 10.3.0 (here 11.0.0)"]),
        ({HARDWARE_COMPATIBLE: "yes"}, {"gpu": "RTX 5090", "compute_capability": "12.0"}, []),
        (
            {HARDWARE_COMPATIBLE: "yes"},
            {"compute_capability": "7.5"},
            ["compute capability 8.7 (here 7.5)"],
        ),
        ({}, {"runtime": "tensorrt_rtx"}, ["runtime tensorrt (here tensorrt_rtx)"]),
    ],
)
def test_differences_of_machines(built, here, differ) -> None:
    sides = [
        {item: value for item, value in {**ORIN, **changes}.items() if value is not None}
        for changes in (built, here)
    ]
    assert list(differences(*sides)) == differ


def tensorrt_directory(engine: Path, folder: Path, machine: dict[str, str]) -> Path:
    """An engine directory for TensorRT whose engine files are ONNX files."""
    shutil.copytree(engine, folder)
    old = read_manifest(folder)
    dataclasses.replace(old, backend="tensorrt", machine=machine).write(folder)
    return folder


def test_another_machine_is_rejected_with_the_differences_and_a_command(
    random_engine: Path, tmp_path: Path
) -> None:
    folder = tensorrt_directory(random_engine, tmp_path / "engine", ORIN)
    manifest = read_manifest(folder)
    check_machine(folder, manifest, ORIN)
    thor = {**ORIN, "gpu": "Thor", "tensorrt": "10.13.2"}
    with pytest.raises(EngineError) as error:
        check_machine(folder, manifest, thor)
    for part in ("10.3.0 (here 10.13.2)", "Orin (here Thor)", f"--out {folder}", "--target cpu"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(EngineError, match="unknown machine"):
        check_machine(folder, dataclasses.replace(manifest, machine={}), ORIN)


def test_manifest_without_a_machine_is_read(random_engine: Path, tmp_path: Path) -> None:
    values = json.loads((random_engine / manifests.NAME).read_text())
    del values["signature"], values["machine"]
    values["signature"] = checksum_of(values)
    (tmp_path / manifests.NAME).write_text(json.dumps(values))
    assert read_manifest(tmp_path) == read_manifest(random_engine)
    assert isinstance(read_manifest(tmp_path), Manifest)


def test_load_errors_are_one_line_with_exit_code_2(
    random_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever is missing: TensorRT, a GPU, or the machine of the build."""
    folder = tensorrt_directory(random_engine, tmp_path / "engine", ORIN)
    odd = tensorrt_directory(random_engine, tmp_path / "odd", {**ORIN, "runtime": "os"})
    rtx = tensorrt_directory(random_engine, tmp_path / "rtx", {**ORIN, "runtime": "tensorrt_rtx"})
    for path, settings in (
        (folder, {}),
        (rtx, {}),
        (odd, {}),
        (folder, {"device": "cpu"}),
        (folder, {"device": "cuda:x"}),
        (folder, {"device": "cuda:99"}),
        (folder, {"name": "onnxruntime"}),
    ):
        with pytest.raises((BackendError, EngineError)) as error:
            load_backend(path, **settings)
        assert "\n" not in str(error.value)
    image = tmp_path / "image.png"
    image.write_bytes(b"never read")
    code = main(["ground", "--image", str(image), "--model", str(folder), "--query", "a box"])
    assert code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_missing_packages_are_named_for_pip(random_engine: Path, tmp_path: Path) -> None:
    """Also, torch is not imported."""
    folder = tensorrt_directory(random_engine, tmp_path / "engine", ORIN)
    program = f"""
import sys
sys.modules["cuda.bindings"] = None
from llava_st_ros.backends import load_backend
from llava_st_ros.errors import BackendError
try:
    load_backend({str(folder)!r})
except BackendError as error:
    print(error)
assert not {{"torch", "onnxruntime", "onnx"}} & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "pip install tensorrt cuda-bindings" in result.stdout


def test_invalid_engine_files_are_rejected_in_one_line(tmp_path: Path) -> None:
    runtime = TensorRTRuntime(load_tensorrt("tensorrt_rtx"), host_code=True)
    garbage, empty = tmp_path / "garbage.engine", tmp_path / "empty.engine"
    garbage.write_bytes(bytes(5000))
    empty.touch()
    for path in (garbage, empty, tmp_path / "absent.engine"):
        with pytest.raises(EngineError, match=path.name) as error:
            runtime.deserialize(path)
        assert "\n" not in str(error.value)
    registry = runtime.plugin_registry
    with pytest.raises(EngineError, match="cannot load this plugin library"):
        load_plugins(registry, garbage, runtime.logger)


def test_chunks_equal_one_call(random_engine: Path) -> None:
    backend = OnnxBackend(open_engine(random_engine, "onnxruntime"), threads=1)
    single, chunked = backend.new_cache(), backend.new_cache()
    ids = list(range(1, 12))
    expected = backend.extend(ids, single)
    chunks = append_in_chunks(backend.extend, ids, 4, chunked)
    assert [len(chunk) for chunk in chunks] == [4, 4, 3]
    np.testing.assert_allclose(np.concatenate(chunks), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(BackendError):
        append_in_chunks(backend.extend, [1, 2, 10**6], 1, chunked)
    assert chunked.length == len(ids)
    assert [piece.shape[0] for piece in append_in_chunks(backend.extend, [], 4, chunked)] == [0]
