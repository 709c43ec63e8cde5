"""Motion planning by sampling: initial positions of objects and target motions of events."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from llava_st_ros.simulation.events import EventKind, InfeasibleError, Motion, ScriptedEvent
from llava_st_ros.simulation.free_space import FreeSpace, distance_to_segment
from llava_st_ros.simulation.scenes import Scene
from llava_st_ros.simulation.worlds import sample

_CANDIDATES = 160  # sampled positions per object
_STRAIGHT = {EventKind.COLLIDES, EventKind.STOPS}  # kinds that are planned on a straight path
_LIFT_CLEARANCE = np.array([0.0, 0.0, 0.13])  # m above an object that is to be lifted


class MotionPlanner:
    """Finds initial positions and motions that keep objects apart and in the image.

    Args:
        rng: The random generator.
        scene: The scene.
        duration: Length of the clip in seconds.
    """

    def __init__(self, rng: np.random.Generator, scene: Scene, duration: float) -> None:
        self.rng, self.scene = rng, scene
        separation = 0.8 if rng.random() < 0.65 else 0.5
        self._free_space = FreeSpace(scene, duration, separation)
        self._spread = 0.44 * scene.camera.view_width

    def sample_layout(
        self, initial_states: list[str], script: list[ScriptedEvent]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample the initial positions [n, 3] in meters and yaws [n] in radians.

        Raises:
            InfeasibleError: There is no space for an object.
        """
        rng, objects = self.rng, self.scene.objects
        positions = np.zeros((len(objects), 3))
        yaws = rng.uniform(0, 2 * math.pi, len(objects))
        rolling = {s.subject for s in script if s.kind is EventKind.ROLLS}
        lifted = {s.subject for s in script if s.kind is EventKind.LIFTED}
        hits = {s.subject: s.other for s in script if s.other is not None}
        order = self._placement_order(initial_states, hits, rolling)
        paths: list[tuple[np.ndarray, np.ndarray, float]] = []  # start, end and radius of mover
        for num_placed, i in enumerate(order):
            placed = [j for j in order[:num_placed] if initial_states[j] != "outside"]
            if initial_states[i] == "outside":
                positions[i] = self._sample_outside(i)
                toward = np.arctan2(-positions[i, 1], -positions[i, 0]) + rng.uniform(-0.15, 0.15)
                yaws[i] = toward + math.pi / 2
                continue
            candidates = self._sample_on_table(i, initial_states[i] == "air")
            if i in rolling and placed:
                for candidate in candidates[: int(0.8 * _CANDIDATES)]:
                    candidate[:2] = self._beside(i, int(rng.choice(placed)), positions)
                yaws[i] = math.radians(self.scene.camera.azimuth)
            hit = hits.get(i)
            if hit in placed:
                candidates[:, :2] = self._before_collision(i, hit, positions)
            fit = self._free_space.are_in_view(i, candidates)
            fit &= self._free_space.are_separated(i, candidates, positions, placed)
            if i in lifted:
                fit &= self._free_space.are_in_view(i, candidates + _LIFT_CLEARANCE)
            for start, end, radius in paths:
                distances = distance_to_segment(candidates[:, :2], start, end)
                fit &= distances > radius + objects[i].radius + 0.03
            if not fit.any():
                raise InfeasibleError("no room on the table")
            positions[i] = candidates[np.argmax(fit)]
            if hit in placed:
                paths.append((positions[i, :2], positions[hit, :2], objects[i].radius))
        return positions, yaws

    def _placement_order(
        self, initial_states: list[str], hits: dict[int, int], rolling: set[int]
    ) -> list[int]:
        """Return the order in which the objects get their positions.

        Objects that collide are first, so that the path between them stays free, then large ones,
        which need the most space. Rolling objects are late, because they start next to the object
        that they pass behind. Those outside the image are last: they occupy no space.
        """
        objects = self.scene.objects
        return sorted(
            range(len(objects)),
            key=lambda i: (
                initial_states[i] == "outside",
                0 if i in hits.values() else 1 if i in hits else 3 if i in rolling else 2,
                -objects[i].radius,
            ),
        )

    def plan_motion(
        self, scripted: ScriptedEvent, positions: np.ndarray, axis: np.ndarray | None
    ) -> Motion | None:
        """Plan the target motion of a scripted event's subject.

        Args:
            scripted: The event.
            positions: Current positions of all objects, [n, 3].
            axis: The long axis of a capsule, which rolls only across it; None for other shapes.

        Returns:
            The motion, None if the subject is to be released.

        Raises:
            InfeasibleError: No motion was found.
        """
        kind, origin = scripted.kind, positions[scripted.subject].copy()
        if kind is EventKind.DROPPED:
            return None
        motion = Motion(origin, origin, scripted.start, scripted.end)
        if kind is EventKind.LIFTED:
            return self._plan_lift(scripted, motion)
        goals = []
        for _ in range(60):
            goal = self._sample_goal(scripted, positions, axis)
            if goal is None or not self._is_path_free(scripted, origin, goal, positions):
                continue
            if kind is not EventKind.ROLLS or self._passes_behind(
                scripted, origin, goal, positions
            ):
                goals = [goal]
                break
            goals.append(goal)
        if not goals:
            raise InfeasibleError("no free path")
        motion = self._bowed(replace(motion, goal=goals[0]), scripted, positions, axis)
        if kind is EventKind.STOPS:
            brake = scripted.start + (scripted.end - scripted.start) * self.rng.uniform(0.35, 0.6)
            motion = replace(motion, brake_at=float(brake))
        return motion

    def _bowed(
        self,
        motion: Motion,
        scripted: ScriptedEvent,
        positions: np.ndarray,
        axis: np.ndarray | None,
    ) -> Motion:
        """Return the motion on a curved path if the world has such paths and there is room."""
        variety = self.scene.variety
        if variety is None or axis is not None or scripted.kind in _STRAIGHT:
            return motion
        displacement = motion.goal - motion.origin
        side = np.array([-displacement[1], displacement[0], 0.0]) * sample(self.rng, variety.bow)
        middle = motion.origin + displacement / 2 + side
        free = self._is_path_free(scripted, motion.origin, middle, positions, 0.02)
        free &= self._is_path_free(scripted, middle, motion.goal, positions, 0.02)
        if not side.any() or not free:
            return motion
        if scripted.kind in (EventKind.PUSHED, EventKind.ROLLS) and not self._free_space.is_in_view(
            scripted.subject, middle
        ):
            return motion
        return replace(motion, bow=side)

    def _plan_lift(self, scripted: ScriptedEvent, motion: Motion) -> Motion:
        for _ in range(20):
            goal = motion.origin + np.array([0.0, 0.0, self.rng.uniform(0.11, 0.2)])
            if self._free_space.is_in_view(scripted.subject, goal):
                return replace(motion, goal=goal, lift=True)
        raise InfeasibleError("no room above")

    def _sample_goal(
        self, scripted: ScriptedEvent, positions: np.ndarray, axis: np.ndarray | None
    ) -> np.ndarray | None:
        if scripted.kind is EventKind.COLLIDES:
            return self._sample_collision_goal(scripted, positions)
        if scripted.kind is EventKind.LEAVES:
            return self._sample_goal_out_of_view(scripted.subject, positions, axis)
        if scripted.kind is EventKind.ENTERS:
            return self._sample_goal_into_view(scripted.subject, positions, axis)
        rng, i = self.rng, scripted.subject
        if scripted.kind is EventKind.ROLLS and len(positions) > 1 and rng.random() < 0.7:
            path = self._toward_behind_another(i, positions)
            length = float(np.linalg.norm(path)) * rng.uniform(1.3, 2.2)
        else:
            angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.14, 0.36)
            path = np.array([math.cos(angle), math.sin(angle), 0.0])
        direction = _rolling_direction(path, axis, 0.0)
        if direction is None or not 0.14 <= length <= 0.6:
            return None
        goal = positions[i] + direction * length
        return goal if self._free_space.is_in_view(i, goal) else None

    def _sample_collision_goal(
        self, scripted: ScriptedEvent, positions: np.ndarray
    ) -> np.ndarray | None:
        """Sample a goal beyond the contact with the other object, so that it is pushed on."""
        assert scripted.other is not None
        i, origin = scripted.subject, positions[scripted.subject]
        hit = self.scene.objects[scripted.other]
        direction = (positions[scripted.other] - origin) * np.array([1.0, 1.0, 0.0])
        distance = float(np.linalg.norm(direction))
        free = distance - self.scene.objects[i].radius - hit.radius
        push = direction / distance * self.rng.uniform(0.06, 0.1)
        if free < 0.05 or not self._free_space.is_in_view(
            scripted.other, positions[scripted.other] + 1.5 * push
        ):
            return None
        goal = origin + direction / distance * free + push
        return goal if self._free_space.is_in_view(i, goal) else None

    def _sample_goal_out_of_view(
        self, index: int, positions: np.ndarray, axis: np.ndarray | None
    ) -> np.ndarray | None:
        side = self.rng.choice([-1.0, 1.0])
        angle = math.radians(self.scene.camera.pose_at(0.0).azimuth - 90)
        angle += self.rng.uniform(-0.4, 0.4)
        outward = side * np.array([math.cos(angle), math.sin(angle), 0.0])
        direction = _rolling_direction(outward, axis, 0.7)
        if direction is None:
            return None
        for length in np.arange(0.3, 4.0, 0.08) * self._spread:
            if self._free_space.is_out_of_view(index, positions[index] + length * direction):
                return positions[index] + length * direction
        return None

    def _sample_goal_into_view(
        self, index: int, positions: np.ndarray, axis: np.ndarray | None
    ) -> np.ndarray | None:
        origin = positions[index]
        if axis is None:
            goal = np.array([*self.rng.uniform(-self._spread, self._spread, 2), origin[2]])
        else:
            inward = -origin * np.array([1.0, 1.0, 0.0])
            direction = _rolling_direction(inward, axis, 0.5)
            if direction is None:
                return None
            goal = origin + direction * self.rng.uniform(1.0, 4.0) * self._spread
        return goal if self._free_space.is_in_view(index, goal) else None

    def _toward_behind_another(self, index: int, positions: np.ndarray) -> np.ndarray:
        """Return the displacement from an object to a position close behind another one."""
        others = [j for j in range(len(positions)) if j != index]
        behind = self._behind(index, int(self.rng.choice(others)), positions)
        return np.array([*(behind - positions[index][:2]), 0.0])

    def _behind(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        """Return a position [2] close behind ``other`` as seen from the camera."""
        objects, azimuth = self.scene.objects, math.radians(self.scene.camera.azimuth)
        gap = objects[index].radius + objects[other].radius + self.rng.uniform(0.022, 0.035)
        return positions[other][:2] + gap * np.array([math.cos(azimuth), math.sin(azimuth)])

    def _beside(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        """Return a position [2] from which an object passes behind ``other`` straight across."""
        angle = math.radians(self.scene.camera.azimuth - 90)
        across = self.rng.choice([-1.0, 1.0]) * self.rng.uniform(0.13, 0.28)
        right = np.array([math.cos(angle), math.sin(angle)])
        return self._behind(index, other, positions) + across * right

    def _before_collision(self, index: int, other: int, positions: np.ndarray) -> np.ndarray:
        """Return positions [N, 2] from which an object can run into ``other`` and push it on.

        Positions that would push ``other`` out of view are replaced by far ones.
        """
        item, hit = self.scene.objects[index], self.scene.objects[other]
        angle = self.rng.uniform(0, 2 * math.pi, _CANDIDATES)
        directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        gaps = item.radius + hit.radius + self.rng.uniform(0.06, 0.25, _CANDIDATES)
        candidates = positions[other, :2] - gaps[:, None] * directions
        ends = np.column_stack(
            [positions[other, :2] + 0.15 * directions, np.full(_CANDIDATES, hit.rest_height)]
        )
        return np.where(self._free_space.are_in_view(other, ends)[:, None], candidates, 1e3)

    def _sample_on_table(self, index: int, in_air: bool) -> np.ndarray:
        """Sample positions [N, 3] on the table or, with ``in_air``, above it."""
        candidates = np.empty((_CANDIDATES, 3))
        candidates[:, :2] = self.rng.uniform(-self._spread, self._spread, (_CANDIDATES, 2))
        candidates[:, 2] = self.scene.objects[index].rest_height
        if in_air:
            candidates[:, 2] += self.rng.uniform(0.14, 0.22, _CANDIDATES)
        return candidates

    def _sample_outside(self, index: int) -> np.ndarray:
        """Sample a position [3] on the table outside the image."""
        item = self.scene.objects[index]
        angle = math.radians(self.scene.camera.pose_at(0.0).azimuth - 90)
        right = np.array([math.cos(angle), math.sin(angle), 0.0])
        for _ in range(8):
            y = self.rng.uniform(-0.4, 0.4) * self._spread
            for length in self.rng.choice([-1.0, 1.0]) * np.arange(0.4, 2.2, 0.05) * self._spread:
                position = np.array([0.0, y, item.rest_height]) + length * right
                if (
                    position[1] + item.radius < self.scene.table_edge
                    and self._free_space.is_out_of_view(index, position)
                    and self._free_space.is_clear_of_distractors(index, position)
                ):
                    return position
        raise InfeasibleError("no position outside the image")

    def _is_path_free(
        self,
        scripted: ScriptedEvent,
        origin: np.ndarray,
        goal: np.ndarray,
        positions: np.ndarray,
        clearance: float = 0.0,
    ) -> bool:
        """Whether the path is on the table and only the object to be hit is in the way."""
        radius = self.scene.objects[scripted.subject].radius
        if goal[1] + radius > self.scene.table_edge:
            return False
        obstacles = [
            (positions[j][:2], item.radius)
            for j, item in enumerate(self.scene.objects)
            if j not in (scripted.subject, scripted.other)
        ]
        obstacles += [
            (np.array(item.position), item.radius) for item in self._free_space.solid_distractors
        ]
        for center, size in obstacles:
            distance = distance_to_segment(center[None], origin[:2], goal[:2])[0]
            if distance < radius + size + 0.02 + clearance:
                return False
        return True

    def _passes_behind(
        self, scripted: ScriptedEvent, origin: np.ndarray, goal: np.ndarray, positions: np.ndarray
    ) -> bool:
        """Whether the path passes behind an object without ending there."""
        pose = self.scene.camera.pose_at(scripted.start)
        projected = pose.project(positions)
        path = pose.project(origin + np.linspace(0, 1, 9)[:, None] * (goal - origin))
        for j, item in enumerate(self.scene.objects):
            if j == scripted.subject:
                continue
            u, v, depth = projected[j]
            scale = item.scale + 0.5 * self.scene.objects[scripted.subject].scale
            near = np.abs(path[:, :2] - [u, v]).max(axis=1) < scale * pose.scale_at(depth)
            if (near & (path[:, 2] > depth)).any() and not near[-1]:
                return True
        return False


def _rolling_direction(
    direction: np.ndarray, axis: np.ndarray | None, min_cosine: float
) -> np.ndarray | None:
    """Return the unit direction in which an object moves when pushed along ``direction``.

    A capsule rolls across its axis. None if the cosine between the two directions is too small.
    """
    unit = direction / np.linalg.norm(direction)
    if axis is None:
        return unit
    across = np.array([-axis[1], axis[0], 0.0])
    across /= np.linalg.norm(across)
    cosine = float(np.dot(across, unit))
    if abs(cosine) < min_cosine:
        return None
    return across if cosine >= 0 else -across
