"""``llava-st parity``: the published code's case, another geometry, and invalid cases."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import support.numpy_llava_st as reference
from llava_st_ros.cli import parity
from llava_st_ros.config import SpecialTokens
from llava_st_ros.errors import DataError, LlavaStError
from support.paths import GOLDEN

pytestmark = pytest.mark.slow

FRAMES, GRID, PATCH, IMAGE = 20, 9, 5, 47  # two pixels of padding


def run(case: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    parity.add_arguments(parser)
    return parity.run(parser.parse_args([str(case), *options]))


def weights_of(rng: np.random.Generator) -> reference.Weights:
    width, vision, packer, text, rows = 24, 20, 12, 40, 30
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (text, width),
        "model.embed_tokens.weight": (text, width),
        "model.norm.weight": (width,),
    }

    def dense(name: str, inner: int, outer: int, bias: bool = True) -> None:
        shapes[name + ".weight"] = (outer, inner)
        if bias:
            shapes[name + ".bias"] = (outer,)

    def norm(name: str, size: int) -> None:
        shapes[name + ".weight"] = shapes[name + ".bias"] = (size,)

    for axis, count in (("temporal", FRAMES), ("spatial_height", rows), ("spatial_width", rows)):
        for side in ("input", "output"):
            shapes[f"model.{axis}_{side}_embeddings.weight"] = (count, width)
    for layer in range(3):
        name = f"model.layers.{layer}."
        for part, inner, outer in (("q", width, width), ("k", width, 8), ("v", width, 8)):
            dense(f"{name}self_attn.{part}_proj", inner, outer)
        dense(name + "self_attn.o_proj", width, width, bias=False)
        for part, inner, outer in (("gate", width, 36), ("up", width, 36), ("down", 36, width)):
            dense(f"{name}mlp.{part}_proj", inner, outer, bias=False)
        for part in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{name}{part}.weight"] = (width,)
    dense("model.mm_projector.0", vision, width)
    dense("model.mm_projector.2", width, width)
    for packer_name in ("token_packer", "token_packer_slow", "token_packer_fast"):
        name = f"model.vision_resampler.{packer_name}.devide_attention."
        for part in "qkv":
            dense(f"{name}to_{part}.0", width, packer)
            dense(f"{name}to_{part}.2", packer, packer)
            norm(f"{name}ln_{part}", packer)
        shapes[name + "attn.in_proj_weight"] = (3 * packer, packer)
        shapes[name + "attn.in_proj_bias"] = (3 * packer,)
        dense(name + "attn.out_proj", packer, packer)
        dense(name + "to_out", packer, width, bias=False)
    tower = reference.VISION
    shapes[tower + "embeddings.patch_embedding.weight"] = (vision, 3, PATCH, PATCH)
    shapes[tower + "embeddings.patch_embedding.bias"] = (vision,)
    shapes[tower + "embeddings.position_embedding.weight"] = (GRID**2, vision)
    for layer in range(2):
        name = f"{tower}encoder.layers.{layer}."
        for part in ("q", "k", "v", "out"):
            dense(f"{name}self_attn.{part}_proj", vision, vision)
        dense(name + "mlp.fc1", vision, 28)
        dense(name + "mlp.fc2", 28, vision)
        norm(name + "layer_norm1", vision)
        norm(name + "layer_norm2", vision)
    norm(tower + "post_layernorm", vision)
    weights = {}
    for name, shape in shapes.items():
        gain = name.endswith("norm.weight") or ".ln_" in name or "layer_norm" in name
        # Larger packer weights, so that attention affects the output.
        values = rng.normal(size=shape) * (0.6 if "token_packer" in name else 0.3)
        weights[name] = (values + (gain and name.endswith("weight"))).astype("f4")
    return weights


def make_case(folder: Path, compat: str) -> Path:
    """Write a case of another geometry, with values of the NumPy reference."""
    rng = np.random.default_rng(7)
    folder.mkdir()
    weights = weights_of(rng)
    names = [field.name for field in dataclasses.fields(SpecialTokens)]
    tokens = {name: 20 + index for index, name in enumerate(names)}
    locations = {
        f"{axis}_{side}_locations": []
        for axis in ("temporal", "spatial_height", "spatial_width")
        for side in ("input", "output")
    }
    values = {
        **locations,
        "temporal_input_locations": [0.253, 1.0],
        "spatial_height_input_locations": [0.1],
        "spatial_width_input_locations": [0.333],
    }
    case: dict[str, Any] = {
        "image_size": IMAGE,
        "patch_size": PATCH,
        "vision": {
            "hidden_size": 20,
            "intermediate_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "layer_norm_eps": 1e-6,
        },
        "packer": {"embed_dim": 12, "num_heads": 3},
        "token_ids": tokens,
        "video_variables": values,
        "image_variables": {**values, "temporal_input_locations": []},
    }
    config = {
        "vocab_size": 40,
        "max_position_embeddings": 512,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5000.0,
        "num_spatial_tokens": 30,
        "num_temporal_tokens": FRAMES,
        "mm_vision_tower": "someone/tiny",
        "llava_st": {"compat": compat},
    }
    frames = rng.integers(0, 256, (FRAMES, GRID, GRID, 3), dtype=np.uint8)

    def block(start: str, patch: str, end: str, count: int) -> list[int]:
        return [tokens[start], *[tokens[patch]] * (count - 2), tokens[end]]

    t, h, w = (tokens[f"{a}_input"] for a in ("temporal", "spatial_height", "spatial_width"))
    fast = block("vid_start", "vid_patch", "vid_end", FRAMES)
    slow = block("slow_vid_start", "vid_patch", "slow_vid_end", FRAMES // 5 * 9)
    video = np.array([1, 2, *fast, *slow, 3, t, t, w, h, 45, 70, 100, 5])
    image = np.array([1, *block("im_start", "im_patch", "im_end", GRID**2), 4, w, h, 6])

    pixels = np.zeros((FRAMES, 3, IMAGE, IMAGE))
    shown = frames.repeat(PATCH, 1).repeat(PATCH, 2).transpose(0, 3, 1, 2)
    pixels[:, :, : GRID * PATCH, : GRID * PATCH] = (shown / 255 - 0.5) / 0.5
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    seen = np.stack([reference.vision(frame, exact, case) for frame in pixels])
    projected = reference.project(seen, exact)
    placed = projected + np.stack([reference.lape(exact, f, GRID) for f in range(FRAMES)])
    fast_tokens, slow_tokens = reference.pack(
        placed.reshape(FRAMES, GRID, GRID, -1), exact, case["packer"]["num_heads"]
    )
    released = compat == "released"
    flat = {"vid_start": fast_tokens, "slow_vid_start": slow_tokens}
    blocks = {name: rows.reshape(-1, rows.shape[-1]) for name, rows in flat.items()}
    rows = {
        "video": reference.embed(video, exact, case, case["video_variables"], blocks, released),
        "image": reference.embed(
            image, exact, case, case["image_variables"], {"im_start": placed[0]}, released
        ),
    }
    expected = {
        "vision_features_first4": seen[:4],
        "projector_features_first4": projected[:4],
        "fast_tokens": fast_tokens,
        "slow_tokens": slow_tokens,
        "image_tokens": placed[:1],
    }
    for kind, embeddings in rows.items():
        expected[f"{kind}_last_logits"] = reference.logits(embeddings, exact, config)[-5:]
    expected = {name: np.ascontiguousarray(v, dtype="f4") for name, v in expected.items()}
    for kind, embeddings in rows.items():
        ids = reference.generate(embeddings, exact, config, 4)
        expected[f"{kind}_generated_ids"] = ids

    save_file(weights, folder / "model.safetensors")
    save_file(expected, folder / "expected.safetensors")
    np.savez(folder / "inputs.npz", frames_small=frames, video_prompt=video, image_prompt=image)
    (folder / "case.json").write_text(json.dumps(case))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cases")
    return {compat: make_case(root / compat, compat) for compat in ("released", "paper")}


@pytest.fixture
def case(cases: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the released case, to be corrupted."""
    return Path(shutil.copytree(cases["released"], tmp_path / "case"))


