"""The objects on the table in MuJoCo, moved by a PD controller that applies forces to them."""

from __future__ import annotations

import math

import numpy as np

from llava_st_ros.simulation.events import InfeasibleError, Motion
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.scenes import GRAVITY, TIMESTEP, Scene

# Controller gains per unit of mass: stiffness 1/s^2, damping 1/s, rotational damping 1/s.
_STIFFNESS, _DAMPING, _ROTATIONAL_DAMPING = 900.0, 60.0, 25.0


# Instability is reported by step_until; MuJoCo would write a log file into the working folder.
mujoco.set_mju_user_warning(lambda _: None)


def make_bouncy(model: mujoco.MjModel, index: int) -> None:
    """Make object ``index`` bounce a few times when it falls, so that a drop lasts about 1 s."""
    geom = model.geom(f"object{index}").id
    model.geom_priority[geom] = 1  # use its contact parameters instead of the mean of both geoms'
    # Time constant (s) and damping ratio: the object rebounds with 0.7 of its speed.
    model.geom_solref[geom] = (0.09, 0.11)


class Tabletop:
    """The physics of a scene's objects.

    Args:
        scene: The scene.
        model: The MuJoCo model of the scene.
        positions: Initial positions of the objects, [n, 3] in meters.
        yaws: Initial yaws of the objects, [n] in radians.

    Attributes:
        motions: The target motion of each object that the controller moves.
        contacts: Pairs of objects that touched each other while the controller moved any.
    """

    def __init__(
        self, scene: Scene, model: mujoco.MjModel, positions: np.ndarray, yaws: np.ndarray
    ) -> None:
        self.scene, self.model = scene, model
        self.data = mujoco.MjData(model)
        self.motions: dict[int, Motion] = {}
        self.contacts: set[frozenset[int]] = set()
        self._bodies = [model.body(f"object{i}").id for i in range(len(scene.objects))]
        self._geoms = {model.geom(f"object{i}").id: i for i in range(len(scene.objects))}
        for i, (item, position, yaw) in enumerate(zip(scene.objects, positions, yaws)):
            tilt = math.pi / 2 if item.shape == "capsule" else 0.0
            self.data.qpos[7 * i : 7 * i + 3] = position
            # The tilt about y turns a capsule's long axis to x; the yaw about z comes after it.
            self.data.qpos[7 * i + 3 : 7 * i + 7] = (
                math.cos(yaw / 2) * math.cos(tilt / 2),
                -math.sin(yaw / 2) * math.sin(tilt / 2),
                math.cos(yaw / 2) * math.sin(tilt / 2),
                math.sin(yaw / 2) * math.cos(tilt / 2),
            )
        mujoco.mj_forward(model, self.data)

    @property
    def positions(self) -> np.ndarray:
        """The objects' centers, float64 [n, 3] in meters."""
        return self.data.qpos.reshape(-1, 7)[:, :3].copy()

    @property
    def speeds(self) -> np.ndarray:
        """The objects' speeds, float64 [n] in m/s."""
        return np.linalg.norm(self.data.qvel.reshape(-1, 6)[:, :3], axis=1)

    def capsule_axis(self, index: int) -> np.ndarray | None:
        """Return the long axis of a capsule as a unit vector [3], None for other shapes."""
        if self.scene.objects[index].shape != "capsule":
            return None
        return self.data.xmat[self._bodies[index]].reshape(3, 3)[:, 2].copy()

    def launch(self, index: int, velocity: np.ndarray) -> None:
        """Set an object's velocity (m/s); balls and capsules also get the spin of rolling."""
        item = self.scene.objects[index]
        self.data.qvel[6 * index : 6 * index + 3] = velocity
        if item.shape in ("ball", "capsule"):
            spin = np.array([-velocity[1], velocity[0], 0.0]) / item.rest_height
            # The angular velocity of a free joint is in the body's own frame.
            local = self.data.xmat[self._bodies[index]].reshape(3, 3).T @ spin
            self.data.qvel[6 * index + 3 : 6 * index + 6] = local

    def step_until(self, time: float) -> None:
        """Step the physics with the controller until ``time`` in seconds.

        Raises:
            InfeasibleError: The physics became unstable; MuJoCo then resets the state.
        """
        data, model = self.data, self.model
        while data.time < time - TIMESTEP / 2:
            data.xfrc_applied[:] = 0.0
            for index in list(self.motions):
                self._apply_control(index)
            before = data.time
            mujoco.mj_step(model, data)
            if data.time < before:
                raise InfeasibleError("the physics is unstable")
            if data.ncon > 0 and self.motions:
                for first, second in data.contact.geom:
                    a, b = self._geoms.get(int(first)), self._geoms.get(int(second))
                    if a is not None and b is not None:
                        self.contacts.add(frozenset((a, b)))

    def _apply_control(self, index: int) -> None:
        motion, data, body = self.motions[index], self.data, self._bodies[index]
        if data.time > motion.end and not motion.lift:
            del self.motions[index]
            return
        target, velocity = motion.target_at(data.time)
        mass = self.model.body_mass[body]
        state = data.qvel[6 * index : 6 * index + 6]
        force = mass * (
            _STIFFNESS * (target - data.qpos[7 * index : 7 * index + 3])
            + _DAMPING * (velocity - state[:3])
        )
        if motion.lift:
            force[2] += mass * GRAVITY
            rotation = data.xmat[body].reshape(3, 3)
            torque = -_ROTATIONAL_DAMPING * self.model.body_inertia[body] * state[3:]
            data.xfrc_applied[body, 3:] = rotation @ torque
        else:
            force[2] = 0.0
        data.xfrc_applied[body, :3] = force
