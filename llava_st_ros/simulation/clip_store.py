"""Simulated clips on disk: shards of raw frames with their ground truth.

A shard is a folder with ``frames.npy`` (uint8 [n, F, S, S, 3], opened as a memory map) and
``clips.json`` (seeds, stamps, objects, events and boxes). Shards are written atomically, so a
rendering process that is killed leaves no incomplete shard, and the next one resumes after the
last complete shard.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llava_st_ros.atomic_files import atomic_folder
from llava_st_ros.errors import DataError
from llava_st_ros.files.array_files import map_array
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.files.limits import RECORDS_BYTES
from llava_st_ros.files.raw import read_bytes
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.scenes import SimulatedObject
from llava_st_ros.simulation.simulator import (
    SimulatedClip,
    SimulatedEvent,
    simulate_clip,
    split_seed,
)

SHARD_CLIPS = 50
_KEYS = {"seed", "stamps", "objects", "events", "boxes"}  # of a clip in clips.json
_RENDER_AGAIN = "delete it and run llava-st train simulate again"
_SHARD_NAME = re.compile(r"\w+-\d{6,}")  # split and index of the first clip


class Simulate(Protocol):
    """A function that returns the clip of a seed."""

    def __call__(self, seed: int, *, num_frames: int, size: int) -> SimulatedClip: ...


def render_shards(
    folder: Path,
    split: str,
    clips: int,
    *,
    num_frames: int,
    size: int,
    workers: int,
    simulate: Simulate = simulate_clip,
    shard_clips: int = SHARD_CLIPS,
) -> Iterator[Path]:
    """Render the first ``clips`` clips of a split in shards; yield each complete shard.

    Shards that exist already are not rendered again. Only one process renders into a folder at a
    time; others wait for it and reuse its shards.

    Args:
        folder: Where the shards are stored.
        split: A name in ``worlds.SPLITS``.
        clips: The number of clips.
        num_frames: Frames per clip.
        size: Width and height of a frame in pixels.
        workers: Number of rendering processes.
        simulate: A function of a module: ``simulate_clip``, or ``simulate_training_video``.
        shard_clips: Clips in a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (folder / f"{split}-{first:06d}", split, first, min(shard_clips, clips - first))
        for first in range(0, clips, shard_clips)
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
            futures = [
                pool.submit(_render_shard, *job, num_frames, size, simulate) for job in missing
            ]
            for future in as_completed(futures):
                yield future.result()


def _render_shard(
    folder: Path,
    split: str,
    first: int,
    count: int,
    num_frames: int,
    size: int,
    simulate: Simulate,
) -> Path:
    shape = (count, num_frames, size, size, 3)
    with atomic_folder(folder) as part:
        frames = np.lib.format.open_memmap(
            part / "frames.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        records = []
        for index in range(count):
            clip = simulate(split_seed(split, first + index), num_frames=num_frames, size=size)
            frames[index] = clip.frames
            records.append(ground_truth(clip))
        frames.flush()
        (part / "clips.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def ground_truth(clip: SimulatedClip) -> dict[str, Any]:
    """Return what ``clips.json`` stores about a clip: everything except its frames."""
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


def _object(values: dict[str, Any]) -> SimulatedObject:
    # Clips that were rendered before objects had proportions have none.
    proportions = values.get("proportions", (1.0, 1.0, 1.0))
    return SimulatedObject(**{**values, "proportions": tuple(proportions)})


def _event(truth: dict[str, Any]) -> SimulatedEvent:
    first, last = truth["span"]
    return SimulatedEvent(EventKind(truth["kind"]), truth["subject"], truth["other"], (first, last))


def _boxes(rows: list[list[list[float] | None]]) -> np.ndarray:
    hidden = [float("nan")] * 4
    return np.array([[box or hidden for box in frame] for frame in rows], dtype=np.float32)


class ClipStore:
    """Random access to the clips of a folder written by ``render_shards``.

    ``len(store)`` is the number of clips; ``store[i]`` is a SimulatedClip whose frames are a view
    of the memory-mapped file.

    Attributes:
        folder: The folder that was opened.
        digest: SHA-256 of the clips' ground truth; frames are not included.

    Raises:
        DataError: The folder has no shard, or a shard is unreadable.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(
            path
            for path in folder.glob("*-*")
            if path.is_dir() and _SHARD_NAME.fullmatch(path.name)
        )
        if not shards:
            raise DataError(f"no clips in {folder}", "run llava-st train simulate")
        self.folder = folder
        self._records: list[dict[str, Any]] = []
        self._frames: list[tuple[np.ndarray, int]] = []
        self._sources: list[str] = []
        digest = hashlib.sha256()
        for shard in shards:
            frames = map_array(shard / "frames.npy", DataError, _RENDER_AGAIN)
            path = shard / "clips.json"
            text = read_bytes(path, DataError, _RENDER_AGAIN, max_bytes=RECORDS_BYTES)
            records = parse_json(text, str(path), DataError, _RENDER_AGAIN, expected=list)
            if frames.ndim != 5 or frames.shape[4] != 3 or frames.dtype != np.uint8:
                raise DataError(
                    f"{shard}: frames.npy is {frames.dtype} {list(frames.shape)}; expected uint8 "
                    "[clips, F, S, S, 3]",
                    _RENDER_AGAIN,
                )
            if not all(isinstance(record, dict) and record.keys() >= _KEYS for record in records):
                raise DataError(f"{path} has a clip without its ground truth", _RENDER_AGAIN)
            if len(frames) != len(records):
                raise DataError(
                    f"{shard}: frames.npy has {len(frames)} clips, clips.json {len(records)}",
                    _RENDER_AGAIN,
                )
            digest.update(text)
            self._records += records
            self._frames += [(frames, index) for index in range(len(frames))]
            self._sources += [f"{shard.name}:{index}" for index in range(len(frames))]
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def first(self, clips: int) -> ClipStore:
        """Return the store of the first ``clips`` clips. Raises DataError when there are fewer."""
        if clips > len(self):
            raise DataError(
                f"{self.folder} has {len(self)} clips; expected at least {clips}",
                "run llava-st train simulate",
            )
        store = copy.copy(self)
        store._records = self._records[:clips]
        store._frames, store._sources = self._frames[:clips], self._sources[:clips]
        return store

    def frames(self, index: int) -> np.ndarray:
        """Return the frames of a clip, uint8 [F, S, S, 3]."""
        frames, row = self._frames[index]
        return frames[row]

    @property
    def scripts(self) -> tuple[str, ...]:
        """A short hash of each clip's seed, objects and events, which renderers hardly affect."""
        return tuple(
            hashlib.sha256(
                json.dumps([record["seed"], record["objects"], record["events"]]).encode()
            ).hexdigest()[:8]
            for record in self._records
        )

    def source(self, index: int) -> str:
        """Return a clip's shard and row, for example "train-000050:17"."""
        return self._sources[index]

    def boxes(self, index: int) -> np.ndarray:
        """Return the boxes of a clip, float32 [F, objects, 4], NaN where not visible."""
        return _boxes(self._records[index]["boxes"])

    def objects(self, index: int) -> tuple[SimulatedObject, ...]:
        return tuple(_object(values) for values in self._records[index]["objects"])

    def __getitem__(self, index: int) -> SimulatedClip:
        truth = self._records[index]
        return SimulatedClip(
            seed=truth["seed"],
            frames=self.frames(index),
            boxes=_boxes(truth["boxes"]),
            objects=self.objects(index),
            events=tuple(_event(e) for e in truth["events"]),
            stamps=np.array(truth["stamps"]),
        )
