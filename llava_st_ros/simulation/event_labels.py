"""What a rollout really shows: events with their spans, or that it is not the scripted scene."""

from __future__ import annotations

import numpy as np

from llava_st_ros.records import Box
from llava_st_ros.simulation.events import EventKind, InfeasibleError, ScriptedEvent, SimulatedEvent
from llava_st_ros.simulation.rollout import MOTION_THRESHOLD, Rollout


def label_event(rollout: Rollout, scripted: ScriptedEvent, boxes: np.ndarray) -> SimulatedEvent:
    """What really happened in a slot. Raises InfeasibleError where it is not the scripted event."""
    index = rollout.script.index(scripted)
    before, after = (
        rollout.start_positions[index][scripted.subject],
        rollout.end_positions(index)[scripted.subject],
    )
    motion, path = rollout.motions[index], rollout.positions[:, scripted.subject]
    visible = ~np.isnan(boxes[:, scripted.subject, 0])
    start = scripted.start if motion is None or motion.brake_at is None else motion.brake_at
    stop = rollout.script[index + 1].start if index + 1 < len(rollout.script) else np.inf
    during = (rollout.stamps >= start) & (rollout.stamps < stop)
    moving = during.copy()
    if scripted.kind is not EventKind.STOPS:
        moving &= np.linalg.norm(path - before, axis=1) > MOTION_THRESHOLD
    followers = [i for i in (scripted.subject, scripted.other) if i is not None]
    unsettled = np.zeros(len(moving), dtype=bool)
    for i in followers:
        way = np.linalg.norm(rollout.positions[:, i] - rollout.end_positions(index)[i], axis=1)
        unsettled |= during & (way > MOTION_THRESHOLD)
    first = np.flatnonzero(moving)
    late = np.flatnonzero(unsettled)
    if len(first) == 0:
        raise InfeasibleError("nothing moved")
    span = [int(first[0]), min(int(late[-1]) + 1 if len(late) else 0, len(moving) - 1)]
    if scripted.kind in (EventKind.ENTERS, EventKind.LEAVES):
        seen = np.flatnonzero(visible[span[0] : span[1] + 1]) + span[0]
        if len(seen) == 0:
            raise InfeasibleError("never seen")
        side = 0 if scripted.kind is EventKind.ENTERS else 1
        span[side] = int(seen[0] if side == 0 else seen[-1])
    if span[1] - span[0] < (1 if scripted.kind is EventKind.DROPPED else 2):
        raise InfeasibleError("too short to be seen")
    _require(
        _happened(rollout, scripted, before, after, visible, span), "the event did not come about"
    )
    other = scripted.other
    if scripted.kind is EventKind.ROLLS:
        other = _hidden_by(rollout, scripted.subject, boxes, span)
    return SimulatedEvent(scripted.kind, scripted.subject, other, (span[0], span[1]))


def _happened(
    rollout: Rollout,
    scripted: ScriptedEvent,
    before: np.ndarray,
    after: np.ndarray,
    visible: np.ndarray,
    span: list[int],
) -> bool:
    kind, item = scripted.kind, rollout.scene.objects[scripted.subject]
    rise, shift = after[2] - before[2], float(np.linalg.norm((after - before)[:2]))
    # An answer has a box for every frame of its span: a subject out of sight is not asked about.
    if not visible[span[0] : span[1] + 1].all():
        return False
    if kind is EventKind.LIFTED:
        return bool(rise > 0.09 and shift < 0.03)
    if kind is EventKind.DROPPED:
        landed = abs(after[2] - item.height) < 0.3 * item.scale
        return bool(rise < -0.09 and landed and visible[span[1] :].all())
    if abs(rise) > 0.3 * item.scale:
        return False
    if kind is EventKind.ENTERS:
        return not visible[: span[0]].any() and bool(visible[span[1] :].all())
    if kind is EventKind.LEAVES:
        return bool(visible[: span[0] + 1].all()) and not visible[span[1] + 1 :].any()
    if kind is EventKind.COLLIDES:
        assert scripted.other is not None
        index = rollout.script.index(scripted)
        hit = (
            rollout.end_positions(index)[scripted.other]
            - rollout.start_positions[index][scripted.other]
        )
        contacts = frozenset((scripted.subject, scripted.other)) in rollout.contacts
        return contacts and float(np.linalg.norm(hit[:2])) > 0.025 and abs(hit[2]) < 0.02
    return shift > 0.08


def _hidden_by(rollout: Rollout, subject: int, boxes: np.ndarray, span: list[int]) -> int | None:
    """The object behind which the subject passes: hidden on the way, on either side before and
    after."""

    def sides(f: int) -> np.ndarray:
        across = rollout.scene.camera.at(float(rollout.stamps[f])).project(rollout.positions[f])[
            :, 0
        ]
        return across < across[subject]

    def hiding(f: int) -> set[int]:
        pose = rollout.scene.camera.at(float(rollout.stamps[f]))
        view = pose.project(rollout.positions[f])
        u, v, depth = view[subject]
        half = rollout.scene.objects[subject].scale * pose.scale_at(depth)
        whole = Box(u - half, v - half, u + half, v + half)
        found = set()
        for j, values in enumerate(boxes[f]):
            if j != subject and view[j, 2] < depth and not np.isnan(values[0]):
                x1, y1, x2, y2 = (float(value) for value in values)
                width = min(x2, whole.x2) - max(x1, whole.x1)
                height = min(y2, whole.y2) - max(y1, whole.y1)
                if min(width, height) > 0 and width * height > 0.15 * whole.area:
                    found.add(j)
        return found

    passed = set().union(*(hiding(f) for f in range(span[0], span[1] + 1)))
    passed -= hiding(span[0]) | hiding(span[1])
    crossed = sides(max(0, span[0] - 1)) != sides(span[1])
    return min((j for j in passed if crossed[j]), default=None)


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise InfeasibleError(reason)
