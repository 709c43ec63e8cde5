"""One scene recorded: the physics of a script, then its pictures and boxes."""

from __future__ import annotations

import numpy as np

from llava_st_ros.training.events import EventKind, InfeasibleError, Motion, Slot
from llava_st_ros.training.headless import mujoco
from llava_st_ros.training.physics import Tabletop, make_bouncy
from llava_st_ros.training.planning import Planner
from llava_st_ros.training.rendering import renderer_for
from llava_st_ros.training.scenes import Scene, scene_xml

MIN_PIXELS = 12  # fewer visible pixels than this and the object counts as not visible
MOVED = 0.005  # m: a displacement that shows (about one pixel at 144 px)


class Take:
    """The physics of a clip: ``states`` [F, 7n], and what was where when each event began."""

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
        for stamp in stamps:
            while pending and pending[0].start <= stamp:
                slot = pending.pop(0)
                table.advance(slot.start)
                self._begin(table, planner, slot)
            table.advance(float(stamp))
            states.append(table.data.qpos.copy())
        self.states = np.array(states)
        self.data, self.touched = table.data, table.touched
        self._check_bystanders(table.positions)

    @property
    def positions(self) -> np.ndarray:
        """[F, n, 3] metres."""
        return self.states.reshape(len(self.states), -1, 7)[:, :, :3]

    def settled(self, index: int) -> np.ndarray:
        """All objects' places [n, 3] when what follows event ``index`` begins."""
        if index + 1 < len(self.slots):
            return self.befores[index + 1]
        return self.positions[-1]

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


def render(take: Take) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [F, S, S, 3] and boxes float32 [F, n, 4], see ``SimulatedClip``."""
    size = take.size
    scene, count = take.scene, len(take.scene.objects)
    renderer = renderer_for(take.model, size)
    geoms = [take.model.geom(f"object{i}").id for i in range(count)]
    frames = np.empty((len(take.stamps), size, size, 3), dtype=np.uint8)
    boxes = np.full((len(take.stamps), count, 4), np.nan, dtype=np.float32)
    data = take.data
    for f, (stamp, state) in enumerate(zip(take.stamps, take.states)):
        data.qpos[:] = state
        mujoco.mj_kinematics(take.model, data)
        mujoco.mj_comPos(take.model, data)
        mujoco.mj_camlight(take.model, data)
        pose = scene.camera.at(float(stamp))
        shadows = [
            (np.array([*place[:2], 6e-4]), 0.9 * item.scale)
            for item, place in zip(scene.objects, take.positions[f])
        ]
        frames[f], labels = renderer.render(
            data, pose.lookat, pose.distance, pose.azimuth, pose.elevation, shadows
        )
        for i, geom in enumerate(geoms):
            boxes[f, i] = _box(labels == geom)
    return frames, boxes


def _box(mask: np.ndarray) -> np.ndarray:
    if int(mask.sum()) < MIN_PIXELS:
        return np.full(4, np.nan, dtype=np.float32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    return edges / np.float32(len(mask))
