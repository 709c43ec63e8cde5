"""The streaming torch backend equals the reference, window after window."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.backends.torch_streaming import STREAMING_MIN_EMBED_DIM, StreamingTorchBackend
from llava_st_ros.config import PackerConfig
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.parity import NotExposed, ParityCase, compare
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from support.paths import GOLDEN
from support.tiny_model import (
    tiny_config,
    tiny_image_prompt,
    tiny_model,
    tiny_tokenizer,
    tiny_video_prompt,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both() -> tuple[TorchBackend, StreamingTorchBackend]:
    config = tiny_config()
    model = tiny_model(config)
    return TorchBackend((model, config)), StreamingTorchBackend((model, config))


def test_sliding_and_repeated_windows_equal_the_reference(both) -> None:
    reference, streaming = both
    images = np.random.default_rng(0).integers(0, 256, (14, 30, 50, 3), dtype=np.uint8)
    theirs, ours = ([b.encode_frame(image) for image in images] for b in both)
    # First, repeated, slid, half from another camera, and one frame only.
    windows = (
        (*range(10),),
        (*range(10),),
        (*range(4, 14),),
        (*range(9, 14), *range(5)),
        (3,) * 10,
    )
    for places in windows:
        wanted = reference.pack([theirs[i] for i in places], range(10))
        found = streaming.pack([ours[i] for i in places], range(10))
        torch.testing.assert_close(found.fast, wanted.fast, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.slow, wanted.slow, rtol=1e-5, atol=1e-5)
    assert torch.equal(streaming.image_tokens(ours[3]), reference.image_tokens(theirs[3]))


def test_work_is_reused_by_the_next_window(both, monkeypatch) -> None:
    _, streaming = both
    images = np.random.default_rng(1).integers(0, 256, (11, 38, 38, 3), dtype=np.uint8)
    frames = [streaming.encode_frame(image) for image in images]
    streamed: list[object] = []
    frame = streaming.packer.frame
    monkeypatch.setattr(
        streaming.packer, "frame", lambda rows: streamed.append(rows) or frame(rows)
    )
    streaming.image_tokens(frames[0])
    assert not streamed  # images do not need the packer
    streaming.pack(frames[:10], range(10))
    streaming.pack(frames[1:], range(10))
    assert len(streamed) == 11
    assert streaming.last_window.computed_frames == 10
    streaming.pack(frames[1:], range(10))
    assert (streaming.last_window.computed_frames, streaming.last_window.computed_regions) == (0, 0)


def test_tokens_agree_with_the_published_code() -> None:
    case = ParityCase(GOLDEN)
    checkpoint = load_checkpoint(case.folder, overrides=case.overrides())
    found = list(compare(case, StreamingTorchBackend(checkpoint)))
    assert len(found) > 8
    assert all(isinstance(one, NotExposed) or one.passed for one in found), found


def test_logits_equal_the_reference(both) -> None:
    images = np.random.default_rng(2).integers(0, 256, (10, 38, 38, 3), dtype=np.uint8)
    logits = []
    for backend in both:
        frames = [backend.encode_frame(image) for image in images]
        for prompt, visual in (
            (tiny_video_prompt(backend.config), backend.pack(frames, range(10))),
            (tiny_image_prompt(backend.config), backend.image_tokens(frames[0])),
        ):
            logits.append(backend.prefill(backend.embed(prompt, visual), backend.new_cache()))
    for ours, theirs in zip(logits[2:], logits[:2]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_mismatched_time_indices_are_rejected(both) -> None:
    _, streaming = both
    frame = streaming.encode_frame(np.zeros((38, 38, 3), np.uint8))
    with pytest.raises(BackendError, match="1 frames with 2 time indices"):
        streaming.pack([frame], (0, 1))


@pytest.mark.parametrize(
    ("embed", "kind"),
    [
        (STREAMING_MIN_EMBED_DIM, StreamingTorchBackend),
        (STREAMING_MIN_EMBED_DIM // 2, TorchBackend),
    ],
)
def test_wide_packers_use_the_streaming_backend(
    embed: int, kind: type[TorchBackend], tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    config = dataclasses.replace(tiny_config(tokenizer), packer=PackerConfig(embed, 2))
    save_checkpoint(tmp_path, tiny_model(config), config, tokenizer, "float32")
    backend, _ = load_backend(tmp_path)
    assert type(backend) is kind
    assert backend.describe().name == "torch"
