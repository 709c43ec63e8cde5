"""Frames and boxes of a rollout."""

from __future__ import annotations

import math

import numpy as np

from llava_st_ros.simulation.appearance import fill_textures
from llava_st_ros.simulation.clutter import MAT_TOP
from llava_st_ros.simulation.rendering import Shadow, renderer_for
from llava_st_ros.simulation.rollout import StateRecord
from llava_st_ros.simulation.scenes import Scene

MIN_PIXELS = 12  # an object with fewer visible pixels counts as not visible


def render_boxes(rollout: StateRecord, first: int = 0, end: int | None = None) -> np.ndarray:
    """Return the boxes float32 [F, n, 4] at the stamps, as defined in ``SimulatedClip``.

    Args:
        rollout: The states.
        first: The first frame.
        end: The frame after the last one; None: all.
    """
    stamps = rollout.stamps[first:end]
    renderer = renderer_for(rollout.model, rollout.size)
    geoms = [rollout.model.geom(f"object{i}").id for i in range(len(rollout.scene.objects))]
    boxes = np.full((len(stamps), len(geoms), 4), np.nan, dtype=np.float32)
    middle = rollout.times.shape[1] // 2
    for f, stamp in enumerate(stamps):
        rollout.set_state(first + f, middle)
        pose = rollout.scene.camera.pose_at(float(stamp))
        segmentation = renderer.render_segmentation(rollout.data, pose)
        for i, geom in enumerate(geoms):
            boxes[f, i] = mask_box(segmentation == geom)
    return boxes


def render_frames(rollout: StateRecord) -> np.ndarray:
    """Return the frames uint8 [F, S, S, 3]: the means of their exposures, with sensor effects."""
    scene, size = rollout.scene, rollout.size
    fill_textures(rollout.model, scene.appearance)
    renderer = renderer_for(rollout.model, size)
    renderer.upload_textures()
    frames = np.empty((len(rollout.stamps), size, size, 3), dtype=np.uint8)
    exposures = rollout.times.shape[1]
    for f in range(len(frames)):
        light = np.zeros((size, size, 3), dtype=np.float32)
        for k in range(exposures):
            rollout.set_state(f, k)
            pose = scene.camera.pose_at(float(rollout.times[f, k]))
            shadows = _shadows(scene, rollout.exposure_states[f, k])
            light += renderer.render_rgb(rollout.data, pose, shadows)
        frames[f] = np.rint(light / exposures)
    return scene.sensor_effects.apply(frames, rollout.stamps)


def _shadows(scene: Scene, state: np.ndarray) -> list[Shadow]:
    """Return discs on the table where the first directional light casts the objects' shadows."""
    shadows: list[Shadow] = []
    if not scene.appearance.lights:
        return shadows
    x, y, z = scene.appearance.lights[0].direction
    for item, (right, forward, height) in zip(scene.objects, state.reshape(-1, 7)[:, :3]):
        center = np.array([right - x / z * height, forward - y / z * height, MAT_TOP + 3e-4])
        if center[1] < scene.table_edge:
            width = math.sqrt(item.proportions[0] * item.proportions[1])
            shadows.append(Shadow(center, 0.9 * item.scale * width, scene.appearance.shadow))
    return shadows


def mask_box(mask: np.ndarray, min_pixels: int = MIN_PIXELS) -> np.ndarray:
    """Return the box x1, y1, x2, y2 in [0, 1] of bool [S, S], NaN below ``min_pixels`` pixels."""
    if int(mask.sum()) < min_pixels:
        return np.full(4, np.nan, dtype=np.float32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    return edges / np.float32(len(mask))
