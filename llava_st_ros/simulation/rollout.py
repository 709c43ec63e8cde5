"""The physics of a clip: a script of events executed on a scene. Renders nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llava_st_ros.simulation.events import EventKind, InfeasibleError, Motion, ScriptedEvent
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.mjcf import scene_xml
from llava_st_ros.simulation.physics import Tabletop, make_bouncy
from llava_st_ros.simulation.planning import MotionPlanner
from llava_st_ros.simulation.scenes import Scene

MOTION_THRESHOLD = 0.005  # m: a visible displacement (about one pixel at 144 px)
REST_SPEED = 0.02  # m/s: an event is over when every object is slower


class StateRecord:
    """The states of a scene at the exposures of frames, as the renderer needs them.

    A frame is the mean of K exposures, K = 1 without motion blur.

    Args:
        scene: The scene.
        stamps: Times of the frames, float64 [F] in seconds.
        size: Width and height of the frames in pixels.

    Attributes:
        model: The MuJoCo model of the scene.
        data: Its state.
        times: Times of the exposures, float64 [F, K] in seconds.
        exposure_states: MuJoCo's qpos of all objects at these times, float64 [F, K, 7n].
    """

    data: mujoco.MjData
    exposure_states: np.ndarray

    def __init__(self, scene: Scene, stamps: np.ndarray, size: int) -> None:
        self.scene, self.stamps, self.size = scene, stamps, size
        self.model = mujoco.MjModel.from_xml_string(scene_xml(scene, size))
        self.times = np.maximum(stamps[:, None] + scene.sensor_effects.exposure_offsets, 0.0)

    @property
    def positions(self) -> np.ndarray:
        """Positions of all objects at the stamps, [F, n, 3] in meters."""
        middle = self.exposure_states[:, self.exposure_states.shape[1] // 2]
        return middle.reshape(len(middle), -1, 7)[:, :, :3]

    def set_state(self, frame: int, exposure: int) -> None:
        """Set ``data`` to the state at an exposure of a frame."""
        model, data, occluder = self.model, self.data, self.scene.occluder
        data.qpos[:] = self.exposure_states[frame, exposure]
        if occluder is not None:
            time = float(self.times[frame, exposure])
            data.mocap_pos[0], rotation = occluder.pose_at(self.scene.camera, time)
            mujoco.mju_mat2Quat(data.mocap_quat[0], rotation.ravel())
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)


@dataclass(frozen=True)
class ExecutedEvent:
    """A scripted event and what it led to.

    Attributes:
        scene: The scene.
        scripted: The event.
        motion: The target motion of its subject, None if the subject was released.
        before: Positions of all objects when it starts, [n, 3] in meters.
        after: Positions of all objects when it is over, [n, 3] in meters.
        until: When the next event starts, inf if there is none, in seconds.
        stamps: Times of the frames, float64 [F] in seconds.
        positions: Positions of all objects at the stamps, [F, n, 3] in meters.
        contacts: Pairs of objects that touched each other.
    """

    scene: Scene
    scripted: ScriptedEvent
    motion: Motion | None
    before: np.ndarray
    after: np.ndarray
    until: float
    stamps: np.ndarray
    positions: np.ndarray
    contacts: set[frozenset[int]]


class Rollout(StateRecord):
    """The states of a scene while a script of events is executed.

    Args:
        rng: The random generator.
        scene: The scene.
        stamps: Times of the frames, float64 [F] in seconds.
        script: The events in order of time.
        initial_states: For each object "table", "air", "outside" or "moving".
        size: Width and height of the frames in pixels.

    Raises:
        InfeasibleError: The script cannot be executed, or it moves an object not in the script.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scene: Scene,
        stamps: np.ndarray,
        script: list[ScriptedEvent],
        initial_states: list[str],
        size: int,
    ) -> None:
        super().__init__(scene, stamps, size)
        self.script = script
        for scripted in script:
            if scripted.kind is EventKind.DROPPED:
                make_bouncy(self.model, scripted.subject)
        planner = MotionPlanner(rng, scene, float(stamps[-1]))
        table = Tabletop(scene, self.model, *planner.sample_layout(initial_states, script))
        for i, state in enumerate(initial_states):
            if state == "air":
                hold_in_air(table, i)
        self._start_positions: list[np.ndarray] = []  # [n, 3] of each event
        self._motions: list[Motion | None] = []
        self.exposure_states = self._run(table, planner).reshape(*self.times.shape, -1)
        self.data, self._contacts = table.data, table.contacts
        self._check_bystanders(table.positions)

    @property
    def executed_events(self) -> list[ExecutedEvent]:
        """The events of the script; each is over when the next one starts."""
        positions = self.positions
        starts = [*(scripted.start for scripted in self.script), math.inf]
        states = [*self._start_positions, positions[-1]]
        return [
            ExecutedEvent(
                self.scene,
                scripted,
                self._motions[index],
                before=states[index],
                after=states[index + 1],
                until=starts[index + 1],
                stamps=self.stamps,
                positions=positions,
                contacts=self._contacts,
            )
            for index, scripted in enumerate(self.script)
        ]

    def _run(self, table: Tabletop, planner: MotionPlanner) -> np.ndarray:
        """Step the physics through all exposures and return their states, [F * K, 7n]."""
        states = []
        pending = list(self.script)
        for time in self.times.ravel():
            while pending and pending[0].start <= time:
                scripted = pending.pop(0)
                table.step_until(scripted.start)
                self._start_event(table, planner, scripted)
            table.step_until(float(time))
            states.append(table.data.qpos.copy())
        return np.array(states)

    def _start_event(
        self, table: Tabletop, planner: MotionPlanner, scripted: ScriptedEvent
    ) -> None:
        if (table.speeds > REST_SPEED).any():
            raise InfeasibleError("the previous event has not come to rest")
        self._start_positions.append(table.positions)
        self._motions.append(start_motion(table, planner, scripted))

    def _check_bystanders(self, end: np.ndarray) -> None:
        if _has_moved(self._start_positions[0], self.positions[0]).any():
            raise InfeasibleError("an object moved before the first event")
        ends = [*self._start_positions[1:], end]
        for before, after, scripted in zip(self._start_positions, ends, self.script):
            check_bystanders(scripted, before, after)


