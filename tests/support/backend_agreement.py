"""Checks that compare any backend with the torch backend, on tests/support/tiny_model.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.records import Modality
from support.tiny_model import tiny_image_prompt, tiny_video_prompt


def ten_frames() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (10, 30, 50, 3), dtype=np.uint8))


def window(backend: Any, frames: list[np.ndarray]) -> Any:
    return backend.pack([backend.encode_frame(frame) for frame in frames], range(10))


def check_features_and_visual_tokens(
    backend: Any, reference: TorchBackend, frames: list[np.ndarray], **close: float
) -> None:
    ours = [backend.encode_frame(frame) for frame in frames]
    theirs = [reference.encode_frame(frame) for frame in frames]
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(np.asarray(one), other, **close)
    np.testing.assert_allclose(
        np.asarray(backend.image_tokens(ours[3])), reference.image_tokens(theirs[3]), **close
    )
    # A repeated frame, time indices out of order, and fewer frames than a full window.
    order, indices = [2, 2, 0, 4, 1], [7, 0, 3, 9, 9]
    video = backend.pack([ours[i] for i in order], indices)
    expected = reference.pack([theirs[i] for i in order], indices)
    np.testing.assert_allclose(np.asarray(video.fast), expected.fast, **close)
    np.testing.assert_allclose(np.asarray(video.slow), expected.slow, **close)


def converse(
    backend: Any, frames: list[np.ndarray], modality: Modality, steps: Sequence[list[int]]
) -> np.ndarray:
    """Run a conversation: a prompt in two chunks, ``steps`` of tokens, and a rejected draft.

    Returns the logits [rows, vocabulary] of all steps.
    """
    config = backend.describe().model
    prompt = tiny_image_prompt(config) if modality is Modality.IMAGE else tiny_video_prompt(config)
    if modality is Modality.IMAGE:
        visual = backend.image_tokens(backend.encode_frame(frames[0]))
    else:
        visual = window(backend, frames)
    embeddings, cache = backend.embed(prompt, visual), backend.new_cache()
    assert len(embeddings) == len(prompt.token_ids)
    rows = [backend.prefill(embeddings[:5], cache), backend.prefill(embeddings[5:], cache)]
    assert cache.length == len(embeddings)
    rows += [row for ids in steps for row in backend.extend(ids, cache)]
    cache.truncate(len(embeddings) + 1)
    rows += list(backend.extend([4], cache))
    assert backend.extend([], cache).shape == (0, config.vocabulary)
    return np.stack(rows)
