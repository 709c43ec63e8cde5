"""The files of an engine directory besides its graphs: checked against its config when loaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.engine_files import COORDINATES
from llava_st_ros.engine.manifest import NAME, describe_files, read_manifest
from llava_st_ros.errors import EngineError
from llava_st_ros.files.checksums import checksum_of

pytestmark = pytest.mark.slow
TABLE = "temporal"


@pytest.fixture
def engine(random_engine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_engine, tmp_path / "engine"))


def sign_again(engine: Path) -> None:
    """Write the manifest of changed files, as an export of another version would have."""
    dataclasses.replace(read_manifest(engine), files=describe_files(engine)).write(engine)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t[:-1], r"temporal is float32 \[\d+, \d+\]; expected floating point"),
        (lambda t: t[:, :-1].copy(), "temporal is float32"),
        (lambda t: t.reshape(-1), "temporal is float32"),
        (lambda t: t.astype(np.int32), "temporal is int32"),
        (lambda t: np.full_like(t, np.nan), "values that are not finite"),
    ],
)
def test_coordinate_tables_are_compared_with_the_config_when_loaded(
    engine: Path, change: Callable[[np.ndarray], np.ndarray], found: str
) -> None:
    tables = load_file(engine / COORDINATES)
    save_file({**tables, TABLE: np.ascontiguousarray(change(tables[TABLE]))}, engine / COORDINATES)
    sign_again(engine)
    with pytest.raises(EngineError, match=found):
        load_backend(engine)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"graphs": {"vision": "../vision.onnx"}}, "expected files of the same folder"),
        ({"graphs": {"vision": 3}}, "graphs: vision is 3; expected text"),
        ({"graphs": {"vision": "absent.onnx"}}, "does not list the graph files absent.onnx"),
        ({"graphs": []}, "graphs is .*; expected a mapping"),
        ({"files": {"x" * 300: {"size": 1, "sha256": "a"}}}, "expected files of the same folder"),
        ({"files": {"a\0b": {"size": 1, "sha256": "a"}}}, "expected files of the same folder"),
        ({"files": {"a": {"size": "1", "sha256": "a"}}}, "size is '1'; expected an integer"),
        ({"files": {"a": 3}}, "expected a mapping of settings"),
        ({"backend": 3}, "backend is 3; expected text"),
        ({"surprise": 1}, "has no setting 'surprise'"),
    ],
)
def test_a_manifest_of_wrong_types_is_one_line(
    engine: Path, changes: dict[str, Any], found: str
) -> None:
    values = {**json.loads((engine / NAME).read_text()), **changes}
    del values["signature"]
    (engine / NAME).write_text(json.dumps({**values, "signature": checksum_of(values)}))
    with pytest.raises(EngineError, match=found) as error:
        load_backend(engine)
    assert "\n" not in str(error.value)


def test_a_graph_that_the_engine_lacks_is_named(engine: Path) -> None:
    manifest = read_manifest(engine)
    graphs = {name: file for name, file in manifest.graphs.items() if name != "packer"}
    dataclasses.replace(manifest, graphs=graphs).write(engine)
    with pytest.raises(EngineError, match="packer"):
        load_backend(engine)


def test_external_data_may_be_symbolic_links(engine: Path, tmp_path: Path) -> None:
    """Folders that the Hugging Face hub downloads have links to its cache for large files."""
    graph = engine / "vision.onnx"
    model = onnx.load(graph)
    graph.unlink()
    onnx.save(model, graph, save_as_external_data=True, location="vision.data", size_threshold=128)
    sign_again(engine)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    plain = np.asarray(load_backend(engine)[0].encode_frame(image))
    blob = tmp_path / "blobs" / "0123abc"
    blob.parent.mkdir()
    (engine / "vision.data").rename(blob)
    (engine / "vision.data").symlink_to(blob)
    assert np.array_equal(np.asarray(load_backend(engine)[0].encode_frame(image)), plain)