def test_published_code_is_matched(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GOLDEN, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    compared = {r["name"] for r in (*report["arrays"], *report["ids"])}
    assert compared == set(load_file(GOLDEN / "expected.safetensors"))
    for array in report["arrays"]:
        assert array["difference"] < 1e-5 * array["std"], array


@pytest.mark.parametrize("compat", ["released", "paper"])
def test_another_geometry_passes(
    cases: dict[str, Path], compat: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cases[compat]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "agrees"
    assert "slow_tokens                4x9x24" in lines[3]
    assert "4 ids equal" in lines[7]


def test_compat_modes_differ(cases: dict[str, Path]) -> None:
    released, paper = (load_file(cases[c] / "expected.safetensors") for c in ("released", "paper"))
    for kind in ("video", "image"):
        name = f"{kind}_last_logits"
        assert np.abs(released[name] - paper[name]).max() > 1e-2
    assert np.array_equal(released["slow_tokens"], paper["slow_tokens"])


@pytest.mark.parametrize(
    ("tensor", "differing"),
    [
        ("model.spatial_width_output_embeddings.weight", "image_tokens"),
        ("model.vision_resampler.token_packer_fast.devide_attention.ln_k.weight", "fast_tokens"),
        ("model.layers.2.mlp.down_proj.weight", "video_last_logits"),
    ],
)
def test_perturbed_weight_is_detected(
    case: Path, tensor: str, differing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(case / "model.safetensors")
    weights[tensor] *= np.float32(1.5)
    save_file(weights, case / "model.safetensors")
    assert run(case, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"]
    assert differing in [r["name"] for r in report["arrays"] if not r["passed"]]


def test_wrong_ids_are_detected(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load_file(case / "expected.safetensors")
    expected["video_generated_ids"][2] += 1
    save_file(expected, case / "expected.safetensors")
    assert run(case) == 1
    assert "differ from index 2 on" in capsys.readouterr().out


def test_only_expected_arrays_are_compared(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load_file(case / "expected.safetensors")
    save_file({"image_tokens": expected["image_tokens"]}, case / "expected.safetensors")
    assert run(case, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in report["arrays"]] == ["image_tokens"]
    assert report["ids"] == []


def corrupt_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def corrupt_expected(case: Path, **changes: np.ndarray) -> None:
    path = case / "expected.safetensors"
    save_file({**load_file(path), **changes}, path)


def corrupt_inputs(case: Path, **changes: np.ndarray) -> None:
    with np.load(case / "inputs.npz") as inputs:
        values = {**inputs, **changes}
    np.savez(case / "inputs.npz", **values)


@pytest.mark.parametrize(
    ("corrupt", "names"),
    [
        (lambda c: (c / "case.json").unlink(), "case.json"),
        (lambda c: (c / "case.json").write_text("[1, 2"), "case.json"),
        (lambda c: corrupt_json(c / "case.json", image_size="large"), "image_size"),
        (lambda c: corrupt_json(c / "case.json", packer=None), "packer"),
        (lambda c: corrupt_json(c / "case.json", patch_size=7), "frames_small"),
        (lambda c: corrupt_json(c / "case.json", video_variables={}), "<TEMP-INPUT> tokens"),
        (lambda c: (c / "inputs.npz").write_bytes(b"no zip"), "inputs.npz"),
        (lambda c: (c / "expected.safetensors").write_bytes(b"short"), "expected.safetensors"),
        (lambda c: corrupt_expected(c, surprise=np.zeros(3)), "surprise"),
        (lambda c: corrupt_expected(c, slow_tokens=np.zeros((4, 8, 24), "f4")), "slow_tokens"),
        (lambda c: corrupt_inputs(c, video_prompt=np.array([1.5])), "video_prompt"),
        (lambda c: corrupt_inputs(c, frames_small=np.zeros((0, 9, 9, 3), "u1")), "frames_small"),
        (lambda c: corrupt_inputs(c, image_prompt=np.array([object()])), "inputs.npz"),
    ],
)
def test_malformed_case_is_rejected(case: Path, corrupt: Any, names: str) -> None:
    corrupt(case)
    with pytest.raises(DataError) as error:
        run(case)
    assert names in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(LlavaStError, match=r"no folder .*nowhere; expected a parity case"):
        run(tmp_path / "nowhere")
