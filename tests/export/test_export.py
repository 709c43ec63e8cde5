"""The export pipeline: engine directories are complete and proved, and misuse is rejected."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch.export import Dim

from llava_st_ros.backends import default_model, load_backend
from llava_st_ros.cli.__main__ import main
from llava_st_ros.engine.manifest import NAME, Manifest, check_files, read_manifest
from llava_st_ros.errors import BackendError, CheckpointError, ConfigError, DataError, EngineError
from llava_st_ros.export import engine_directory
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint, verify
from llava_st_ros.export.graphs.region_attention import BODY, OPSET, SCHEMA
from llava_st_ros.export.onnx_export import GraphSpec, export_graph
from llava_st_ros.export.plugin_names import DOMAIN
from llava_st_ros.export.plugin_names import NAME as NODE
from llava_st_ros.export.target import Bounds, read_target, target_names
from llava_st_ros.export.validate import measure
from llava_st_ros.export.validate.proof import Difference, Proof, check_bounds
from llava_st_ros.grounder import Grounder
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.model.packer.region_attention import region_attention
from llava_st_ros.records import Frame, Query, Task
from support.paths import ROOT

pytestmark = pytest.mark.slow

CPU = "cpu"


@pytest.fixture
def engine(random_engine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(random_engine, tmp_path / "engine"))


def request(checkpoint: Path, out: Path) -> ExportRequest:
    return ExportRequest(checkpoint, read_target(CPU), "float32", out)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_manifest_describes_the_engine(random_engine: Path, random_checkpoint: Path) -> None:
    manifest = read_manifest(random_engine)
    check_files(random_engine, manifest, hash_all=True)
    assert (manifest.backend, manifest.target, manifest.precision, manifest.compat) == (
        "onnxruntime",
        CPU,
        "float32",
        "paper",
    )
    on_disk = {path.name for path in random_engine.iterdir()}
    assert set(manifest.files) == on_disk - {NAME}
    assert set(manifest.graphs.values()) < on_disk
    assert {"torch", "onnx", "onnxruntime", "llava_st_ros"} <= set(manifest.versions)
    assert set(manifest.proof["graphs"]) == {"vision", "image", "packer", "language"}
    assert manifest.proof["equal_ids"] == 1.0
    assert not [path for path in random_engine.parent.iterdir() if path.name.startswith(".")]


def test_files_contain_no_path_of_this_machine(
    random_engine: Path, half_engine: Path, random_checkpoint: Path
) -> None:
    paths = (ROOT, Path(sys.prefix), Path(torch.__file__).parent, random_checkpoint)
    for path in (*random_engine.iterdir(), *half_engine.iterdir()):
        content = path.read_bytes()
        assert not [p for p in paths if str(p).encode() in content], path
        assert b"stack_trace" not in content and b'.py", line' not in content, path


def test_sources_in_another_folder_give_equal_files(tmp_path: Path) -> None:
    source = (
        "import torch\n\n\nclass Layer(torch.nn.Module):\n"
        "    def forward(self, x):\n        return torch.relu(x * 2.0)\n"
    )
    files = []
    for name in ("checkout", "another/checkout"):
        module = tmp_path / name / "layer.py"
        module.parent.mkdir(parents=True)
        module.write_text(source)
        layer = runpy.run_path(str(module))["Layer"]()
        spec = GraphSpec("one", layer, (torch.ones(2, 3),), ({0: Dim("rows")},), ("x",), ("y",))
        export_graph(spec, module.with_suffix(".onnx"))
        files.append(module.with_suffix(".onnx").read_bytes())
    assert files[0] == files[1] and b"layer.py" not in files[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda e: (e / NAME).unlink(), "no manifest.json"),
        (lambda e: (e / NAME).write_text("{"), "manifest.json is not valid JSON"),
        (lambda e: (e / NAME).write_text("[]"), "a JSON object"),
        (lambda e: (e / NAME).write_text('{"format": 0}'), "format"),
        (
            lambda e: (e / NAME).write_text((e / NAME).read_text().replace("float32", "float16")),
            "edited",
        ),
        (lambda e: (e / "packer.onnx").unlink(), "packer.onnx is missing"),
        (lambda e: (e / "vision.onnx").write_bytes(b"half"), "4 bytes"),
        (
            lambda e: (e / "config.json").write_text(
                (e / "config.json").read_text().replace("paper", "Paper")
            ),
            "changed after the export",
        ),
    ],
)
def test_damaged_directory_is_rejected(engine: Path, damage, message: str) -> None:
    damage(engine)
    with pytest.raises((EngineError, CheckpointError)) as error:
        load_backend(engine, "onnxruntime" if (engine / NAME).exists() else "")
    text = one_line(error)
    assert message in text or not (engine / NAME).exists()
    with pytest.raises(EngineError, match=message) as error:
        check_files(engine, read_manifest(engine), hash_all=True)
    one_line(error)


def test_unreadable_graph_gives_a_one_line_error(engine: Path) -> None:
    (engine / "image.onnx").write_bytes(b"no protobuf")
    manifest = read_manifest(engine)
    files = engine_directory.describe_files(engine)
    Manifest(**{**vars(manifest), "files": files}).write(engine)
    with pytest.raises(EngineError, match=r"image\.onnx") as error:
        load_backend(engine)
    one_line(error)


def test_interrupted_export_leaves_nothing(random_checkpoint: Path, tmp_path: Path) -> None:
    def stop(step: str) -> None:
        if step == "packer":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(request(random_checkpoint, tmp_path / "out"), on_step=stop)
    assert list(tmp_path.iterdir()) == []


def test_export_that_exceeds_the_bounds_fails_and_keeps_the_old_engine(
    random_checkpoint: Path, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (engine / NAME).read_bytes()
    wrong = Proof({"vision": Difference(1.0, 0.5), "packer": Difference(1.0, 0.6)}, 0.2, 0.5)
    monkeypatch.setattr(measure, "compare_outputs", lambda reference, engine: wrong)
    with pytest.raises(EngineError) as error:
        export_checkpoint(request(random_checkpoint, engine))
    text = one_line(error)
    assert text.index("vision") < text.index("packer") < text.index("divergence")
    assert (engine / NAME).read_bytes() == before


def test_proof_detects_other_weights(
    random_engine: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof, violations = verify(random_engine, random_checkpoint)
    assert violations == [] and proof.equal_ids == 1.0
    assert json.loads(json.dumps(proof.as_dict())) == proof.as_dict()

    checkpoint = load_checkpoint(random_checkpoint)
    with torch.no_grad():
        checkpoint.model.model.vision_resampler.token_packer.devide_attention.to_out.weight[0] += 1
    other = tmp_path / "other"
    save_checkpoint(other, checkpoint.model, checkpoint.config, checkpoint.tokenizer, "float32")
    with pytest.raises(EngineError, match="is not the checkpoint that") as error:
        verify(random_engine, other)
    one_line(error)
    # With an equal fingerprint, the measured differences reveal it.
    monkeypatch.setattr(engine_directory, "check_checkpoint", lambda *_: None)
    _, violations = verify(random_engine, other)
    assert violations and violations[0].startswith("packer graph, ")


def test_nan_exceeds_every_bound() -> None:
    nan = float("nan")
    bounds = Bounds(1.0, 1.0, 0.0)
    check_bounds(Proof({"vision": Difference(0.0, 0.0)}, 0.0, 1.0), bounds)
    for proof in (
        Proof({"vision": Difference(nan, nan)}, 0.0, 1.0),
        Proof({}, nan, 1.0),
        Proof({}, 0.0, nan),
    ):
        with pytest.raises(EngineError):
            check_bounds(proof, bounds)


def test_other_files_are_never_overwritten(
    random_checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    app, mixed = tmp_path / "app", tmp_path / "mixed"
    app.mkdir()
    (app / NAME).write_text('{"name": "a browser extension"}')
    engine.rename(mixed)
    (mixed / "notes.txt").write_text("mine")
    for out in (app, mixed):
        with pytest.raises(DataError, match="exists already") as error:
            export_checkpoint(request(random_checkpoint, out))
        one_line(error)
        assert (out / NAME).is_file()
    shutil.rmtree(app)
    shutil.rmtree(mixed)
    (tmp_path / "precious.txt").write_text("mine")
    file = tmp_path / "precious.txt"
    for out in (tmp_path, file, file / "below"):
        with pytest.raises(DataError) as error:
            export_checkpoint(request(random_checkpoint, out))
        one_line(error)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_targets_are_read_by_name(tmp_path: Path) -> None:
    assert CPU in target_names()
    for name in target_names():
        target = read_target(name)
        assert target.precisions
    for wrong in ("toaster", "../targets/cpu"):
        with pytest.raises(ConfigError):
            read_target(wrong)
    with pytest.raises(ConfigError):
        read_target(CPU).bounds("float8")


def test_function_body_computes_the_torch_operator() -> None:
    """Runs the ONNX function in ONNX's reference evaluator."""
    rng = np.random.default_rng(0)
    function = onnx.parser.parse_function(BODY)
    assert set(function.attribute) == {n for n, a in SCHEMA.attributes.items() if a.required}
    for side, length in ((3, 1), (1, 5), (2, 2)):
        key, value = rng.normal(size=(2, 2 * length, 2 * side, 3 * side, 6)).astype(np.float32)
        query = rng.normal(size=(2, 2, 3, 4, 6)).astype(np.float32)
        node = onnx.helper.make_node(
            NODE,
            ["query", "key", "value"],
            ["mixed"],
            domain=DOMAIN,
            spatial_region=side,
            temporal_region=length,
            epsilon=1e-5,
        )
        tensors = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * axes)
            for name, axes in (("query", 5), ("key", 4), ("value", 4), ("mixed", 5))
        ]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "one", tensors[:3], tensors[3:]),
            functions=[function],
            opset_imports=[
                onnx.helper.make_opsetid("", OPSET),
                onnx.helper.make_opsetid(DOMAIN, 1),
            ],
        )
        onnx.checker.check_model(model)
        (mixed,) = ReferenceEvaluator(model).run(None, {"query": query, "key": key, "value": value})
        expected = region_attention(
            *(torch.from_numpy(x) for x in (query, key, value)), side, length, 1e-5
        )
        np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_each_region_attention_is_one_node(random_engine: Path) -> None:
    graph = onnx.load(random_engine / "packer.onnx").graph
    nodes = [node for node in graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [NODE] * 3
    regions = {tuple(a.i for a in node.attribute if a.type == a.INT) for node in nodes}
    assert len(regions) == 2


def test_default_model_is_the_engine_of_the_default_checkpoint(
    random_checkpoint: Path, random_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Path(shutil.copytree(random_checkpoint, tmp_path / default_model.DEFAULT_MODEL))
    monkeypatch.setattr(default_model, "candidate_folders", lambda: iter([checkpoint]))
    assert default_model.default_model() == checkpoint
    engine = Path(shutil.copytree(random_engine, tmp_path / default_model.DEFAULT_ENGINE))
    assert default_model.default_model() == engine
    assert default_model.default_checkpoint() == checkpoint
    for other in ({"backend": "torch"}, {"device": "cuda"}, {"precision": "bfloat16"}):
        assert default_model.default_model(**other) == checkpoint
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content + b" ")  # changed since the export
        assert default_model.default_model() == checkpoint
        (checkpoint / name).write_bytes(content)
    assert default_model.default_model() == engine
    manifest = (engine / NAME).read_bytes()
    (engine / NAME).write_text("{}")
    assert default_model.default_model() == checkpoint
    (engine / NAME).write_bytes(manifest)
    shutil.rmtree(checkpoint)  # an engine runs without its checkpoint
    assert default_model.default_model() == engine
    shutil.rmtree(engine)
    with pytest.raises(CheckpointError):
        default_model.default_model()


def test_command_line(
    random_checkpoint: Path,
    random_engine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "engine"
    arguments = ["export", "--checkpoint", str(random_checkpoint), "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof == dict(read_manifest(out).proof)
    assert main(["export", "verify", str(out), "--against", str(random_checkpoint)]) == 0
    assert capsys.readouterr().out.endswith("agrees\n")
    assert main(["export", "--json", "verify", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"proof": proof, "problems": []}
    assert main(["export", "verify", str(out)]) == 0
    assert "files as exported" in capsys.readouterr().out
    assert main(["export", "inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "plugin layers 3" in text and "past_key_0 float" in text
    assert main(["export", "inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graphs"]["packer"]["plugins"] == 3

    for wrong in (
        ["export"],
        [*arguments, "--target", "toaster"],
        [*arguments, "--precision", "float8"],
        ["export", "--checkpoint", str(tmp_path / "absent"), "--out", str(tmp_path / "x")],
        ["export", "verify", str(tmp_path)],
        ["export", "verify", str(out), "--against", str(tmp_path)],
        ["export", "inspect", str(tmp_path)],
    ):
        assert main(wrong) == 2
        assert capsys.readouterr().err.count("\n") == 1, wrong
    assert not (tmp_path / "x").exists()


def test_inspect_lists_engines_with_their_machine(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = read_manifest(engine)
    files = {name: Path(file).with_suffix(".engine").name for name, file in built.graphs.items()}
    for name, file in files.items():
        (engine / built.graphs[name]).rename(engine / file)
    dataclasses.replace(
        built,
        backend="tensorrt",
        graphs=files,
        files=engine_directory.describe_files(engine),
        machine={"tensorrt": "10.3.0", "gpu": "Orin"},
    ).write(engine)
    assert main(["export", "inspect", str(engine)]) == 0
    text = capsys.readouterr().out
    assert "for tensorrt 10.3.0, gpu Orin" in text and "language: 0." in text
    assert main(["export", "inspect", str(engine), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["engines"]) == set(files)


def test_float16_engine_has_no_large_float32_weight(half_engine: Path, random_engine: Path) -> None:
    for name in ("vision", "image", "packer", "language"):
        graph = onnx.load(half_engine / f"{name}.onnx").graph
        single = [
            tensor.name
            for tensor in graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 32
        ]
        assert not single, f"{name}: {single}"
    sizes = [(folder / "language.onnx").stat().st_size for folder in (half_engine, random_engine)]
    assert sizes[0] < 0.75 * sizes[1]


def test_float16_engine_gives_the_same_answers(half_engine: Path, random_checkpoint: Path) -> None:
    proof = read_manifest(half_engine).proof
    assert all(1e-6 < d["relative"] < 5e-2 for d in proof["graphs"].values())
    assert 0 < proof["divergence"] < 1e-3
    backend, tokenizer = load_backend(half_engine)
    assert backend.describe().precision == "float16"
    answers = []
    for pair in (load_backend(random_checkpoint), (backend, tokenizer)):
        grounder = Grounder(*pair)
        for stamp in range(20):
            image = np.full((40, 40, 3), 10 * stamp, np.uint8)
            grounder.push(Frame(image, stamp * 300_000_000))
        answers.append(grounder.ask(Query("q", "the red ball", Task.TVG)).answer)
    assert answers[1].span is not None and not answers[1].problems
    assert answers[1] == answers[0]


def test_missing_device_is_reported_before_any_work(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="CUDAExecutionProvider") as error:
        export_checkpoint(
            ExportRequest(random_checkpoint, read_target("desktop"), "float16", tmp_path / "out")
        )
    one_line(error)
    assert not list(tmp_path.iterdir())
