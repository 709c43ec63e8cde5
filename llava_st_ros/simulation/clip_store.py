"""Simulated clips on disk: shards of raw frames beside a JSON file with the truth.

A shard is a folder with ``frames.npy`` (uint8 [n, F, S, S, 3], opened as a memory map) and
``clips.json`` (seeds, stamps, objects, events, boxes). A shard is written under a temporary name
and renamed when it is whole, so that a killed run leaves no half shard and starts where it ended.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.errors import DataError
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.scenes import SimulatedObject
from llava_st_ros.simulation.simulator import (
    SimulatedClip,
    SimulatedEvent,
    simulate_clip,
    split_seed,
)

SHARD_CLIPS = 50


def render_shards(
    folder: Path, split: str, clips: int, *, num_frames: int, size: int, workers: int
) -> Iterator[Path]:
    """Render the first ``clips`` clips of a split, in shards; yields each shard as it is ready.

    Where another process renders into the folder, this one waits until that is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (folder / f"{split}-{first:06d}", split, first, min(SHARD_CLIPS, clips - first))
        for first in range(0, clips, SHARD_CLIPS)
    ]
    missing = [job for job in jobs if not job[0].is_dir()]
    yield from (job[0] for job in jobs if job not in missing)
    if not missing:
        return
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield from (job[0] for job in missing if job[0].is_dir())
        missing = [job for job in missing if not job[0].is_dir()]
        # Spawned, not forked: a GL context does not survive a fork.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_render_shard, *job, num_frames, size) for job in missing]
            for future in as_completed(futures):
                yield future.result()


def _render_shard(
    folder: Path, split: str, first: int, count: int, num_frames: int, size: int
) -> Path:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    frames = np.lib.format.open_memmap(
        part / "frames.npy", mode="w+", dtype=np.uint8, shape=(count, num_frames, size, size, 3)
    )
    truths = []
    for index in range(count):
        clip = simulate_clip(split_seed(split, first + index), num_frames=num_frames, size=size)
        frames[index] = clip.frames
        truths.append(_truth(clip))
    frames.flush()
    (part / "clips.json").write_text(json.dumps(truths), encoding="utf-8")
    part.rename(folder)
    return folder


def _truth(clip: SimulatedClip) -> dict[str, Any]:
    boxes = [
        [None if np.isnan(box[0]) else [float(v) for v in box] for box in frame]
        for frame in clip.boxes
    ]
    return {
        "seed": int(clip.seed),
        "stamps": [float(s) for s in clip.stamps],
        "objects": [asdict(o) for o in clip.objects],
        "events": [asdict(e) for e in clip.events],
        "boxes": boxes,
    }


def _event(truth: dict[str, Any]) -> SimulatedEvent:
    first, last = truth["span"]
    return SimulatedEvent(EventKind(truth["kind"]), truth["subject"], truth["other"], (first, last))


def _boxes(rows: list[list[list[float] | None]]) -> np.ndarray:
    hidden = [float("nan")] * 4
    return np.array([[box or hidden for box in frame] for frame in rows], dtype=np.float32)


class ClipStore:
    """Random access to the clips of a folder that ``render_shards`` filled.

    ``len(store)`` clips; ``store[i]`` is a SimulatedClip whose frames are a view of the file.
    Raises DataError when the folder holds no shard or a shard cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(
            path for path in folder.glob("*-*") if path.is_dir() and path.suffix != ".part"
        )
        if not shards:
            raise DataError(
                f"no clips in {folder}; expected shards of simulated clips",
                "run llava-st train simulate",
            )
        self.folder = folder
        self._truths: list[dict[str, Any]] = []
        self._frames: list[tuple[np.ndarray, int]] = []
        self._sources: list[str] = []
        digest = hashlib.sha256()
        for shard in shards:
            try:
                frames = np.load(shard / "frames.npy", mmap_mode="r", allow_pickle=False)
                text = (shard / "clips.json").read_bytes()
                truths = json.loads(text)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{shard}: {error}; expected a whole shard", "delete it and run simulate again"
                ) from error
            if len(frames) != len(truths):
                raise DataError(
                    f"{shard}: {len(frames)} clips but {len(truths)} truths"
                    "; expected one truth a clip",
                    "delete it and run simulate again",
                )
            digest.update(text)
            self._truths += truths
            self._frames += [(frames, index) for index in range(len(frames))]
            self._sources += [f"{shard.name}:{index}" for index in range(len(frames))]

        self.digest = digest.hexdigest()  # of what is true of the clips, frames not included

    def __len__(self) -> int:
        return len(self._truths)

    def first(self, clips: int) -> ClipStore:
        """The store of the first ``clips`` clips; raises DataError when there are fewer."""
        if clips > len(self):
            raise DataError(
                f"{len(self)} clips in {self.folder}; expected at least {clips}",
                "simulate more or ask for fewer",
            )
        store = copy.copy(self)
        store._truths = self._truths[:clips]
        store._frames, store._sources = self._frames[:clips], self._sources[:clips]
        return store

    def frames(self, index: int) -> np.ndarray:
        """uint8 [F, S, S, 3] of one clip."""
        frames, row = self._frames[index]
        return frames[row]

    def source(self, index: int) -> str:
        """Where a clip lies: its shard and its row there, "train-000050:17"."""
        return self._sources[index]

    def boxes(self, index: int) -> np.ndarray:
        """float32 [F, objects, 4], NaN where an object is not to be seen."""
        return _boxes(self._truths[index]["boxes"])

    def objects(self, index: int) -> tuple[SimulatedObject, ...]:
        return tuple(SimulatedObject(**o) for o in self._truths[index]["objects"])

    def __getitem__(self, index: int) -> SimulatedClip:
        truth = self._truths[index]
        return SimulatedClip(
            seed=truth["seed"],
            frames=self.frames(index),
            boxes=_boxes(truth["boxes"]),
            objects=self.objects(index),
            events=tuple(_event(e) for e in truth["events"]),
            stamps=np.array(truth["stamps"]),
        )
