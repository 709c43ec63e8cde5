"""One scene recorded: the physics of a script, then its boxes and pictures."""

from __future__ import annotations

import numpy as np

from llava_st_ros.simulation.clutter import MAT_TOP
from llava_st_ros.simulation.events import EventKind, InfeasibleError, Motion, Slot
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.looks import paint
from llava_st_ros.simulation.mjcf import scene_xml
from llava_st_ros.simulation.physics import Tabletop, make_bouncy
from llava_st_ros.simulation.planning import Planner
from llava_st_ros.simulation.rendering import Shadow, renderer_for
from llava_st_ros.simulation.scenes import Scene

MIN_PIXELS = 12  # fewer visible pixels than this and the object counts as not visible
MOVED = 0.005  # m: a displacement that shows (about one pixel at 144 px)


class Take:
    """The physics of a clip, and what was where when each event began.

    ``exposed`` [F, K, 7n] are the states in the sub-exposures of each picture.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scene: Scene,
        stamps: np.ndarray,
        slots: list[Slot],
        first: list[str],
        size: int,
    ) -> None:
        self.scene, self.stamps, self.slots, self.size = scene, stamps, slots, size
        self.model = mujoco.MjModel.from_xml_string(scene_xml(scene, size))
        for slot in slots:
            if slot.kind is EventKind.DROPPED:
                make_bouncy(self.model, slot.subject)
        planner = Planner(rng, scene, float(stamps[-1]))
        table = Tabletop(scene, self.model, *planner.layout(first, slots))
        for i, state in enumerate(first):
            if state == "air":
                place = table.positions[i]
                table.motions[i] = Motion(place, place, 0.0, 0.0, lift=True)
        self.befores: list[np.ndarray] = []
        self.motions: list[Motion | None] = []
        states: list[np.ndarray] = []
        pending = list(self.slots)
        self.times = np.maximum(stamps[:, None] + scene.imaging.offsets, 0.0)  # [F, K]
        for time in self.times.ravel():
            while pending and pending[0].start <= time:
                slot = pending.pop(0)
                table.advance(slot.start)
                self._begin(table, planner, slot)
            table.advance(float(time))
            states.append(table.data.qpos.copy())
        self.exposed = np.array(states).reshape(*self.times.shape, -1)
        self.data, self.touched = table.data, table.touched
        self._check_bystanders(table.positions)

    @property
    def positions(self) -> np.ndarray:
        """[F, n, 3] metres, at the stamps."""
        middle = self.exposed[:, self.exposed.shape[1] // 2]
        return middle.reshape(len(middle), -1, 7)[:, :, :3]

    def settled(self, index: int) -> np.ndarray:
        """All objects' places [n, 3] when what follows event ``index`` begins."""
        if index + 1 < len(self.slots):
            return self.befores[index + 1]
        return self.positions[-1]

    def show(self, frame: int, exposure: int) -> None:
        """Put everything in ``data`` where it is in that sub-exposure of that picture."""
        model, data, foreground = self.model, self.data, self.scene.foreground
        data.qpos[:] = self.exposed[frame, exposure]
        if foreground is not None:
            time = float(self.times[frame, exposure])
            data.mocap_pos[0], turn = foreground.at(self.scene.camera, time)
            mujoco.mju_mat2Quat(data.mocap_quat[0], turn.ravel())
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)

    def _begin(self, table: Tabletop, planner: Planner, slot: Slot) -> None:
        if (table.speeds > 0.02).any():
            raise InfeasibleError("the event before has not come to rest")
        self.befores.append(table.positions)
        motion = planner.plan(slot, table.positions, table.axis(slot.subject))
        self.motions.append(motion)
        if motion is None:
            table.motions.pop(slot.subject, None)
            return
        table.motions[slot.subject] = motion
        if motion.brake_at is not None:
            table.launch(slot.subject, motion.at(0.0)[1])

    def _check_bystanders(self, end: np.ndarray) -> None:
        if np.linalg.norm(self.positions[0] - self.befores[0], axis=1).max() > MOVED:
            raise InfeasibleError("something moved before the first event")
        for before, after, slot in zip(self.befores, [*self.befores[1:], end], self.slots):
            moved = np.linalg.norm(after - before, axis=1) > MOVED
            moved[[i for i in (slot.subject, slot.other) if i is not None]] = False
            if moved.any():
                raise InfeasibleError("a bystander was moved")


def measure(take: Take) -> np.ndarray:
    """Boxes float32 [F, n, 4] of the middle exposures, see ``SimulatedClip``."""
    renderer = renderer_for(take.model, take.size)
    geoms = [take.model.geom(f"object{i}").id for i in range(len(take.scene.objects))]
    boxes = np.full((len(take.stamps), len(geoms), 4), np.nan, dtype=np.float32)
    middle = take.times.shape[1] // 2
    for f, stamp in enumerate(take.stamps):
        take.show(f, middle)
        labels = renderer.labels(take.data, take.scene.camera.at(float(stamp)))
        for i, geom in enumerate(geoms):
            boxes[f, i] = _box(labels == geom)
    return boxes


def photograph(take: Take) -> np.ndarray:
    """Frames uint8 [F, S, S, 3]."""
    scene, size = take.scene, take.size
    paint(take.model, scene.look)
    renderer = renderer_for(take.model, size)
    renderer.upload_textures()
    frames = np.empty((len(take.stamps), size, size, 3), dtype=np.uint8)
    count = take.times.shape[1]
    for f in range(len(frames)):
        light = np.zeros((size, size, 3), dtype=np.float32)
        for k in range(count):
            take.show(f, k)
            pose = scene.camera.at(float(take.times[f, k]))
            light += renderer.picture(take.data, pose, _shadows(scene, take.exposed[f, k]))
        frames[f] = np.rint(light / count)
    return scene.imaging.develop(frames, take.stamps)


def _shadows(scene: Scene, state: np.ndarray) -> list[Shadow]:
    """Discs where the lamp casts what stands on the table or hangs above it."""
    x, y, z = scene.look.light_direction
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
