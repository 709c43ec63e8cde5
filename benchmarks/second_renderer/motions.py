"""Kinematic motions: tables of positions and rotations over time.

Profiles and paths differ from the simulator's: its objects ease in and out on nearly straight
paths; here they move at constant speed, brake or speed up, on arcs and S-curves, and fall freely
with bounces. Lengths are in meters, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GRAVITY = 9.81
POINTS = 129  # of a table

PROFILES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda u: u,
    "ease_out": lambda u: 1 - (1 - u) ** 2,
    "fade_out": lambda u: 1 - (1 - u) ** 3,
    "speed_up": lambda u: u**1.7,
}


@dataclass(frozen=True)
class Motion:
    """A motion of one object.

    Attributes:
        times: Increasing, [K].
        positions: At these times, [K, 3].
        rotations: From the object's frame, [K, 3, 3].
    """

    times: np.ndarray
    positions: np.ndarray
    rotations: np.ndarray

    def delayed(self, start: float) -> Motion:
        """Return the motion with its first time at ``start``."""
        return Motion(self.times - self.times[0] + start, self.positions, self.rotations)


@dataclass(frozen=True)
class Track:
    """Where an object is: at rest before, between and after its motions.

    Attributes:
        center: Its position before its first motion, [3].
        rotation: Its rotation before its first motion, [3, 3].
        motions: In order of time, each from where the previous one ends.
    """

    center: np.ndarray
    rotation: np.ndarray
    motions: tuple[Motion, ...] = ()

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the position [3] and rotation [3, 3] at a time."""
        center, rotation = self.center, self.rotation
        for motion in self.motions:
            if time < motion.times[0]:
                break
            index = int(np.searchsorted(motion.times, time, side="right")) - 1
            rotation = motion.rotations[index]
            if index + 1 == len(motion.times):
                center = motion.positions[-1]
                continue
            share = (time - motion.times[index]) / (motion.times[index + 1] - motion.times[index])
            center = (1 - share) * motion.positions[index] + share * motion.positions[index + 1]
        return center, rotation

    def then(self, motion: Motion) -> Track:
        """Return the track with one more motion."""
        return Track(self.center, self.rotation, (*self.motions, motion))


def path(start: np.ndarray, end: np.ndarray, bow: float, twist: float) -> np.ndarray:
    """Return points on a path from ``start`` to ``end``, [POINTS, 3], horizontal but for its slope.

    Args:
        start: [3].
        end: [3].
        bow: Sideways deviation half-way, relative to the distance: an arc.
        twist: Sideways deviation after a quarter, opposite after three quarters: an S-curve.
    """
    share = np.linspace(0, 1, POINTS)
    across = end - start
    aside = np.array([-across[1], across[0], 0.0])
    deviation = bow * np.sin(math.pi * share) + twist * np.sin(2 * math.pi * share)
    return np.asarray(start + share[:, None] * across + deviation[:, None] * aside)


def slide(
    points: np.ndarray, seconds: float, profile: str, rotation: np.ndarray, turn: float = 0.0
) -> Motion:
    """Move along a path, turning about z by ``turn`` radians."""
    times, positions = _timed(points, seconds, profile)
    share = PROFILES[profile](times / seconds)
    turns = np.stack([_about_z(turn * value) for value in share])
    return Motion(times, positions, turns @ rotation)


def roll(
    points: np.ndarray, seconds: float, profile: str, rotation: np.ndarray, radius: float
) -> Motion:
    """Roll along a path on the ground without slipping."""
    times, positions = _timed(points, seconds, profile)
    rotations = [rotation]
    for step in np.diff(positions, axis=0):
        length = float(np.linalg.norm(step[:2]))
        turned = rotations[-1]
        if length > 0:
            axis = np.array([-step[1], step[0], 0.0]) / length
            turned = _about(axis, length / radius) @ turned
        rotations.append(turned)
    return Motion(times, positions, np.stack(rotations))


def fall(
    start: np.ndarray, velocity: np.ndarray, ground: float, restitution: float, rotation: np.ndarray
) -> Motion:
    """Fall freely from rest in height, with a horizontal velocity, and bounce until at rest.

    Every bounce keeps ``restitution`` of the vertical speed and half of the horizontal one. A
    bounce that is lower than 4 mm does not happen.

    Args:
        start: [3].
        velocity: Horizontal, [2] in m/s.
        ground: The height of the center when it touches the ground.
        restitution: Below 1.
        rotation: Does not change.
    """
    times, positions = [], []
    time, place, vertical, along = 0.0, start.copy(), 0.0, np.array([*velocity, 0.0])
    while True:
        height = place[2] - ground
        impact = math.sqrt(vertical**2 + 2 * GRAVITY * height)
        seconds = (vertical + impact) / GRAVITY
        for share in np.linspace(0, 1, POINTS)[:-1]:
            t = share * seconds
            times.append(time + t)
            positions.append(place + along * t + [0, 0, vertical * t - GRAVITY * t * t / 2])
        time += seconds
        place = np.array([*(place + along * seconds)[:2], ground])
        vertical, along = restitution * impact, 0.5 * along
        if vertical**2 / (2 * GRAVITY) < 0.004:
            times.append(time)
            positions.append(place)
            return Motion(
                np.array(times), np.array(positions), np.broadcast_to(rotation, (len(times), 3, 3))
            )


def cruise(even: Motion, until: float, braking: float) -> Motion:
    """Return a motion at constant speed that starts at time 0, with even braking at its end.

    Args:
        even: The motion at constant speed.
        until: When braking starts.
        braking: How long it takes.
    """
    times = np.linspace(0, until + braking, POINTS)
    late = np.maximum(0, times - until)
    share = (times - late**2 / (2 * braking)) / (until + braking / 2)
    at = share * even.times[-1]
    positions = np.stack([np.interp(at, even.times, even.positions[:, i]) for i in range(3)], 1)
    nearest = np.rint(share * (len(even.times) - 1)).astype(int).clip(0, len(even.times) - 1)
    return Motion(times, positions, even.rotations[nearest])


def _timed(points: np.ndarray, seconds: float, profile: str) -> tuple[np.ndarray, np.ndarray]:
    """Return times from 0 to ``seconds`` and the positions on the path, by arc length."""
    times = np.linspace(0, seconds, POINTS)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    reached = PROFILES[profile](times / seconds) * lengths[-1]
    positions = np.stack([np.interp(reached, lengths, points[:, i]) for i in range(3)], axis=1)
    return times, positions


def _about_z(angle: float) -> np.ndarray:
    return _about(np.array([0.0, 0.0, 1.0]), angle)


def _about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Return the rotation about a unit vector, by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)