def check_bystanders(scripted: ScriptedEvent, before: np.ndarray, after: np.ndarray) -> None:
    """Check that an event has moved its subject and the object that is hit only.

    Args:
        scripted: The event.
        before: Positions of all objects before it, [n, 3] in meters.
        after: Their positions after it.

    Raises:
        InfeasibleError: Another object has moved.
    """
    moved = _has_moved(before, after)
    moved[[i for i in (scripted.subject, scripted.other) if i is not None]] = False
    if moved.any():
        raise InfeasibleError("an object that is not in the event moved")


def start_motion(table: Tabletop, planner: MotionPlanner, scripted: ScriptedEvent) -> Motion | None:
    """Start the motion of a scripted event's subject.

    Returns:
        The target motion, None if the subject was released.

    Raises:
        InfeasibleError: No motion was found.
    """
    axis = table.capsule_axis(scripted.subject)
    motion = planner.plan_motion(scripted, table.positions, axis)
    if motion is None:
        table.motions.pop(scripted.subject, None)
        return None
    table.motions[scripted.subject] = motion
    if motion.brake_at is not None:
        table.launch(scripted.subject, motion.target_at(0.0)[1])
    return motion


def hold_in_air(table: Tabletop, index: int) -> None:
    """Hold an object where it is."""
    position = table.positions[index]
    table.motions[index] = Motion(position, position, 0.0, 0.0, lift=True)


def _has_moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether each object has moved visibly between two positions [n, 3], bool [n]."""
    return np.asarray(np.linalg.norm(after - before, axis=1) > MOTION_THRESHOLD)
