"""One scene recorded: the physics of a script, then its boxes and pictures."""

from __future__ import annotations

import numpy as np

from llava_st_ros.simulation.appearance import fill_textures
from llava_st_ros.simulation.clutter import MAT_TOP
from llava_st_ros.simulation.events import EventKind, InfeasibleError, Motion, ScriptedEvent
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.mjcf import scene_xml
from llava_st_ros.simulation.physics import Tabletop, make_bouncy
from llava_st_ros.simulation.planning import MotionPlanner
from llava_st_ros.simulation.rendering import Shadow, renderer_for
from llava_st_ros.simulation.scenes import Scene

MIN_PIXELS = 12  # fewer visible pixels than this and the object counts as not visible
MOTION_THRESHOLD = 0.005  # m: a displacement that shows (about one pixel at 144 px)


class Rollout:
    """The physics of a clip, and what was where when each event began.

    ``exposure_states`` [F, K, 7n] are the states in the sub-exposures of each picture.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scene: Scene,
        stamps: np.ndarray,
        script: list[ScriptedEvent],
        first: list[str],
        size: int,
    ) -> None:
        self.scene, self.stamps, self.script, self.size = scene, stamps, script, size
        self.model = mujoco.MjModel.from_xml_string(scene_xml(scene, size))
        for scripted in script:
            if scripted.kind is EventKind.DROPPED:
                make_bouncy(self.model, scripted.subject)
        planner = MotionPlanner(rng, scene, float(stamps[-1]))
        table = Tabletop(scene, self.model, *planner.sample_layout(first, script))
        for i, state in enumerate(first):
            if state == "air":
                place = table.positions[i]
                table.motions[i] = Motion(place, place, 0.0, 0.0, lift=True)
        self.start_positions: list[np.ndarray] = []
        self.motions: list[Motion | None] = []
        states: list[np.ndarray] = []
        pending = list(self.script)
        self.times = np.maximum(stamps[:, None] + scene.sensor_effects.offsets, 0.0)  # [F, K]
        for time in self.times.ravel():
            while pending and pending[0].start <= time:
                scripted = pending.pop(0)
                table.step_until(scripted.start)
                self._begin(table, planner, scripted)
            table.step_until(float(time))
            states.append(table.data.qpos.copy())
        self.exposure_states = np.array(states).reshape(*self.times.shape, -1)
        self.data, self.contacts = table.data, table.contacts
        self._check_bystanders(table.positions)

    @property
    def positions(self) -> np.ndarray:
        """[F, n, 3] metres, at the stamps."""
        middle = self.exposure_states[:, self.exposure_states.shape[1] // 2]
        return middle.reshape(len(middle), -1, 7)[:, :, :3]

    def end_positions(self, index: int) -> np.ndarray:
        """All objects' places [n, 3] when what follows event ``index`` begins."""
        if index + 1 < len(self.script):
            return self.start_positions[index + 1]
        return self.positions[-1]

    def set_state(self, frame: int, exposure: int) -> None:
        """Put everything in ``data`` where it is in that sub-exposure of that picture."""
        model, data, occluder = self.model, self.data, self.scene.occluder
        data.qpos[:] = self.exposure_states[frame, exposure]
        if occluder is not None:
            time = float(self.times[frame, exposure])
            data.mocap_pos[0], turn = occluder.at(self.scene.camera, time)
            mujoco.mju_mat2Quat(data.mocap_quat[0], turn.ravel())
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)

    def _begin(self, table: Tabletop, planner: MotionPlanner, scripted: ScriptedEvent) -> None:
        if (table.speeds > 0.02).any():
            raise InfeasibleError("the event before has not come to rest")
        self.start_positions.append(table.positions)
        motion = planner.plan_motion(scripted, table.positions, table.axis(scripted.subject))
        self.motions.append(motion)
        if motion is None:
            table.motions.pop(scripted.subject, None)
            return
        table.motions[scripted.subject] = motion
        if motion.brake_at is not None:
            table.launch(scripted.subject, motion.at(0.0)[1])

    def _check_bystanders(self, end: np.ndarray) -> None:
        if (
            np.linalg.norm(self.positions[0] - self.start_positions[0], axis=1).max()
            > MOTION_THRESHOLD
        ):
            raise InfeasibleError("something moved before the first event")
        for before, after, scripted in zip(
            self.start_positions, [*self.start_positions[1:], end], self.script
        ):
            moved = np.linalg.norm(after - before, axis=1) > MOTION_THRESHOLD
            moved[[i for i in (scripted.subject, scripted.other) if i is not None]] = False
            if moved.any():
                raise InfeasibleError("a bystander was moved")


def render_boxes(rollout: Rollout) -> np.ndarray:
    """Boxes float32 [F, n, 4] of the middle exposures, see ``SimulatedClip``."""
    renderer = renderer_for(rollout.model, rollout.size)
    geoms = [rollout.model.geom(f"object{i}").id for i in range(len(rollout.scene.objects))]
    boxes = np.full((len(rollout.stamps), len(geoms), 4), np.nan, dtype=np.float32)
    middle = rollout.times.shape[1] // 2
    for f, stamp in enumerate(rollout.stamps):
        rollout.set_state(f, middle)
        labels = renderer.render_segmentation(rollout.data, rollout.scene.camera.at(float(stamp)))
        for i, geom in enumerate(geoms):
            boxes[f, i] = _box(labels == geom)
    return boxes


def render_frames(rollout: Rollout) -> np.ndarray:
    """Frames uint8 [F, S, S, 3]."""
    scene, size = rollout.scene, rollout.size
    fill_textures(rollout.model, scene.appearance)
    renderer = renderer_for(rollout.model, size)
    renderer.upload_textures()
    frames = np.empty((len(rollout.stamps), size, size, 3), dtype=np.uint8)
    count = rollout.times.shape[1]
    for f in range(len(frames)):
        light = np.zeros((size, size, 3), dtype=np.float32)
        for k in range(count):
            rollout.set_state(f, k)
            pose = scene.camera.at(float(rollout.times[f, k]))
            light += renderer.render_rgb(
                rollout.data, pose, _shadows(scene, rollout.exposure_states[f, k])
            )
        frames[f] = np.rint(light / count)
    return scene.sensor_effects.apply(frames, rollout.stamps)


def _shadows(scene: Scene, state: np.ndarray) -> list[Shadow]:
    """Discs where the lamp casts what stands on the table or hangs above it."""
    x, y, z = scene.appearance.light_direction
    found = []
    for item, (left, back, height) in zip(scene.objects, state.reshape(-1, 7)[:, :3]):
        center = np.array([left - x / z * height, back - y / z * height, MAT_TOP + 3e-4])
        if center[1] < scene.table_edge:
            found.append(Shadow(center, 0.9 * item.scale))
    return found


def _box(mask: np.ndarray) -> np.ndarray:
    if int(mask.sum()) < MIN_PIXELS:
        return np.full(4, np.nan, dtype=np.float32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    return edges / np.float32(len(mask))
