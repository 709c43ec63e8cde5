"""Videos with random objects, boxes, events and pixels, made without physics and renderer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from llava_st_ros.simulation.clip_store import ground_truth
from llava_st_ros.simulation.events import EventKind, can_be_subject
from llava_st_ros.simulation.scenes import sample_objects
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent
from llava_st_ros.simulation.streams import window_stamps
from llava_st_ros.simulation.worlds import world_for_seed

FRAMES = 100


def random_video(seed: int) -> SimulatedClip:
    """Return a video of up to six objects with an event about every ten frames.

    Objects move to a random place in their events and are elsewhere at rest.
    """
    rng = np.random.default_rng(seed)
    objects = sample_objects(rng, int(rng.integers(1, 7)), world_for_seed(0))
    places = rng.uniform(0.1, 0.9, (len(objects), 2))
    centers = np.empty((FRAMES, len(objects), 2))
    events = []
    frame = 0
    while frame < FRAMES:
        rest = min(int(rng.integers(0, 20)), FRAMES - frame)
        centers[frame : frame + rest] = places
        frame += rest
        length = int(rng.integers(2, 12))
        subject = int(rng.integers(len(objects)))
        kinds = [k for k in EventKind if can_be_subject(k, objects[subject].shape)]
        kind = kinds[int(rng.integers(len(kinds)))]
        others = [i for i in range(len(objects)) if i != subject]
        if frame + length > FRAMES or (kind is EventKind.COLLIDES and not others):
            continue
        other = int(rng.choice(others)) if kind is EventKind.COLLIDES else None
        if kind is EventKind.ROLLS and others and rng.random() < 0.05:
            other = int(rng.choice(others))
        for i in (subject, *([other] if kind is EventKind.COLLIDES else [])):
            goal = rng.uniform(0.1, 0.9, 2)
            steps = np.linspace(0, 1, length)[:, None]
            centers[frame : frame + length, i] = places[i] + steps * (goal - places[i])
            rested = [j for j in range(len(objects)) if j not in (subject, other)]
            places[i] = goal
        centers[frame : frame + length, rested] = places[rested]
        if kind is not EventKind.COLLIDES and other is not None:
            centers[frame : frame + length, other] = places[other]
        events.append(SimulatedEvent(kind, subject, other, (frame, frame + length - 1)))
        frame += length
    boxes = np.concatenate([centers - 0.05, centers + 0.05], axis=2).astype(np.float32)
    frames = np.zeros((FRAMES, 1), dtype=np.uint8)
    return SimulatedClip(seed, frames, boxes, objects, tuple(events), np.arange(FRAMES) * 0.3)


def store_random_videos(folder: Path, count: int, num_frames: int, size: int) -> None:
    """Write a shard of random videos, at the times of the frames of training videos."""
    shard = folder / "train-000000"
    shard.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shape = (count, num_frames, size, size, 3)
    np.save(shard / "frames.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    records = []
    for seed in range(count):
        video = random_video(seed)
        stamps = window_stamps(seed, num_frames)
        events = tuple(e for e in video.events if e.span[1] < num_frames)
        video = replace(video, boxes=video.boxes[:num_frames], events=events, stamps=stamps)
        records.append(ground_truth(video))
    (shard / "clips.json").write_text(json.dumps(records))
