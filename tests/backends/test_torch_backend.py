"""The torch backend: its cache, its prompts, and agreement with the model's batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.preprocessing import preprocess
from llava_st_ros.backends.torch import TorchBackend, resolve_device
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError, CheckpointError, ConfigError
from llava_st_ros.model.checkpoint import save_checkpoint
from llava_st_ros.records import Modality, Prompt
from support.tiny_model import (
    tiny_config,
    tiny_image_prompt,
    tiny_model,
    tiny_tokenizer,
    tiny_video_prompt,
)


def backend_of(compat: str) -> TorchBackend:
    config = tiny_config(compat=compat)
    return TorchBackend((tiny_model(config), config))


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return backend_of("paper")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (10, 30, 50, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def features(backend: TorchBackend, frames: list[np.ndarray]) -> list[torch.Tensor]:
    return [backend.encode_frame(frame) for frame in frames]


@pytest.fixture(scope="module")
def embeddings(backend: TorchBackend, features: list[torch.Tensor]) -> torch.Tensor:
    return backend.embed(tiny_video_prompt(backend.config), backend.pack(features, range(10)))


def test_describe_names_backend_device_and_precision(backend: TorchBackend) -> None:
    description = backend.describe()
    assert (description.name, description.device, description.precision) == (
        "torch",
        "cpu",
        "float32",
    )
    assert description.model is backend.config


def test_single_frames_equal_a_batch(
    backend: TorchBackend, frames: list[np.ndarray], features: list[torch.Tensor]
) -> None:
    pixels = np.stack([preprocess(frame, backend.config.image_size) for frame in frames])
    with torch.inference_mode():
        together = backend.model.encode_images(torch.from_numpy(pixels))
    torch.testing.assert_close(torch.stack(features), together)
    assert features[0].shape == (81, 32)


def test_extending_by_several_tokens_equals_one_by_one(
    backend: TorchBackend, embeddings: torch.Tensor
) -> None:
    ids = [
        3,
        backend.config.coordinates.ids(Axis.TIME)[4],
        9,
        backend.config.coordinates.ids(Axis.WIDTH)[11],
        1,
    ]
    one, many = backend.new_cache(), backend.new_cache()
    for cache in (one, many):
        first = backend.prefill(embeddings, cache)
        assert first.shape == (backend.config.vocabulary,)
        assert first.dtype == np.float32
    single = np.concatenate([backend.extend([token], one) for token in ids])
    several = backend.extend(ids, many)
    assert several.shape == (5, backend.config.vocabulary)
    np.testing.assert_allclose(several, single, atol=2e-5)
    assert one.length == many.length == len(embeddings) + 5
    assert backend.extend([], many).shape == (0, backend.config.vocabulary)
    assert many.length == one.length


def test_cached_logits_equal_one_pass(backend: TorchBackend, embeddings: torch.Tensor) -> None:
    """Chunked prefill and extension equal one pass without a cache."""
    cache = backend.new_cache()
    backend.prefill(embeddings[:7], cache)
    pieces = backend.prefill(embeddings[7:], cache)
    after = backend.extend([5, 6], cache)
    model = backend.model
    with torch.inference_mode():
        rows = torch.cat([embeddings, model.embed_tokens(torch.tensor([5, 6]))])
        one_pass = model.logits(model.decode(rows[None]))[0].numpy()
    np.testing.assert_allclose(pieces, one_pass[-3], atol=2e-5)
    np.testing.assert_allclose(after, one_pass[-2:], atol=2e-5)


def test_truncated_positions_have_no_effect(
    backend: TorchBackend, embeddings: torch.Tensor
) -> None:
    cache = backend.new_cache()
    backend.prefill(embeddings, cache)
    length = cache.length
    expected = backend.extend([8], cache)
    for wrong in ([1, 2, 3], [4]):
        cache.truncate(length)
        assert cache.length == length
        backend.extend(wrong, cache)
    cache.truncate(length)
    cache.truncate(length)
    np.testing.assert_allclose(backend.extend([8], cache), expected, atol=1e-6)
    cache.truncate(0)
    assert cache.length == 0
    backend.prefill(embeddings, cache)
    np.testing.assert_allclose(backend.extend([8], cache), expected, atol=2e-5)
    for length in (-1, cache.length + 1):
        with pytest.raises(BackendError, match="truncate"):
            cache.truncate(length)


def test_released_ignores_fast_tokens_and_width_inputs(features: list[torch.Tensor]) -> None:
    places = {}
    for compat in ("released", "paper"):
        backend = backend_of(compat)
        prompt = tiny_video_prompt(backend.config)
        visual = backend.pack(features, range(10))
        embedded = backend.embed(prompt, visual)
        raw = backend.model.embed_tokens(torch.from_numpy(prompt.token_ids))
        places[compat] = set((embedded != raw).any(-1).nonzero().flatten().tolist())
    config = backend.config
    fast = set(range(3, 3 + config.num_fast_tokens))
    slow = set(range(3 + len(fast), 3 + len(fast) + config.num_slow_tokens))
    time, height, width = (3 + len(fast) + len(slow) + i for i in (2, 3, 4))
    assert places["released"] == slow | {time, height}
    assert places["paper"] == fast | slow | {time, height, width}


def test_visual_tokens_and_coordinate_inputs_are_embedded(
    backend: TorchBackend, features: list[torch.Tensor], embeddings: torch.Tensor
) -> None:
    config = backend.config
    visual = backend.pack(features, range(10))
    slow_start = 3 + config.num_fast_tokens
    assert torch.equal(embeddings[3:slow_start], visual.fast)
    after = slow_start + config.num_slow_tokens
    assert torch.equal(embeddings[slow_start:after], visual.slow)
    height = backend.model.table(Axis.HEIGHT, "input").weight
    torch.testing.assert_close(embeddings[after + 3], (height[5] + height[6]) / 2)


def test_image_tokens_are_embedded(backend: TorchBackend, features: list[torch.Tensor]) -> None:
    tokens = backend.image_tokens(features[3])
    embedded = backend.embed(tiny_image_prompt(backend.config), tokens)
    assert torch.equal(embedded[1:82], tokens)


def test_padding_does_not_change_results(
    backend: TorchBackend, features: list[torch.Tensor]
) -> None:
    model, config = backend.model, backend.config
    video, image = backend.pack(features, range(10)), backend.image_tokens(features[0])
    prompts, visuals = [tiny_video_prompt(config), tiny_image_prompt(config)], [video, image]
    with torch.inference_mode():
        rows, mask = model.embed_batch(prompts, visuals)
        hidden = model.decode(rows, mask)
        assert mask.sum(1).tolist() == [len(p.token_ids) for p in prompts]
        for index, (prompt, visual) in enumerate(zip(prompts, visuals)):
            alone = model.decode(backend.embed(prompt, visual)[None])[0]
            torch.testing.assert_close(hidden[index, : len(alone)], alone, atol=2e-5, rtol=1e-4)


def test_mismatched_inputs_are_rejected(
    backend: TorchBackend, features: list[torch.Tensor]
) -> None:
    config = backend.config
    prompt = tiny_video_prompt(config)
    visual = backend.pack(features, range(10))
    with pytest.raises(BackendError, match="fast block has 10 positions for 5"):
        backend.embed(prompt, backend.pack(features[:5], range(5)))
    with pytest.raises(BackendError, match="0 starts and 0 ends of a image block"):
        backend.embed(
            dataclasses.replace(prompt, modality=Modality.IMAGE), backend.image_tokens(features[0])
        )
    with pytest.raises(BackendError, match="no visual tokens"):
        backend.embed(prompt, None)
    with pytest.raises(BackendError, match="1 <TEMP-INPUT> tokens but 2 values"):
        backend.embed(dataclasses.replace(prompt, temporal_inputs=(0.1, 0.2)), visual)
    outside = prompt.token_ids.copy()
    outside[0] = config.vocabulary
    with pytest.raises(BackendError, match="token ids"):
        backend.embed(dataclasses.replace(prompt, token_ids=outside), visual)
    with pytest.raises(ConfigError, match="7 frames"):
        backend.pack(features[:7], range(7))
    with pytest.raises(BackendError, match="time indices"):
        backend.pack(features[:5], range(6, 11))
    with pytest.raises(BackendError, match="4 time indices"):
        backend.pack(features[:5], range(4))
    with pytest.raises(BackendError, match="no frames"):
        backend.pack([], [])


def test_invalid_calls_are_rejected(backend: TorchBackend, embeddings: torch.Tensor) -> None:
    with pytest.raises(BackendError, match="the prompt is empty"):
        backend.prefill(embeddings[:0], backend.new_cache())
    with pytest.raises(BackendError, match="token ids"):
        backend.extend([-1], backend.new_cache())
    with pytest.raises(BackendError, match="not a cache of this backend"):
        backend.prefill(embeddings, object())
    language = dataclasses.replace(backend.config.language, max_position_embeddings=5)
    config = dataclasses.replace(backend.config, language=language)
    short = TorchBackend((tiny_model(config), config))
    with pytest.raises(BackendError, match="at most the model's 5"):
        short.prefill(embeddings, short.new_cache())


def test_text_prompt_needs_no_frames(backend: TorchBackend) -> None:
    embedded = backend.embed(Prompt(np.array([1, 2, 3]), Modality.VIDEO), None)
    assert backend.prefill(embedded, backend.new_cache()).shape == (backend.config.vocabulary,)


def test_half_precision_keeps_the_rotary_frequencies(frames: list[np.ndarray]) -> None:
    config = tiny_config()
    backend = TorchBackend((tiny_model(config), config), dtype=torch.bfloat16)
    assert backend.describe().precision == "bfloat16"
    assert backend.model.model.rotary_emb.inv_freq.dtype == torch.float32
    visual = backend.pack([backend.encode_frame(frame) for frame in frames], range(10))
    embeddings = backend.embed(tiny_video_prompt(config), visual)
    assert embeddings.dtype == torch.bfloat16
    logits = backend.prefill(embeddings, backend.new_cache())
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_load_backend_applies_its_settings(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    model = tiny_model(config)
    save_checkpoint(tmp_path, model, config, tokenizer, "float32")
    backend, loaded = load_backend(tmp_path)
    assert loaded.vocab_size == tokenizer.vocab_size
    ids = tokenizer.encode("where is the red cube")
    found, expected = (
        b.extend(ids, b.new_cache()) for b in (backend, TorchBackend((model, config)))
    )
    np.testing.assert_array_equal(found, expected)
    before = torch.get_num_threads()
    try:
        load_backend(tmp_path, threads=before + 1)
        assert torch.get_num_threads() == before + 1
        load_backend(tmp_path)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(BackendError, match="backend 'abacus'"):
        load_backend(tmp_path, "abacus")
    with pytest.raises(BackendError, match="precision is 'float8'"):
        load_backend(tmp_path, precision="float8")
    for device in ("abacus", "cuda:99"):
        with pytest.raises(BackendError, match="device"):
            resolve_device(device)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_backend(tmp_path)
