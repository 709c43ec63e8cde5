"""The frozen vision tower's features of all clips, computed once and kept in the work folder.

Each file is named after the tower and the clips that it is of, so that features of other weights
are never used, also when a run's files are moved between machines. An interrupted computation
resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import DataError
from llava_st_ros.files.array_files import map_array
from llava_st_ros.files.json_files import read_json
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.training.loop.time_budget import TimeBudget

FRAMES_AT_ONCE = 100
SAVED_EVERY = 20  # batches


def features_file(folder: Path, name: str, model: LlavaST, store: ClipStore) -> Path:
    """Return the file of the features of a store under a model's vision tower.

    Args:
        folder: The work folder.
        name: A name for the store's kind of clips, the start of the file's name.
        model: The model.
        store: The clips.
    """
    digest = hashlib.sha256(store.digest.encode())
    for key, value in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.float().cpu().numpy().tobytes())
    return folder / f"{name}-{digest.hexdigest()[:16]}.npy"


def compute_features(
    model: LlavaST, store: ClipStore, path: Path, budget: TimeBudget | None = None
) -> None:
    """Write the tower's output for every frame of the store, float16 [clips, F, N, Dv].

    Features of other towers in the same folder are deleted.

    Args:
        model: The model.
        store: The clips.
        path: As ``features_file`` returns it.
        budget: The time of this call; None: no limit.

    Raises:
        DataError: The frames are not of the model's image size.
        TrainingInterrupted: The budget is used up. A second call resumes.
    """
    name = path.stem.rpartition("-")[0]
    for old in path.parent.glob(f"{name}-*.npy*"):
        if not old.name.startswith(path.name):
            old.unlink()
    config, device = model.config, next(model.parameters()).device
    frames, side, *_ = store.frames(0).shape
    if side != config.image_size:
        raise DataError(
            f"{store.folder} has frames of {side} pixels; expected {config.image_size}",
            "render them with the training YAML",
        )
    shape = (len(store), frames, config.tokens_per_frame, config.vision.hidden_size)
    part, count = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.done")
    first = _clips_done(part, count, shape)
    mode = "r+" if first else "w+"
    cache = np.lib.format.open_memmap(part, mode=mode, dtype=np.float16, shape=shape)
    size = max(1, FRAMES_AT_ONCE // frames)
    steps = range(first, len(store), size)
    for number, start in enumerate(tqdm(steps, desc=name.replace("_", " ")), start=1):
        clips = range(start, min(start + size, len(store)))
        images = torch.from_numpy(np.concatenate([store.frames(clip) for clip in clips]))
        with torch.inference_mode():
            features = model.vision_features(_pixels(images.to(device))).half().cpu()
        cache[start : clips.stop] = features.numpy().reshape(len(clips), *shape[1:])
        out_of_time = budget is not None and budget.is_used_up
        if out_of_time or number % SAVED_EVERY == 0:
            cache.flush()
            write_text(count, json.dumps({"clips": clips.stop}))
        if budget is not None:
            budget.check(
                f"{name.replace('_', ' ')} of {clips.stop} of {len(store)} clips are saved"
            )
    cache.flush()
    os.replace(part, path)
    count.unlink(missing_ok=True)


def open_features(path: Path) -> np.ndarray:
    """Return a file's features, float16 [clips, F, N, Dv]. Raises DataError."""
    return map_array(path, DataError, "delete it to compute it again")


def _pixels(images: Tensor) -> Tensor:
    """Normalize uint8 [B, S, S, 3] -> float32 [B, 3, S, S], as backends.preprocessing does."""
    return (images.permute(0, 3, 1, 2).float() * (1 / 255) - 0.5) / 0.5


def _clips_done(part: Path, count: Path, shape: tuple[int, ...]) -> int:
    """The number of clips in an interrupted file; 0 if there is none that can be continued."""
    with contextlib.suppress(DataError):
        done = read_json(count, DataError).get("clips")
        if map_array(part, DataError).shape == shape and isinstance(done, int):
            return min(max(done, 0), shape[0])
    return 0
