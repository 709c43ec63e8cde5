"""Where objects stand at the start and where the robot's hand takes them: planned by sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from llava_st_ros.simulation.events import EventKind, InfeasibleError, Motion, ScriptedEvent
from llava_st_ros.simulation.free_space import FreeSpace, distance_to_segment
from llava_st_ros.simulation.scenes import Scene

_CANDIDATES = 160  # places to choose from


class MotionPlanner:
    """Finds starting places and ways that keep objects apart and inside the picture."""

    def __init__(self, rng: np.random.Generator, scene: Scene, duration: float) -> None:
        self.rng, self.scene = rng, scene
        # How far apart objects stand in the picture, in sums of their half sizes.
        apartness = 0.8 if rng.random() < 0.65 else 0.5
        self._free_space = FreeSpace(scene, duration, apartness)
        self._spread = 0.44 * scene.camera.width

    def sample_layout(
        self, first: list[str], script: list[ScriptedEvent]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n, 3] and yaws [n] (radians) at the start."""
        rng, objects = self.rng, self.scene.objects
        positions = np.zeros((len(objects), 3))
        yaws = rng.uniform(0, 2 * math.pi, len(objects))
        rolling = {s.subject for s in script if s.kind is EventKind.ROLLS}
        lifted = {s.subject for s in script if s.kind is EventKind.LIFTED}
        hits = {s.subject: s.other for s in script if s.other is not None}
        # What is hit and what hits it come first, to keep the way between them free; then the
        # large ones, that find room hardest. Those that roll come late, to stand beside what they
        # may pass behind; those outside last: they have no place to keep free.
        order = sorted(
            range(len(objects)),
            key=lambda i: (
                first[i] == "outside",
                0 if i in hits.values() else 1 if i in hits else 3 if i in rolling else 2,
                -objects[i].radius,
            ),
        )
        ways: list[tuple[np.ndarray, np.ndarray, float]] = []
        for done, i in enumerate(order):
            placed = [j for j in order[:done] if first[j] != "outside"]
            if first[i] == "outside":
                positions[i] = self._outside(i)
                toward = np.arctan2(-positions[i, 1], -positions[i, 0]) + rng.uniform(-0.15, 0.15)
                yaws[i] = toward + math.pi / 2
                continue
            places = np.empty((_CANDIDATES, 3))
            places[:, :2] = rng.uniform(-self._spread, self._spread, (_CANDIDATES, 2))
            places[:, 2] = objects[i].height
            if first[i] == "air":
                places[:, 2] += rng.uniform(0.14, 0.22, _CANDIDATES)
            if i in rolling and placed:
                for place in places[: int(0.8 * _CANDIDATES)]:
                    place[:2] = self._beside(i, int(rng.choice(placed)), positions)
                yaws[i] = math.radians(self.scene.camera.azimuth)
            hit = hits.get(i)
            if hit in placed:
                places[:, :2] = self._before(i, hit, positions)
            fit = self._free_space.all_in_view(i, places) & self._free_space.apart(
                i, places, positions, placed
            )
            if i in lifted:
                fit &= self._free_space.all_in_view(i, places + np.array([0.0, 0.0, 0.13]))
            for start, end, radius in ways:
                fit &= (
                    distance_to_segment(places[:, :2], start, end)
                    > radius + objects[i].radius + 0.03
                )
            if not fit.any():
                raise InfeasibleError("no room on the table")
            positions[i] = places[np.argmax(fit)]
            if hit in placed:
                ways.append((positions[i, :2], positions[hit, :2], objects[i].radius))
        return positions, yaws

    def plan_motion(
        self, scripted: ScriptedEvent, positions: np.ndarray, axis: np.ndarray | None
    ) -> Motion | None:
        """The hand's motion for ``scripted``, None for letting go.

        ``axis`` is the long axis of a lying capsule, which rolls only across it.
        """
        kind, origin = scripted.kind, positions[scripted.subject].copy()
        if kind is EventKind.DROPPED:
            return None
        motion = Motion(origin, origin, scripted.start, scripted.end)
        if kind is EventKind.LIFTED:
            return self._lift(scripted, motion)
        choices = []
        for _ in range(60):
            goal = self._goal(scripted, positions, axis)
            if goal is None or not self._clear(scripted, origin, goal, positions):
                continue
            if kind is not EventKind.ROLLS or self._passes_behind(
                scripted, origin, goal, positions
            ):
                choices = [goal]
                break
            choices.append(goal)
        if not choices:
            raise InfeasibleError("no free way")
        motion = replace(motion, goal=choices[0])
        if kind is EventKind.STOPS:
            brake = scripted.start + (scripted.end - scripted.start) * self.rng.uniform(0.35, 0.6)
            motion = replace(motion, brake_at=float(brake))
        return motion

    def _lift(self, scripted: ScriptedEvent, motion: Motion) -> Motion:
        for _ in range(20):
            goal = motion.origin + np.array([0.0, 0.0, self.rng.uniform(0.11, 0.2)])
            if self._free_space.in_view(scripted.subject, goal):
                return replace(motion, goal=goal, lift=True)
        raise InfeasibleError("no room above")

    def _goal(
        self, scripted: ScriptedEvent, positions: np.ndarray, axis: np.ndarray | None
    ) -> np.ndarray | None:
        rng, i = self.rng, scripted.subject
        origin, item = positions[i], self.scene.objects[i]
        if scripted.kind is EventKind.COLLIDES:
            assert scripted.other is not None
            hit = self.scene.objects[scripted.other]
            way = (positions[scripted.other] - origin) * np.array([1.0, 1.0, 0.0])
            distance = float(np.linalg.norm(way))
            free = distance - item.radius - hit.radius
            shove = way / distance * rng.uniform(0.06, 0.1)
            if free < 0.05 or not self._free_space.in_view(
                scripted.other, positions[scripted.other] + 1.5 * shove
            ):
                return None
            goal = origin + way / distance * free + shove
            return goal if self._free_space.in_view(i, goal) else None
        if scripted.kind is EventKind.LEAVES:
            side = rng.choice([-1.0, 1.0])
            angle = math.radians(self.scene.camera.at(0.0).azimuth - 90) + rng.uniform(-0.4, 0.4)
            direction = side * np.array([math.cos(angle), math.sin(angle), 0.0])
            direction = _across(direction, axis, 0.7)
            if direction is None:
                return None
            for length in np.arange(0.3, 4.0, 0.08) * self._spread:
                if self._free_space.out_of_view(i, origin + length * direction):
                    return origin + length * direction
            return None
        if scripted.kind is EventKind.ENTERS:
            if axis is None:
                goal = np.array([*rng.uniform(-self._spread, self._spread, 2), origin[2]])
            else:
                direction = _across(-origin * np.array([1.0, 1.0, 0.0]), axis, 0.5)
                if direction is None:
                    return None
                goal = origin + direction * rng.uniform(1.0, 4.0) * self._spread
            return goal if self._free_space.in_view(i, goal) else None
        if scripted.kind is EventKind.ROLLS and len(positions) > 1 and rng.random() < 0.7:
            way = self._around(i, positions)
            length = float(np.linalg.norm(way)) * rng.uniform(1.3, 2.2)
        else:
            angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.14, 0.36)
            way = np.array([math.cos(angle), math.sin(angle), 0.0])
        direction = _across(way, axis, 0.0)
        if direction is None or not 0.14 <= length <= 0.6:
            return None
        goal = origin + direction * length
        return goal if self._free_space.in_view(i, goal) else None

    def _around(self, index: int, positions: np.ndarray) -> np.ndarray:
        """From an object to a place close behind another, as the camera sees it."""
        others = [j for j in range(len(positions)) if j != index]
        behind = self._behind(index, int(self.rng.choice(others)), positions)
        return np.array([*(behind - positions[index][:2]), 0.0])

    def _behind(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        objects, azimuth = self.scene.objects, math.radians(self.scene.camera.azimuth)
        gap = objects[index].radius + objects[other].radius + self.rng.uniform(0.022, 0.035)
        return positions[other][:2] + gap * np.array([math.cos(azimuth), math.sin(azimuth)])

    def _beside(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        """A place from which it is straight across the picture to behind ``other``."""
        angle = math.radians(self.scene.camera.azimuth - 90)
        across = self.rng.choice([-1.0, 1.0]) * self.rng.uniform(0.13, 0.28)
        right = np.array([math.cos(angle), math.sin(angle)])
        return self._behind(index, other, positions) + across * right

    def _before(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        """Places [N, 2] from which an object can be run into ``other`` and shove it on."""
        item, hit = self.scene.objects[index], self.scene.objects[other]
        angle = self.rng.uniform(0, 2 * math.pi, _CANDIDATES)
        ways = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        gaps = item.radius + hit.radius + self.rng.uniform(0.06, 0.25, _CANDIDATES)
        places = positions[other, :2] - gaps[:, None] * ways
        ends = np.column_stack(
            [positions[other, :2] + 0.15 * ways, np.full(_CANDIDATES, hit.height)]
        )
        return np.where(self._free_space.all_in_view(other, ends)[:, None], places, 1e3)

    def _outside(self, index: int) -> np.ndarray:
        item = self.scene.objects[index]
        turn = math.radians(self.scene.camera.at(0.0).azimuth - 90)
        right = np.array([math.cos(turn), math.sin(turn), 0.0])
        for _ in range(8):
            y = self.rng.uniform(-0.4, 0.4) * self._spread
            for length in self.rng.choice([-1.0, 1.0]) * np.arange(0.4, 2.2, 0.05) * self._spread:
                point = np.array([0.0, y, item.height]) + length * right
                free = point[1] + item.radius < self.scene.table_edge
                if (
                    free
                    and self._free_space.out_of_view(index, point)
                    and self._free_space.free(index, point)
                ):
                    return point
        raise InfeasibleError("no place outside the picture")

    def _clear(
        self, scripted: ScriptedEvent, origin: np.ndarray, goal: np.ndarray, positions: np.ndarray
    ) -> bool:
        """Whether nothing but the collision's other object stands in the way, on the table."""
        radius = self.scene.objects[scripted.subject].radius
        if goal[1] + radius > self.scene.table_edge:
            return False
        obstacles = [
            (positions[j][:2], item.radius)
            for j, item in enumerate(self.scene.objects)
            if j not in (scripted.subject, scripted.other)
        ]
        obstacles += [
            (np.array(item.place), item.radius) for item in self._free_space.solid_distractors
        ]
        for place, size in obstacles:
            if distance_to_segment(place[None], origin[:2], goal[:2])[0] < radius + size + 0.02:
                return False
        return True

    def _passes_behind(
        self, scripted: ScriptedEvent, origin: np.ndarray, goal: np.ndarray, positions: np.ndarray
    ) -> bool:
        view = self.scene.camera.at(scripted.start)
        places = view.project(positions)
        path = view.project(origin + np.linspace(0, 1, 9)[:, None] * (goal - origin))
        for j, item in enumerate(self.scene.objects):
            if j == scripted.subject:
                continue
            u, v, depth = places[j]
            scale = item.scale + 0.5 * self.scene.objects[scripted.subject].scale
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
