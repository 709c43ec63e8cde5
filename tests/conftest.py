"""Fixtures and settings shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.chromium import chromium as chromium
from support.threads import one_thread

# Run times vary on a shared machine.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# Training tests compare runs bit by bit; a GPU would sum in another order.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

TEXTS = ("When does the red ball roll behind the box? Object bounding box: During the span of",)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint like llava-st-tiny, a hundredth of its size, with random weights.

    Under the grammar its answers are well formed, and it never answers "no match".
    """
    import torch

    from llava_st_ros.coordinates import Axis
    from llava_st_ros.model.checkpoint import save_checkpoint
    from llava_st_ros.model.llava_st import LlavaST
    from llava_st_ros.text.answer_format import NO_MATCH_TEXT
    from llava_st_ros.text.tokenizer import train_tokenizer
    from support.stream_config import stream_config

    tokenizer = train_tokenizer(TEXTS, 400, 20, 100)
    config = stream_config(tokenizer)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    model = LlavaST(config)
    with torch.no_grad():
        # A constant feature with a large negative weight for the first token of "no match".
        model.model.embed_tokens.weight[:, 0] = 5.0
        model.lm_head.weight[tokenizer.encode(NO_MATCH_TEXT)[0], 0] = -100.0
        # Peaked coordinate distributions: all flat ones would have the same median.
        for axis in Axis:
            model.table(axis, "output").weight *= 100.0
    save_checkpoint(folder, model, config, tokenizer, "float32")
    return folder


@pytest.fixture(scope="session")
def random_engine(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``random_checkpoint`` exported for ONNX Runtime on the CPU."""
    from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
    from llava_st_ros.export.target import read_target

    engine = tmp_path_factory.mktemp("engine") / "random"
    with one_thread():
        export_checkpoint(ExportRequest(random_checkpoint, read_target("cpu"), "float32", engine))
    return engine


@pytest.fixture(scope="session")
def half_engine(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``random_checkpoint`` exported in float16 for a GPU, compared with torch on the CPU."""
    from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
    from llava_st_ros.export.target import read_target

    engine = tmp_path_factory.mktemp("half") / "engine"
    request = ExportRequest(
        random_checkpoint, read_target("desktop"), "float16", engine, device="cpu"
    )
    with one_thread():
        export_checkpoint(request)
    return engine
