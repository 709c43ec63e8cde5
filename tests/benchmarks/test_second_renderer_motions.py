"""The second renderer's motions against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.second_renderer.motions import (
    GRAVITY,
    PROFILES,
    Motion,
    Track,
    cruise,
    fall,
    path,
    roll,
    slide,
)

START, END = np.array([0.0, 0.0, 0.05]), np.array([0.4, 0.0, 0.05])
STRAIGHT = path(START, END, 0.0, 0.0)


def at(motion: Motion, time: float) -> np.ndarray:
    return Track(motion.positions[0], motion.rotations[0], (motion,)).at(time)[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_go_from_start_to_end(profile: str) -> None:
    progress = PROFILES[profile](np.linspace(0, 1, 50))
    assert progress[[0, -1]] == pytest.approx([0, 1])
    assert (np.diff(progress) > 0).all()


def test_constant_speed_on_an_arc_is_constant_along_the_arc() -> None:
    arc = path(START, END, 0.3, 0.0)
    motion = slide(arc, 2.0, "constant", np.eye(3))
    assert arc[len(arc) // 2] == pytest.approx([0.2, 0.3 * 0.4, 0.05])
    steps = np.linalg.norm(np.diff(motion.positions, axis=0), axis=1)
    assert steps == pytest.approx(steps.mean(), rel=1e-2)
    assert motion.positions[-1] == pytest.approx(END)


def test_an_s_curve_deviates_to_both_sides() -> None:
    curve = path(START, END, 0.0, 0.1)
    quarter = len(curve) // 4
    assert curve[quarter, 1] == pytest.approx(0.04)
    assert curve[3 * quarter, 1] == pytest.approx(-0.04)


def test_easing_out_is_fastest_at_the_start() -> None:
    motion = slide(STRAIGHT, 1.0, "ease_out", np.eye(3))
    assert at(motion, 0.5) == pytest.approx([0.3, 0.0, 0.05], abs=1e-4)  # 1 - (1 - 1/2)^2


def test_rolling_turns_by_the_length_over_the_radius() -> None:
    motion = roll(STRAIGHT, 1.0, "constant", np.eye(3), 0.4 / math.pi)
    assert motion.rotations[-1] == pytest.approx(np.diag([-1.0, 1.0, -1.0]), abs=1e-6)
    quarter = motion.rotations[len(motion.times) // 2]
    # Rolling along +x, what was on top is then in front.
    assert quarter @ [0, 0, 1] == pytest.approx([1, 0, 0], abs=0.02)


def test_a_fall_follows_newton_and_bounces() -> None:
    height = 0.4
    motion = fall(np.array([0.0, 0.0, 0.05 + height]), np.array([0.1, 0.0]), 0.05, 0.5, np.eye(3))
    impact = math.sqrt(2 * height / GRAVITY)
    assert at(motion, impact / 2)[2] == pytest.approx(0.05 + height * 3 / 4, abs=1e-3)
    assert at(motion, impact) == pytest.approx([0.1 * impact, 0.0, 0.05], abs=1e-3)
    # Half the speed: a quarter of the height, half as long after the impact as the fall took.
    assert at(motion, 1.5 * impact)[2] == pytest.approx(0.05 + height / 4, abs=1e-3)
    assert at(motion, 2 * impact)[2] == pytest.approx(0.05, abs=1e-3)
    # 0.4, 0.1, 0.025, 0.00625 m are bounces, 0.0016 m is not.
    assert motion.times[-1] == pytest.approx(impact * (1 + 1 + 0.5 + 0.25), abs=1e-6)
    assert motion.positions[-1, 2] == 0.05
    assert motion.positions[:, 2].min() >= 0.05 - 1e-12


def test_braking_halves_the_mean_speed() -> None:
    even = slide(STRAIGHT, 1.0, "constant", np.eye(3))
    motion = cruise(even, until=1.0, braking=1.0)
    speed = 0.4 / 1.5
    assert at(motion, 0.5)[0] == pytest.approx(0.5 * speed, abs=1e-3)
    assert at(motion, 1.0)[0] == pytest.approx(speed, abs=1e-3)
    assert at(motion, 1.5)[0] == pytest.approx(speed * (1 + 0.5 - 0.125), abs=1e-3)
    assert at(motion, 2.0)[0] == pytest.approx(0.4)


def test_a_track_rests_before_between_and_after_its_motions() -> None:
    there = slide(STRAIGHT, 1.0, "constant", np.eye(3)).delayed(2.0)
    back = slide(STRAIGHT[::-1], 1.0, "constant", np.eye(3)).delayed(5.0)
    track = Track(START, np.eye(3), (there, back))
    places = [track.at(time)[0][0] for time in (0.0, 2.0, 2.5, 3.0, 4.9, 5.25, 6.0, math.inf)]
    assert places == pytest.approx([0, 0, 0.2, 0.4, 0.4, 0.3, 0, 0], abs=1e-9)
