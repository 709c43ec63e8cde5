"""Headless rendering of MuJoCo scenes: an image and an exact segmentation of the same moment.

The OpenGL context and MuJoCo's render context are created once per process and image size and used
for every scene, because all scenes have the same texture layout (see ``mjcf.scene_xml``). Rendering
is confined to one thread. Fork worker processes before the first rendering.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llava_st_ros.simulation.camera import CameraPose
from llava_st_ros.simulation.headless import gl_context, mujoco
from llava_st_ros.simulation.mjcf import MAX_GEOMS


class Shadow(NamedTuple):
    """A dark disc on the table, in meters. It is not part of the segmentation."""

    center: np.ndarray
    radius: float
    darkness: float


class SceneRenderer:
    """Renders square images of ``size`` pixels."""

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        self.size = size
        self._gl = gl_context(size)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._buffer = np.empty((size, size, 3), dtype=np.uint8)

    def close(self) -> None:
        """Free the contexts. OSMesa's own cleanup at interpreter exit fails."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def select_model(self, model: mujoco.MjModel) -> None:
        """Select the model to render; its textures follow with ``upload_textures``."""
        self._gl.make_current()
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def upload_textures(self) -> None:
        """Upload the textures of the model to the render context."""
        for texture in range(self._model.ntex):
            mujoco.mjr_uploadTexture(self._model, self._context, texture)

    def render_segmentation(self, data: mujoco.MjData, pose: CameraPose) -> np.ndarray:
        """Return geom ids int16 [S, S], -1 for background."""
        scene = self._aim(data, pose)
        identifiers = np.full(256, -1, dtype=np.int16)
        for geom in scene.geoms[: scene.ngeom]:
            if geom.segid >= 0:
                identifiers[geom.segid + 1] = geom.objid
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        labels = identifiers[self._read()[:, :, 0]]
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = False
        scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = False
        return labels

    def render_rgb(
        self, data: mujoco.MjData, pose: CameraPose, shadows: Sequence[Shadow] = ()
    ) -> np.ndarray:
        """Return RGB uint8 [S, S, 3], valid until the next call."""
        scene = self._aim(data, pose)
        for shadow in shadows:
            mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom],
                mujoco.mjtGeom.mjGEOM_CYLINDER.value,
                np.array([shadow.radius, 2e-4, 0.0]),  # a disc: radius, half height
                shadow.center,
                np.eye(3).ravel(),
                np.array([0.0, 0.0, 0.0, shadow.darkness], dtype=np.float32),
            )
            scene.ngeom += 1
        return self._read()

    def _aim(self, data: mujoco.MjData, pose: CameraPose) -> mujoco.MjvScene:
        camera = self._camera
        camera.lookat[:] = pose.lookat
        camera.distance, camera.azimuth, camera.elevation = (
            pose.distance,
            pose.azimuth,
            pose.elevation,
        )
        self._model.vis.global_.fovy = pose.fovy
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, camera, everything, self._scene
        )
        if pose.aspect != 1.0:
            for view in self._scene.camera:
                height = view.frustum_top - view.frustum_bottom
                view.frustum_width = 0.5 * pose.aspect * height
        return self._scene

    def _read(self) -> np.ndarray:
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._buffer, None, self._rect, self._context)
        return self._buffer[::-1]


_renderers: dict[int, SceneRenderer] = {}


def renderer_for(model: mujoco.MjModel, size: int) -> SceneRenderer:
    """Return this process's renderer of a size, with ``model`` selected.

    Raises:
        BackendError: There is no headless OpenGL.
    """
    if size not in _renderers:
        _renderers[size] = SceneRenderer(model, size)
        atexit.register(_renderers[size].close)
    _renderers[size].select_model(model)
    return _renderers[size]
