"""Where objects stand at the start and where the robot's hand takes them: planned by sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from llava_st_ros.training.events import EventKind, InfeasibleError, Motion, Slot
from llava_st_ros.training.scenes import Scene


class Planner:
    """Finds starting places and ways that keep objects apart and inside the picture."""

    def __init__(self, rng: np.random.Generator, scene: Scene, duration: float) -> None:
        self.rng, self.scene = rng, scene
        self._poses = [
            scene.camera.at(t) for t in np.linspace(0, duration, max(5, int(duration / 1.4)))
        ]

    def layout(self, first: list[str], slots: list[Slot]) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n, 3] and yaws [n] (radians) at the start."""
        rng, objects = self.rng, self.scene.objects
        positions = np.zeros((len(objects), 3))
        yaws = rng.uniform(0, 2 * math.pi, len(objects))
        rolling = {s.subject for s in slots if s.kind is EventKind.ROLLS}
        # Those that roll come late, to stand beside what they may pass behind; those outside last:
        # they have no place to keep free.
        order = sorted(range(len(objects)), key=lambda i: (first[i] == "outside", i in rolling))
        for done, i in enumerate(order):
            placed = [j for j in order[:done] if first[j] != "outside"]
            for _ in range(80):
                place = np.array([*rng.uniform(-0.3, 0.3, 2), objects[i].height])
                if first[i] == "outside":
                    place[:2] = self._outside(i, place)
                    toward = np.arctan2(-place[1], -place[0]) + rng.uniform(-0.15, 0.15)
                    yaws[i] = toward + math.pi / 2
                    positions[i] = place
                    break
                if first[i] == "air":
                    place[2] += rng.uniform(0.14, 0.22)
                if i in rolling and placed and rng.random() < 0.8:
                    place[:2] = self._beside(i, int(rng.choice(placed)), positions)
                    yaws[i] = math.radians(self.scene.camera.azimuth)
                if self.in_view(i, place) and self._apart(i, place, positions, placed):
                    positions[i] = place
                    break
            else:
                raise InfeasibleError("no room on the table")
        return positions, yaws

    def plan(self, slot: Slot, positions: np.ndarray, axis: np.ndarray | None) -> Motion | None:
        """The hand's motion for ``slot``, None for letting go.

        ``axis`` is the long axis of a lying capsule, which rolls only across it.
        """
        kind, origin = slot.kind, positions[slot.subject].copy()
        if kind is EventKind.DROPPED:
            return None
        motion = Motion(origin, origin, slot.start, slot.end)
        if kind is EventKind.LIFTED:
            return self._lift(slot, motion)
        choices = []
        for _ in range(60):
            goal = self._goal(slot, positions, axis)
            if goal is None or not self._clear(slot, origin, goal, positions):
                continue
            if kind is not EventKind.ROLLS or self._passes_behind(slot, origin, goal, positions):
                choices = [goal]
                break
            choices.append(goal)
        if not choices:
            raise InfeasibleError("no free way")
        motion = replace(motion, goal=choices[0])
        if kind is EventKind.STOPS:
            brake = slot.start + (slot.end - slot.start) * self.rng.uniform(0.35, 0.6)
            motion = replace(motion, brake_at=float(brake))
        return motion

    def in_view(self, index: int, point: np.ndarray) -> bool:
        """Whether the whole object is in the picture there, whatever the camera does."""
        reach = self.scene.objects[index].reach
        for pose in self._poses:
            u, v, depth = pose.project(point)[0]
            margin = reach * pose.scale_at(depth) + 0.005
            if not (margin < u < 1 - margin and margin < v < 1 - margin):
                return False
        return True

    def out_of_view(self, index: int, point: np.ndarray) -> bool:
        reach = self.scene.objects[index].reach
        for pose in self._poses:
            u, _, depth = pose.project(point)[0]
            margin = 1.1 * reach * pose.scale_at(depth) + 0.02
            if -margin < u < 1 + margin:
                return False
        return True

    def _lift(self, slot: Slot, motion: Motion) -> Motion:
        for _ in range(20):
            goal = motion.origin + np.array([0.0, 0.0, self.rng.uniform(0.11, 0.2)])
            if self.in_view(slot.subject, goal):
                return replace(motion, goal=goal, lift=True)
        raise InfeasibleError("no room above")

    def _goal(
        self, slot: Slot, positions: np.ndarray, axis: np.ndarray | None
    ) -> np.ndarray | None:
        rng, i = self.rng, slot.subject
        origin, item = positions[i], self.scene.objects[i]
        if slot.kind is EventKind.COLLIDES:
            assert slot.other is not None
            hit = self.scene.objects[slot.other]
            way = (positions[slot.other] - origin) * np.array([1.0, 1.0, 0.0])
            distance = float(np.linalg.norm(way))
            free = distance - item.reach - hit.reach
            shove = way / distance * rng.uniform(0.06, 0.1)
            if free < 0.05 or not self.in_view(slot.other, positions[slot.other] + 1.5 * shove):
                return None
            goal = origin + way / distance * free + shove
            return goal if self.in_view(i, goal) else None
        if slot.kind is EventKind.LEAVES:
            pose = self._poses[0]
            side = rng.choice([-1.0, 1.0])
            angle = math.radians(pose.azimuth - 90) + rng.uniform(-0.4, 0.4)
            direction = side * np.array([math.cos(angle), math.sin(angle), 0.0])
            direction = _across(direction, axis, 0.7)
            if direction is None:
                return None
            for length in np.arange(0.2, 1.4, 0.05):
                if self.out_of_view(i, origin + length * direction):
                    return origin + length * direction
            return None
        if slot.kind is EventKind.ENTERS:
            if axis is None:
                goal = np.array([*rng.uniform(-0.28, 0.28, 2), origin[2]])
            else:
                direction = _across(-origin * np.array([1.0, 1.0, 0.0]), axis, 0.5)
                if direction is None:
                    return None
                goal = origin + direction * rng.uniform(0.3, 1.3)
            return goal if self.in_view(i, goal) else None
        if slot.kind is EventKind.ROLLS and len(positions) > 1 and rng.random() < 0.7:
            way = self._around(i, positions)
            length = float(np.linalg.norm(way)) * rng.uniform(1.3, 2.2)
        else:
            angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.14, 0.36)
            way = np.array([math.cos(angle), math.sin(angle), 0.0])
        direction = _across(way, axis, 0.0)
        if direction is None or not 0.14 <= length <= 0.6:
            return None
        goal = origin + direction * length
        return goal if self.in_view(i, goal) else None

    def _around(self, index: int, positions: np.ndarray) -> np.ndarray:
        """From an object to a place close behind another, as the camera sees it."""
        others = [j for j in range(len(positions)) if j != index]
        behind = self._behind(index, int(self.rng.choice(others)), positions)
        return np.array([*(behind - positions[index][:2]), 0.0])

    def _behind(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        objects, azimuth = self.scene.objects, math.radians(self.scene.camera.azimuth)
        gap = objects[index].reach + objects[other].reach + self.rng.uniform(0.022, 0.035)
        return positions[other][:2] + gap * np.array([math.cos(azimuth), math.sin(azimuth)])

    def _beside(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        """A place from which it is straight across the picture to behind ``other``."""
        angle = math.radians(self.scene.camera.azimuth - 90)
        across = self.rng.choice([-1.0, 1.0]) * self.rng.uniform(0.13, 0.28)
        right = np.array([math.cos(angle), math.sin(angle)])
        return self._behind(index, other, positions) + across * right

    def _outside(self, index: int, place: np.ndarray) -> np.ndarray:
        side = self.rng.choice([-1.0, 1.0])
        angle = math.radians(self._poses[0].azimuth - 90)
        right = side * np.array([math.cos(angle), math.sin(angle), 0.0])
        for length in np.arange(0.3, 1.5, 0.04):
            point = np.array([0.0, 0.6 * place[1], place[2]]) + length * right
            if self.out_of_view(index, point):
                return point[:2]
        raise InfeasibleError("no place outside the picture")

    def _apart(
        self, index: int, place: np.ndarray, positions: np.ndarray, placed: list[int]
    ) -> bool:
        objects = self.scene.objects
        for j in placed:
            gap = np.linalg.norm((place - positions[j])[:2])
            if gap < objects[index].reach + objects[j].reach + 0.03:
                return False
            for pose in (self._poses[0], self._poses[-1]):
                (u1, v1, d1), (u2, v2, d2) = pose.project(np.stack([place, positions[j]]))
                reach = objects[index].scale * pose.scale_at(d1)
                reach += objects[j].scale * pose.scale_at(d2)
                if math.hypot(u1 - u2, v1 - v2) < 0.8 * reach:
                    return False
        return True

    def _clear(
        self, slot: Slot, origin: np.ndarray, goal: np.ndarray, positions: np.ndarray
    ) -> bool:
        """Whether nothing but the collision's other object stands in the way."""
        way = (goal - origin)[:2]
        for j, item in enumerate(self.scene.objects):
            if j in (slot.subject, slot.other):
                continue
            along = np.clip(
                np.dot(positions[j][:2] - origin[:2], way) / max(np.dot(way, way), 1e-9), 0, 1
            )
            gap = np.linalg.norm(positions[j][:2] - origin[:2] - along * way)
            if gap < self.scene.objects[slot.subject].reach + item.reach + 0.02:
                return False
        return True

    def _passes_behind(
        self, slot: Slot, origin: np.ndarray, goal: np.ndarray, positions: np.ndarray
    ) -> bool:
        view = self.scene.camera.at(slot.start)
        path = view.project(origin + np.linspace(0, 1, 9)[:, None] * (goal - origin))
        for j, item in enumerate(self.scene.objects):
            if j == slot.subject:
                continue
            u, v, depth = view.project(positions[j])[0]
            scale = item.scale + 0.5 * self.scene.objects[slot.subject].scale
            near = np.abs(path[:, :2] - [u, v]).max(axis=1) < scale * view.scale_at(depth)
            if (near & (path[:, 2] > depth)).any() and not near[-1]:
                return True
        return False


def _across(direction: np.ndarray, axis: np.ndarray | None, least: float) -> np.ndarray | None:
    """The unit direction, or for a capsule the way across its axis that is nearest to it.

    None where that one deviates too much: cosine below ``least``.
    """
    unit = direction / np.linalg.norm(direction)
    if axis is None:
        return unit
    across = np.array([-axis[1], axis[0], 0.0])
    across /= np.linalg.norm(across)
    cosine = float(np.dot(across, unit))
    if abs(cosine) < least:
        return None
    return across if cosine >= 0 else -across
