"""What room there is: where a thing is in the picture, free of others and on the table."""

from __future__ import annotations

import math

import numpy as np

from llava_st_ros.simulation.camera import PoseBatch
from llava_st_ros.simulation.scenes import Scene

_SAME_NAME_GAP = 0.12  # of the picture, between objects of the same name


class FreeSpace:
    """A scene's table as its camera sees it in ``duration`` seconds.

    Objects keep ``apartness`` times the sum of their half sizes from each other in the picture.
    """

    def __init__(self, scene: Scene, duration: float, apartness: float) -> None:
        self.scene = scene
        self.solid_distractors = [item for item in scene.distractors if item.is_solid]
        times = np.linspace(0, duration, max(5, int(duration / 1.4)))
        self._views = PoseBatch([scene.camera.at(t) for t in times])
        self._ends = PoseBatch([scene.camera.at(0.0), scene.camera.at(duration)])
        # Of the picture: between these times a shaken camera is elsewhere.
        self._margin = 0.005 + scene.camera.shake / scene.camera.fovy
        self._apartness = apartness

    def in_view(self, index: int, point: np.ndarray) -> bool:
        """Whether the whole object is in the picture there, whatever the camera does."""
        return bool(self.all_in_view(index, point[None])[0])

    def out_of_view(self, index: int, point: np.ndarray) -> bool:
        """Whether nothing of it is, whatever the camera does."""
        boxes = self._views.sphere_boxes(point[None], 1.1 * self.scene.objects[index].radius)
        margin = 0.02 + self._margin
        return bool(((boxes[:, :, 2] < -margin) | (boxes[:, :, 0] > 1 + margin)).all())

    def all_in_view(self, index: int, points: np.ndarray) -> np.ndarray:
        """``in_view`` of [N, 3] points, bool [N]."""
        boxes = self._views.sphere_boxes(points, self.scene.objects[index].radius)
        inside: np.ndarray = (boxes > self._margin) & (boxes < 1 - self._margin)
        return np.asarray(inside.all(axis=(0, 2)))

    def free(self, index: int, point: np.ndarray) -> bool:
        """Whether no distractor stands there."""
        radius = self.scene.objects[index].radius
        return all(
            math.dist(item.place, point[:2]) > radius + item.radius + 0.02
            for item in self.solid_distractors
        )

    def apart(
        self, index: int, places: np.ndarray, positions: np.ndarray, placed: list[int]
    ) -> np.ndarray:
        """bool [N]: whether an object at [N, 3] places stands on the table, clear of distractors
        and of those ``placed``, there and in the picture."""
        objects = self.scene.objects
        item = objects[index]
        fit = places[:, 1] + item.radius < self.scene.table_edge
        fit &= np.array([self.free(index, place) for place in places])
        seen = self._ends.project(places)
        for j in placed:
            gaps = np.linalg.norm((places - positions[j])[:, :2], axis=1)
            fit &= gaps > item.radius + objects[j].radius + 0.03
            other = self._ends.project(positions[j][None])
            focal = self._ends.focal[:, None]
            radius = focal * (item.scale / seen[:, :, 2] + objects[j].scale / other[:, :, 2])
            away = np.abs(seen[:, :, :2] - other[:, :, :2])
            fit &= (np.hypot(*np.moveaxis(away, 2, 0)) > self._apartness * radius).all(axis=0)
            if item.name == objects[j].name:
                # Told apart by left and right, or by near and far.
                fit &= (away.max(axis=2) > _SAME_NAME_GAP).all(axis=0)
        return fit


def distance_to_segment(places: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How far places [N, 2] lie from the straight way between two points [2], metres [N]."""
    way = end - start
    along = (places - start) @ way / max(float(way @ way), 1e-9)
    return np.linalg.norm(places - start - np.clip(along, 0, 1)[:, None] * way, axis=1)
