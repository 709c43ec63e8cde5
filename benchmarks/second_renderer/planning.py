"""Plans what happens in a scene: which objects are where, and how they move.

Events follow one another, with rest between them. Everything is kinematic: the paths are chosen so
that objects do not touch but in collisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.second_renderer import motions
from benchmarks.second_renderer.motions import Motion, Track
from benchmarks.second_renderer.scenes import Scene
from benchmarks.second_renderer.shapes import contact_distance
from llava_st_ros.simulation.events import (
    STATE_AFTER,
    STATE_BEFORE,
    EventKind,
    InfeasibleError,
    can_be_subject,
    choose_hit,
)

SHORTEST, LONGEST = 0.35, 3.2  # seconds of an event
LEAST_REST = 0.35  # seconds before, between and after events
_TRIES = 60
_CLEARANCE = 0.012  # m between objects that do not touch
_MARGIN = 0.01  # of the image
_LEAST_EXTENT = 0.07  # of the image: what is smaller is too far away to be recognized
# Some kinds are possible for few objects, or discarded more often: clips are nearly balanced.
_WEIGHTS = {
    EventKind.PUSHED: 3.0,
    EventKind.LIFTED: 1.3,
    EventKind.DROPPED: 1.1,
    EventKind.ROLLS: 2.4,
    EventKind.ENTERS: 1.2,
    EventKind.LEAVES: 0.7,
    EventKind.COLLIDES: 2.0,
    EventKind.STOPS: 1.6,
}
_REPEAT = 0.3  # probability that an event has the kind of the previous one


@dataclass(frozen=True)
class PlannedEvent:
    """An event and when it happens.

    Attributes:
        kind: What happens to the subject.
        subject: Index of the object.
        other: Index of the object that is hit.
        start: When the subject starts to move, for "stops" when it starts to brake, in seconds.
    """

    kind: EventKind
    subject: int
    other: int | None
    start: float


@dataclass(frozen=True)
class Plan:
    """Where every object is at any time.

    Attributes:
        tracks: Of each object.
        events: In order of time.
    """

    tracks: tuple[Track, ...]
    events: tuple[PlannedEvent, ...]


def sample_plan(rng: np.random.Generator, scene: Scene, duration: float, count: int) -> Plan:
    """Sample a plan of ``count`` events in ``duration`` seconds.

    Raises:
        InfeasibleError: None was found with these random numbers.
    """
    script, states = _sample_script(rng, scene, count)
    slots = _sample_slots(rng, duration, script)
    planner = _Planner(rng, scene, states)
    events = tuple(planner.plan(*item, *slot) for item, slot in zip(script, slots))
    ends = [max((m.times[-1] for m in track.motions), default=0.0) for track in planner.tracks]
    starts = [event.start for event in events[1:]]
    if max(ends) > duration - 0.1 or any(
        motion.times[-1] > start > motion.times[0] >= before
        for before, start in zip([0.0, *starts], starts)
        for track in planner.tracks
        for motion in track.motions
    ):
        raise InfeasibleError("an event takes too long")
    return Plan(tuple(planner.tracks), events)


Scripted = tuple[EventKind, int, int | None]


def _sample_script(
    rng: np.random.Generator, scene: Scene, count: int
) -> tuple[list[Scripted], list[str]]:
    """Sample kinds, subjects and hit objects, and the state in which each object starts."""
    kinds, objects = list(_WEIGHTS), scene.objects
    weights = np.array(list(_WEIGHTS.values())) / sum(_WEIGHTS.values())
    states: list[str | None] = [None] * len(objects)
    initial = ["table"] * len(objects)
    script: list[Scripted] = []
    for _ in range(count):
        again = script and rng.random() < _REPEAT
        for _ in range(_TRIES):
            kind = script[-1][0] if again else kinds[int(rng.choice(len(kinds), p=weights))]
            again = False
            subject = int(rng.integers(len(objects)))
            before = STATE_BEFORE.get(kind, "table")
            if (
                states[subject] not in (None, before)
                or not can_be_subject(kind, objects[subject].shape)
                or any(kind is k and subject == s for k, s, _ in script)
                or (kind is EventKind.STOPS and script)
                or (kind in (EventKind.LIFTED, EventKind.DROPPED) and scene.is_seen_from_above)
            ):
                continue
            other = None
            if kind is EventKind.COLLIDES:
                other = choose_hit(rng, states, subject)
                if other is None:
                    continue
                states[other] = "table"
            if states[subject] is None:
                initial[subject] = before
            states[subject] = STATE_AFTER.get(kind, "table")
            script.append((kind, subject, other))
            break
        else:
            raise InfeasibleError("no event fits")
    return script, initial


def _sample_slots(
    rng: np.random.Generator, duration: float, script: Sequence[Scripted]
) -> list[tuple[float, float]]:
    """Sample start and length of each event."""
    count = len(script)
    lengths = np.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST), count))
    spare = duration - LEAST_REST * (count + 1)
    lengths *= min(1.0, 0.7 * spare / lengths.sum())
    gaps = LEAST_REST + rng.dirichlet(np.full(count + 1, 1.5)) * (spare - lengths.sum())
    if script[0][0] is EventKind.STOPS:  # it moves from the beginning, but not for long
        gaps[0] = min(max(gaps[0], 0.8), 2.5)
    starts = np.cumsum(gaps[:-1]) + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    return [(float(start), float(length)) for start, length in zip(starts, lengths)]


class _Planner:
    """Plans the motions of a script one after the other."""

    def __init__(self, rng: np.random.Generator, scene: Scene, states: Sequence[str]) -> None:
        self._rng, self._scene, self._states = rng, scene, states
        period = scene.camera.period
        self._poses = [scene.camera.pose_at(share * period) for share in (0.0, 0.25, 0.75)]
        self._right, self._away = self._poses[0].axes[0], self._poses[0].axes[2]
        self._yaws = rng.uniform(0, 2 * math.pi, len(states))
        self.tracks: list[Track] = []
        for index in range(len(states)):
            center = self._place(index)
            rotation = scene.shapes[index].rotation(float(self._yaws[index]))
            self.tracks.append(Track(center, rotation))

    def plan(
        self, kind: EventKind, subject: int, other: int | None, start: float, length: float
    ) -> PlannedEvent:
        """Plan one event and append its motions to the tracks."""
        for _ in range(_TRIES):
            moved = self._try(kind, subject, other, start, length)
            if moved is not None:
                for index, motion in moved.items():
                    self.tracks[index] = self.tracks[index].then(motion)
                return PlannedEvent(kind, subject, other, start)
        raise InfeasibleError(f"no room for {kind.value}")

    def _try(
        self, kind: EventKind, subject: int, other: int | None, start: float, length: float
    ) -> dict[int, Motion] | None:
        """Return the motions of an event by object; None if a random choice does not fit."""
        rng = self._rng
        center, rotation = self.tracks[subject].at(math.inf)
        profile = str(rng.choice(list(motions.PROFILES)))
        if kind is EventKind.LIFTED:
            goal = center + np.array([*rng.uniform(-0.015, 0.015, 2), rng.uniform(0.1, 0.3)])
            points = motions.path(center, goal, 0.0, 0.0)
            if not self._in_view(subject, points):
                return None
            return {subject: motions.slide(points, length, profile, rotation).delayed(start)}
        if kind is EventKind.DROPPED:
            return self._fall(subject, center, rotation, start)
        if kind is EventKind.COLLIDES:
            assert other is not None
            return self._collide(subject, other, start, length)
        goal_of = {
            EventKind.ENTERS: self._goal_inside,
            EventKind.LEAVES: self._goal_outside,
            EventKind.ROLLS: self._goal_behind,
        }.get(kind, self._goal_near)
        goal = goal_of(subject, center)
        if goal is None:
            return None
        points = motions.path(center, goal, *self._bows(subject, kind))
        stays = kind not in (EventKind.ENTERS, EventKind.LEAVES)
        if not self._is_free(subject, points) or (stays and not self._in_view(subject, points)):
            return None
        if kind is EventKind.STOPS:
            even = self._carry(subject, points, 1.0, "constant", rotation)
            return {subject: motions.cruise(even, start, length)}
        return {subject: self._carry(subject, points, length, profile, rotation).delayed(start)}

    def _carry(
        self, index: int, points: np.ndarray, length: float, profile: str, rotation: np.ndarray
    ) -> Motion:
        """Roll what is round, slide and slightly turn what is not."""
        shape = self._scene.shapes[index]
        if shape.kind in ("ball", "capsule"):
            return motions.roll(points, length, profile, rotation, shape.half[0])
        turn = float(self._rng.normal(0, 0.5))
        return motions.slide(points, length, profile, rotation, turn)

    def _bows(self, subject: int, kind: EventKind) -> tuple[float, float]:
        """Sample the deviations of a path; capsules roll straight."""
        if self._scene.shapes[subject].kind == "capsule" or self._rng.random() < 0.4:
            return 0.0, 0.0
        if self._rng.random() < 0.6:
            return float(self._rng.uniform(-0.35, 0.35)), 0.0
        return 0.0, float(self._rng.uniform(-0.18, 0.18))

    def _fall(
        self, subject: int, center: np.ndarray, rotation: np.ndarray, start: float
    ) -> dict[int, Motion] | None:
        rng, shape = self._rng, self._scene.shapes[subject]
        bouncy = shape.kind == "ball"
        velocity = rng.uniform(-0.2, 0.2, 2) * (rng.random() < 0.5)
        restitution = float(rng.uniform(0.3, 0.65) if bouncy else rng.uniform(0.05, 0.35))
        motion = motions.fall(center, velocity, shape.rest_height, restitution, rotation)
        fits = self._is_free(subject, motion.positions) and self._in_view(subject, motion.positions)
        return {subject: motion.delayed(start)} if fits else None

    def _collide(
        self, subject: int, other: int, start: float, length: float
    ) -> dict[int, Motion] | None:
        rng, shapes = self._rng, self._scene.shapes
        center, rotation = self.tracks[subject].at(math.inf)
        hit, hit_rotation = self.tracks[other].at(math.inf)
        offset = (hit - center)[:2]
        distance = float(np.linalg.norm(offset))
        direction = offset / distance
        yaws = (_yaw(rotation), _yaw(hit_rotation))
        touch = contact_distance(shapes[subject], shapes[other], yaws, direction)
        if distance - touch < 0.06:
            return None
        straight = np.array([*direction, 0.0])
        come = motions.path(center, center + (distance - touch) * straight, 0.0, 0.0)
        angle = float(rng.normal(0, 0.2))
        c, s = math.cos(angle), math.sin(angle)
        aside = np.array([c * direction[0] - s * direction[1], s * direction[0] + c * direction[1]])
        pushed = hit + float(rng.uniform(0.06, 0.22)) * np.array([*aside, 0.0])
        go = motions.path(hit, pushed, 0.0, 0.0)
        fits = self._is_free(subject, come, other) and self._is_free(other, go, subject)
        if not fits or not self._in_view(subject, come) or not self._in_view(other, go):
            return None
        share = float(rng.uniform(0.35, 0.65))
        arriving = self._push(subject, come, share * length, "constant", rotation, 0.0)
        turn = float(rng.normal(0, 0.3))
        leaving = self._push(other, go, (1 - share) * length, "ease_out", hit_rotation, turn)
        return {subject: arriving.delayed(start), other: leaving.delayed(start + share * length)}

    def _push(
        self,
        index: int,
        points: np.ndarray,
        length: float,
        profile: str,
        rotation: np.ndarray,
        turn: float,
    ) -> Motion:
        """Roll a ball, slide anything else: a capsule is not hit across its axis."""
        shape = self._scene.shapes[index]
        if shape.kind == "ball":
            return motions.roll(points, length, profile, rotation, shape.half[0])
        return motions.slide(points, length, profile, rotation, turn)

    def _goal_near(self, subject: int, center: np.ndarray) -> np.ndarray | None:
        distance = float(self._rng.uniform(0.12, 0.12 + 0.7 * self._scene.width))
        return np.asarray(center + distance * self._direction(subject))

    def _goal_behind(self, subject: int, center: np.ndarray) -> np.ndarray | None:
        """Often choose a goal that leads behind another object, as the camera sees it."""
        rng, shapes = self._rng, self._scene.shapes
        others = [i for i in range(len(self.tracks)) if i != subject]
        if not others or shapes[subject].kind == "capsule" or rng.random() < 0.4:
            return self._goal_near(subject, center)
        other = int(rng.choice(others))
        away = self._away[:2] / np.linalg.norm(self._away[:2])
        gap = shapes[subject].radius + shapes[other].radius + float(rng.uniform(0.02, 0.05))
        behind = self.tracks[other].at(math.inf)[0][:2] + gap * away
        displacement = float(rng.uniform(1.3, 2.2)) * (behind - center[:2])
        return center + np.array([*displacement, 0.0])

    def _goal_inside(self, subject: int, center: np.ndarray) -> np.ndarray | None:
        if self._scene.shapes[subject].kind == "capsule":
            direction = self._direction(subject)
            direction = direction if direction @ center < 0 else -direction
            goal = center + direction * float(self._rng.uniform(0.4, 1.6)) * np.linalg.norm(center)
        else:
            goal = self._anywhere(subject)
        return goal if self._in_view(subject, goal[None]) else None

    def _goal_outside(self, subject: int, center: np.ndarray) -> np.ndarray | None:
        direction = self._direction(subject)
        for distance in np.arange(0.1, 3.0, 0.06):
            if self._out_of_view(subject, center + distance * direction):
                return np.asarray(center + (distance + 0.03) * direction)
        return None

    def _direction(self, subject: int) -> np.ndarray:
        """Sample a direction on the ground; a capsule moves across its axis only."""
        angle = float(self._rng.uniform(0, 2 * math.pi))
        if self._scene.shapes[subject].kind == "capsule":
            across = math.pi * (float(self._rng.random() < 0.5) - 0.5)
            angle = _yaw(self.tracks[subject].at(math.inf)[1]) + across
        return np.array([math.cos(angle), math.sin(angle), 0.0])

    def _place(self, index: int) -> np.ndarray:
        """Return where an object starts."""
        state = self._states[index]
        for _ in range(_TRIES):
            if state == "outside":
                center = self._outside(index)
                if center is not None:
                    return center
                continue
            center = self._anywhere(index)
            places = [center]
            if state == "air":
                center = center + np.array([0.0, 0.0, float(self._rng.uniform(0.13, 0.45))])
                places.append(center)
            if not self._in_view(index, np.array(places)):
                continue
            if self._is_free(index, center[None], clearance=0.03) and self._is_apart(index, center):
                return center
        raise InfeasibleError("no room on the table")

    def _anywhere(self, index: int) -> np.ndarray:
        spread = 0.9 * self._scene.width
        place = self._rng.uniform(-spread, spread, 2)
        return np.array([*place, self._scene.shapes[index].rest_height])

    def _outside(self, index: int) -> np.ndarray | None:
        """Return a place beside the image, from where a capsule would roll into it."""
        side = float(self._rng.choice([-1.0, 1.0]))
        angle = math.atan2(self._right[1], self._right[0]) + float(self._rng.uniform(-0.5, 0.5))
        direction = side * np.array([math.cos(angle), math.sin(angle), 0.0])
        self._yaws[index] = angle + math.pi / 2
        height = np.array([0.0, 0.0, self._scene.shapes[index].rest_height])
        for distance in np.arange(0.1, 3.0, 0.05):
            center = np.asarray(direction * distance + height)
            if self._out_of_view(index, center):
                return center if self._is_free(index, center[None], clearance=0.03) else None
        return None

    def _in_view(self, index: int, points: np.ndarray) -> bool:
        """Whether an object is recognizable and complete at all points [N, 3] of a path."""
        bound = self._scene.shapes[index].bound
        some = points if len(points) < 9 else points[:: len(points) // 8]
        for pose in self._poses:
            for point in (*some, points[-1]):
                x1, y1, x2, y2 = pose.extent(point, bound)
                is_inside = min(x1, y1) >= _MARGIN and max(x2, y2) <= 1 - _MARGIN
                if not is_inside or max(x2 - x1, y2 - y1) < _LEAST_EXTENT:
                    return False
        return True

    def _out_of_view(self, index: int, point: np.ndarray) -> bool:
        for pose in self._poses:
            x1, y1, x2, y2 = pose.extent(point, self._scene.shapes[index].bound)
            if x2 > -_MARGIN and x1 < 1 + _MARGIN and y2 > -_MARGIN and y1 < 1 + _MARGIN:
                return False
        return True

    def _is_free(
        self,
        index: int,
        points: np.ndarray,
        touched: int | None = None,
        clearance: float = _CLEARANCE,
    ) -> bool:
        """Whether nothing but the object that is ``touched`` is near a path."""
        shapes = self._scene.shapes
        for other, track in enumerate(self.tracks):
            if other in (index, touched):
                continue
            distances = np.linalg.norm(points[:, :2] - track.at(math.inf)[0][:2], axis=1)
            if distances.min() < shapes[index].radius + shapes[other].radius + clearance:
                return False
        return True

    def _is_apart(self, index: int, center: np.ndarray) -> bool:
        """Whether no other object covers much of the object, or is covered by it."""
        pose, shapes = self._poses[0], self._scene.shapes
        x, y, depth = pose.project(center)
        for other, track in enumerate(self.tracks):
            u, v, far = pose.project(track.center)
            near = 0.5 * pose.focal[0] * (shapes[index].bound / depth + shapes[other].bound / far)
            if math.hypot(u - x, (v - y) * pose.focal[0] / pose.focal[1]) < 0.6 * near:
                return False
        return True


def _yaw(rotation: np.ndarray) -> float:
    """Return the yaw of a box or an upright cylinder; of a lying capsule that of its axis."""
    axis = rotation[:, 0] if abs(rotation[2, 2]) > 0.5 else rotation[:, 2]
    return math.atan2(axis[1], axis[0])
