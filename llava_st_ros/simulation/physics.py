"""The tabletop in motion: MuJoCo with an invisible hand that steers objects by forces."""

from __future__ import annotations

import math

import numpy as np

from llava_st_ros.simulation.events import Motion
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.scenes import GRAVITY, TIMESTEP, Scene

# Of the hand, per unit of mass: stiffness 1/s^2, damping 1/s, damping of turning 1/s.
_STIFFNESS, _DAMPING, _TURN_DAMPING = 900.0, 60.0, 25.0


def make_bouncy(model: mujoco.MjModel, index: int) -> None:
    """Let object ``index`` jump a few times when it falls, so that a drop lasts about a second."""
    geom = model.geom(f"object{index}").id
    model.geom_priority[geom] = 1  # its own contact parameters hold, not the mean of both
    # Time constant (s) and damping ratio: the object springs back with 0.7 of its speed.
    model.geom_solref[geom] = (0.09, 0.11)


class Tabletop:
    """A scene's bodies. ``positions`` are the objects' centers, float64 [n, 3] in metres."""

    def __init__(
        self, scene: Scene, model: mujoco.MjModel, positions: np.ndarray, yaws: np.ndarray
    ) -> None:
        self.scene, self.model = scene, model
        self.data = mujoco.MjData(model)
        self.motions: dict[int, Motion] = {}
        self.contacts: set[frozenset[int]] = set()
        self._bodies = [model.body(f"object{i}").id for i in range(len(scene.objects))]
        self._geoms = {model.geom(f"object{i}").id: i for i in range(len(scene.objects))}
        for i, (item, place, yaw) in enumerate(zip(scene.objects, positions, yaws)):
            tilt = math.pi / 2 if item.shape == "capsule" else 0.0
            self.data.qpos[7 * i : 7 * i + 3] = place
            # Tilt about y lays the capsule's axis on x; then the yaw about z.
            self.data.qpos[7 * i + 3 : 7 * i + 7] = (
                math.cos(yaw / 2) * math.cos(tilt / 2),
                -math.sin(yaw / 2) * math.sin(tilt / 2),
                math.cos(yaw / 2) * math.sin(tilt / 2),
                math.sin(yaw / 2) * math.cos(tilt / 2),
            )
        mujoco.mj_forward(model, self.data)

    @property
    def positions(self) -> np.ndarray:
        return self.data.qpos.reshape(-1, 7)[:, :3].copy()

    @property
    def speeds(self) -> np.ndarray:
        """m/s, [n]."""
        return np.linalg.norm(self.data.qvel.reshape(-1, 6)[:, :3], axis=1)

    def axis(self, index: int) -> np.ndarray | None:
        """The long axis of a capsule, unit [3]; None for other shapes."""
        if self.scene.objects[index].shape != "capsule":
            return None
        return self.data.xmat[self._bodies[index]].reshape(3, 3)[:, 2].copy()

    def launch(self, index: int, velocity: np.ndarray) -> None:
        """Give an object a velocity (m/s), and round things the spin of rolling with it."""
        item = self.scene.objects[index]
        self.data.qvel[6 * index : 6 * index + 3] = velocity
        if item.shape in ("ball", "capsule"):
            spin = np.array([-velocity[1], velocity[0], 0.0]) / item.height
            # A free joint's angular velocity is in the body's own frame.
            local = self.data.xmat[self._bodies[index]].reshape(3, 3).T @ spin
            self.data.qvel[6 * index + 3 : 6 * index + 6] = local

    def step_until(self, until: float) -> None:
        """Step the physics to time ``until``, the hand at work."""
        data, model = self.data, self.model
        while data.time < until - TIMESTEP / 2:
            data.xfrc_applied[:] = 0.0
            for index in list(self.motions):
                self._steer(index)
            mujoco.mj_step(model, data)
            if data.ncon > 0 and self.motions:
                for first, second in data.contact.geom:
                    a, b = self._geoms.get(int(first)), self._geoms.get(int(second))
                    if a is not None and b is not None:
                        self.contacts.add(frozenset((a, b)))

    def _steer(self, index: int) -> None:
        motion, data, body = self.motions[index], self.data, self._bodies[index]
        if data.time > motion.end and not motion.lift:
            del self.motions[index]
            return
        wanted, velocity = motion.at(data.time)
        mass = self.model.body_mass[body]
        state = data.qvel[6 * index : 6 * index + 6]
        force = mass * (
            _STIFFNESS * (wanted - data.qpos[7 * index : 7 * index + 3])
            + _DAMPING * (velocity - state[:3])
        )
        if motion.lift:
            force[2] += mass * GRAVITY
            rotation = data.xmat[body].reshape(3, 3)
            torque = -_TURN_DAMPING * self.model.body_inertia[body] * state[3:]
            data.xfrc_applied[body, 3:] = rotation @ torque
        else:
            force[2] = 0.0
        data.xfrc_applied[body, :3] = force
