"""Ground truth of events: what the scripted events of a rollout look like in its boxes."""

from __future__ import annotations

import numpy as np

from llava_st_ros.records import Box
from llava_st_ros.simulation.events import EventKind, InfeasibleError, SimulatedEvent
from llava_st_ros.simulation.rollout import MOTION_THRESHOLD, ExecutedEvent


def label_event(executed: ExecutedEvent, boxes: np.ndarray) -> SimulatedEvent:
    """Return the event that a scripted event has led to.

    Args:
        executed: The scripted event and the motion that it led to.
        boxes: Boxes of all objects, float32 [F, objects, 4], NaN where not visible.

    Raises:
        InfeasibleError: The scripted event did not happen, or it is not visible.
    """
    scripted = executed.scripted
    visible = ~np.isnan(boxes[:, scripted.subject, 0])
    span = _motion_span(executed)
    if scripted.kind in (EventKind.ENTERS, EventKind.LEAVES):
        visible_frames = np.flatnonzero(visible[span[0] : span[1] + 1]) + span[0]
        if len(visible_frames) == 0:
            raise InfeasibleError("never seen")
        end = 0 if scripted.kind is EventKind.ENTERS else 1
        span[end] = int(visible_frames[0] if end == 0 else visible_frames[-1])
    least = 1 if scripted.kind is EventKind.DROPPED else executed.scene.min_event_frames
    if span[1] - span[0] < least:
        raise InfeasibleError("too short to be seen")
    if not _has_happened(executed, visible, span):
        raise InfeasibleError("the event did not happen")
    other = scripted.other
    if scripted.kind is EventKind.ROLLS:
        other = _passed_behind(executed, boxes, span)
    return SimulatedEvent(scripted.kind, scripted.subject, other, (span[0], span[1]))


def _motion_span(executed: ExecutedEvent) -> list[int]:
    """Return the first frame with motion of the subject and the first one at rest after it."""
    scripted, motion, positions = executed.scripted, executed.motion, executed.positions
    start = scripted.start if motion is None or motion.brake_at is None else motion.brake_at
    during = (executed.stamps >= start) & (executed.stamps < executed.until)
    moving = during.copy()
    if scripted.kind is not EventKind.STOPS:
        displacement = positions[:, scripted.subject] - executed.before[scripted.subject]
        moving &= np.linalg.norm(displacement, axis=1) > MOTION_THRESHOLD
    unsettled = np.zeros(len(moving), dtype=bool)
    for i in (scripted.subject, scripted.other):
        if i is not None:
            remaining = np.linalg.norm(positions[:, i] - executed.after[i], axis=1)
            unsettled |= during & (remaining > MOTION_THRESHOLD)
    moving_frames, unsettled_frames = np.flatnonzero(moving), np.flatnonzero(unsettled)
    if len(moving_frames) == 0:
        raise InfeasibleError("nothing moved")
    return [
        int(moving_frames[0]),
        min(int(unsettled_frames[-1]) + 1 if len(unsettled_frames) else 0, len(moving) - 1),
    ]


def _has_happened(executed: ExecutedEvent, visible: np.ndarray, span: list[int]) -> bool:
    scripted, before, after = executed.scripted, executed.before, executed.after
    kind, item = scripted.kind, executed.scene.objects[scripted.subject]
    displacement = after[scripted.subject] - before[scripted.subject]
    rise, shift = displacement[2], float(np.linalg.norm(displacement[:2]))
    # Answers have a box for every frame of their span, so the subject must be visible in all.
    if not visible[span[0] : span[1] + 1].all():
        return False
    if kind is EventKind.LIFTED:
        return bool(rise > 0.09 and shift < 0.03)
    if kind is EventKind.DROPPED:
        landed = abs(after[scripted.subject][2] - item.rest_height) < 0.3 * item.scale
        return bool(rise < -0.09 and landed and visible[span[1] :].all())
    if abs(rise) > 0.3 * item.scale:
        return False
    if kind is EventKind.ENTERS:
        return not visible[: span[0]].any() and bool(visible[span[1] :].all())
    if kind is EventKind.LEAVES:
        return bool(visible[: span[0] + 1].all()) and not visible[span[1] + 1 :].any()
    if kind is EventKind.COLLIDES:
        assert scripted.other is not None
        push = after[scripted.other] - before[scripted.other]
        touched = frozenset((scripted.subject, scripted.other)) in executed.contacts
        return touched and float(np.linalg.norm(push[:2])) > 0.025 and abs(push[2]) < 0.02
    return shift > 0.08


def _passed_behind(executed: ExecutedEvent, boxes: np.ndarray, span: list[int]) -> int | None:
    """Return the object that the subject passes behind, or None.

    The object hides part of the subject during the span but not at its ends, and the subject is
    on one side of it before and on the other side after.
    """

    def is_left(f: int) -> np.ndarray:
        pose = executed.scene.camera.pose_at(float(executed.stamps[f]))
        u = pose.project(executed.positions[f])[:, 0]
        return u < u[executed.scripted.subject]

    occluders = [_occluders(executed, boxes, f) for f in range(span[0], span[1] + 1)]
    passed = set().union(*occluders) - occluders[0] - occluders[-1]
    crossed = is_left(max(0, span[0] - 1)) != is_left(span[1])
    return min((j for j in passed if crossed[j]), default=None)


def _occluders(executed: ExecutedEvent, boxes: np.ndarray, frame: int) -> set[int]:
    """Return the nearer objects whose boxes cover a good part of the subject's projection."""
    subject = executed.scripted.subject
    pose = executed.scene.camera.pose_at(float(executed.stamps[frame]))
    projected = pose.project(executed.positions[frame])
    u, v, depth = projected[subject]
    half_size = executed.scene.objects[subject].scale * pose.scale_at(depth)
    unoccluded = Box(u - half_size, v - half_size, u + half_size, v + half_size)
    occluders = set()
    for j, values in enumerate(boxes[frame]):
        if j != subject and projected[j, 2] < depth and not np.isnan(values[0]):
            x1, y1, x2, y2 = (float(value) for value in values)
            width = min(x2, unoccluded.x2) - max(x1, unoccluded.x1)
            height = min(y2, unoccluded.y2) - max(y1, unoccluded.y1)
            if min(width, height) > 0 and width * height > 0.15 * unoccluded.area:
                occluders.add(j)
    return occluders
