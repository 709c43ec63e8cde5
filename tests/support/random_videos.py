"""Videos with random objects, boxes and events, made without physics and renderer."""

from __future__ import annotations

import numpy as np

from llava_st_ros.simulation.events import EventKind, can_be_subject
from llava_st_ros.simulation.scenes import sample_objects
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent
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
