"""Free space on the table: where an object is in view and separated from the others."""

from __future__ import annotations

import math

import numpy as np

from llava_st_ros.simulation.camera import PoseBatch
from llava_st_ros.simulation.scenes import Scene

_SAME_NAME_GAP = 0.12  # minimum distance of objects of the same name, in image widths


class FreeSpace:
    """The free space of a scene, on the table and in the image.

    Args:
        scene: The scene.
        duration: Length of the clip in seconds; the camera may move meanwhile.
        separation: Minimum distance of two objects in the image, relative to the sum of their
            half sizes.

    Attributes:
        solid_distractors: The distractors that are obstacles.
    """

    def __init__(self, scene: Scene, duration: float, separation: float) -> None:
        self.scene = scene
        self.solid_distractors = [item for item in scene.distractors if item.is_solid]
        times = np.linspace(0, duration, max(5, int(duration / 1.4)))
        self._views = PoseBatch([scene.camera.pose_at(t) for t in times])
        self._ends = PoseBatch([scene.camera.pose_at(0.0), scene.camera.pose_at(duration)])
        # In image widths. A shaking camera moves further between the sampled times.
        self._margin = 0.005 + scene.camera.shake / scene.camera.fovy
        self._separation = separation

    def is_in_view(self, index: int, position: np.ndarray) -> bool:
        """Whether the complete object is in the image at all times if it is at ``position``."""
        return bool(self.are_in_view(index, position[None])[0])

    def is_out_of_view(self, index: int, position: np.ndarray) -> bool:
        """Whether no part of the object is in the image at any time if it is at ``position``."""
        boxes = self._views.sphere_boxes(position[None], 1.1 * self.scene.objects[index].reach)
        margin = 0.02 + self._margin
        return bool(((boxes[:, :, 2] < -margin) | (boxes[:, :, 0] > 1 + margin)).all())

    def are_in_view(self, index: int, positions: np.ndarray) -> np.ndarray:
        """Return ``is_in_view`` of [N, 3] positions, bool [N]."""
        boxes = self._views.sphere_boxes(positions, self.scene.objects[index].reach)
        inside: np.ndarray = (boxes > self._margin) & (boxes < 1 - self._margin)
        return np.asarray(inside.all(axis=(0, 2)))

    def is_clear_of_distractors(self, index: int, position: np.ndarray) -> bool:
        radius = self.scene.objects[index].radius
        return all(
            math.dist(item.position, position[:2]) > radius + item.radius + 0.02
            for item in self.solid_distractors
        )

    def are_separated(
        self, index: int, candidates: np.ndarray, positions: np.ndarray, placed: list[int]
    ) -> np.ndarray:
        """Whether an object at a candidate position is on the table and separated from others.

        Args:
            index: The object.
            candidates: Positions for it, [N, 3].
            positions: Positions of all objects, [objects, 3].
            placed: The objects that have their position already.

        Returns:
            bool [N]: whether there is enough distance to distractors and to the placed objects,
            to these both on the table and in the image.
        """
        objects = self.scene.objects
        item = objects[index]
        fit = candidates[:, 1] + item.radius < self.scene.table_edge
        fit &= np.array([self.is_clear_of_distractors(index, c) for c in candidates])
        projected = self._ends.project(candidates)
        for j in placed:
            gaps = np.linalg.norm((candidates - positions[j])[:, :2], axis=1)
            fit &= gaps > item.radius + objects[j].radius + 0.03
            placed_projected = self._ends.project(positions[j][None])
            focal = self._ends.focal_lengths[:, None]
            sizes = focal * (
                item.scale / projected[:, :, 2] + objects[j].scale / placed_projected[:, :, 2]
            )
            offsets = np.abs(projected[:, :, :2] - placed_projected[:, :, :2])
            fit &= (np.hypot(*np.moveaxis(offsets, 2, 0)) > self._separation * sizes).all(axis=0)
            if item.name == objects[j].name:
                # Questions distinguish them by their positions in the image.
                fit &= (offsets.max(axis=2) > _SAME_NAME_GAP).all(axis=0)
        return fit


def distance_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances [N] of points [N, 2] to the segment between two points [2]."""
    direction = end - start
    along = (points - start) @ direction / max(float(direction @ direction), 1e-9)
    return np.linalg.norm(points - start - np.clip(along, 0, 1)[:, None] * direction, axis=1)
