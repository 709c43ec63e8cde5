"""The wide and the shifted world: ranges, geometry, light and motions."""

from __future__ import annotations

import colorsys
import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from llava_st_ros.simulation.appearance import COLORS
from llava_st_ros.simulation.camera import CameraTrajectory, PoseBatch
from llava_st_ros.simulation.clip_rendering import render_boxes
from llava_st_ros.simulation.events import EventKind, Motion
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.mjcf import scene_xml
from llava_st_ros.simulation.scenes import Scene, SimulatedObject, sample_scene
from llava_st_ros.simulation.sensor_effects import SensorEffects
from llava_st_ros.simulation.simulator import simulate_unrendered, split_seed
from llava_st_ros.simulation.worlds import SPLITS, World, world_for_seed

pytestmark = pytest.mark.renderer


def world(split: str) -> World:
    """Return the world of a split's second seed: every third one of the wide split is at home."""
    return world_for_seed(split_seed(split, 1))


def scenes(split: str, count: int) -> list[Scene]:
    of_split = world(split)
    return [sample_scene(np.random.default_rng([3, i]), 1 + i % 8, of_split) for i in range(count)]


def test_every_third_clip_of_the_wide_split_is_of_the_home_world() -> None:
    home = world_for_seed(split_seed("test", 0))
    are_home = [world_for_seed(split_seed("wide", i)) == home for i in range(300)]
    assert sum(are_home) == 100
    assert not any(world_for_seed(split_seed("shifted", i)) == home for i in range(300))


def test_seeds_of_the_splits_are_disjoint() -> None:
    for a, b in itertools.combinations(SPLITS.values(), 2):
        assert a.stop <= b.start or b.stop <= a.start


def test_the_wide_ranges_contain_the_home_worlds() -> None:
    wide, home = world("wide").variety, scenes("test", 200)
    assert wide is not None

    def contains(name: str, values: list[float]) -> bool:
        ranges = getattr(wide, name)
        return all(any(low <= v <= high for low, high in ranges) for v in values)

    assert contains("elevation", [s.camera.elevation for s in home])
    assert contains("azimuth", [s.camera.azimuth for s in home])
    assert contains("small", [o.scale for s in home for o in s.objects if o.size == "small"])
    assert contains("large", [o.scale for s in home for o in s.objects if o.size == "large"])
    for name, value in (("view", 1), ("aspect", 1), ("proportion", 0), ("hue", 0), ("value", 1)):
        assert contains(name, [value]), name
    assert contains("exposure", [1.0]) and contains("gamma", [1.0]) and contains("bow", [0.0])


def test_the_shifted_ranges_lie_outside_the_wide_ones() -> None:
    wide, shifted = world("wide").variety, world("shifted").variety
    for field in dataclasses.fields(shifted):
        outside = [
            (low, high)
            for low, high in getattr(shifted, field.name)
            if all(
                high <= a or b <= low or (a == b and low < high)
                for a, b in getattr(wide, field.name)
            )
            or low == high
        ]
        share = len(outside) / len(getattr(shifted, field.name))
        assert share >= 0.5 if field.name in ("elevation", "value", "event_seconds") else share == 1
    assert world("shifted").fovy[0] >= world("wide").fovy[1]
    assert not set(world("shifted").tables) & set(world("wide").tables)


@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.8])
@pytest.mark.parametrize("elevation", [-85.0, -40.0, -14.0])
def test_boxes_of_rendered_balls_equal_their_projection(aspect, elevation) -> None:
    """The projection that plans a scene is the renderer's, also of images that are not square."""
    path = CameraTrajectory((0.0, 0.0, 0.05), 0.7, 80.0, elevation, 50.0, aspect=aspect)
    found = simulate_unrendered(split_seed("test", 4))
    scene, rollout = found.rollout.scene, found.rollout
    count = len(scene.objects)
    balls = tuple(SimulatedObject("red", "ball", "large", 0.05) for _ in range(count))
    rollout.scene = replace(scene, objects=balls, camera=path, occluder=None, distractors=())
    rollout.model = mujoco.MjModel.from_xml_string(scene_xml(rollout.scene, 144))
    rollout.data = mujoco.MjData(rollout.model)
    state = np.tile([0.0, 0.0, 0.05, 1.0, 0.0, 0.0, 0.0], (count, 1))
    state[:, 0] = np.linspace(-0.2, 0.2, count) if count > 1 else 0.1
    state[1:, 1] = 0.06
    rollout.exposure_states = np.tile(state.ravel(), (*rollout.exposure_states.shape[:2], 1))
    boxes = render_boxes(rollout)[0]
    pose = path.pose_at(0.0)
    expected = PoseBatch([pose]).sphere_boxes(state[:, :3], 0.05)[0]
    np.testing.assert_allclose(boxes[0], np.clip(expected[0], 0, 1), atol=1.6 / 144)
    np.testing.assert_allclose(
        pose.project(state[:1, :3])[0, :2], expected[0].reshape(2, 2).mean(0), atol=0.02
    )


def test_proportions_keep_the_volume_and_the_shape() -> None:
    items = [o for s in scenes("wide", 120) for o in s.objects]
    assert sum(o.proportions != (1.0, 1.0, 1.0) for o in items) > 100
    for item in items:
        x, y, z = item.proportions
        assert x * y * z == pytest.approx(1)
        if item.shape == "ball":
            assert (x, y, z) == (1.0, 1.0, 1.0)
        elif item.shape != "box":
            assert x == y
        if item.shape != "capsule":
            assert z <= 1.5 * min(x, y) + 1e-9  # or it topples when it is pushed


def test_sizes_of_a_flat_box_by_hand() -> None:
    box = SimulatedObject("red", "box", "small", 0.05, (1.2, 1.0, 0.5))
    assert box.geom_size == pytest.approx((0.054, 0.045, 0.0225))
    assert box.rest_height == pytest.approx(0.0225)
    assert box.radius >= math.hypot(0.054, 0.045) * 0.99
    tall = SimulatedObject("red", "cylinder", "small", 0.05, (0.8, 0.8, 1.4))
    assert tall.rest_height == pytest.approx(0.07)
    assert tall.reach >= 0.05 * 0.85 * 0.8 * 1.4


def test_shades_stay_nearest_to_their_own_color() -> None:
    """A shade's hue is closer to its color's than to that of any other saturated color."""
    hues = {name: colorsys.rgb_to_hsv(*rgb)[0] * 360 for name, rgb in COLORS.items()}

    def distance(a: float, b: float) -> float:
        return abs((a - b + 180) % 360 - 180)

    for split in ("wide", "shifted"):
        for scene in scenes(split, 80):
            for item, shade in zip(scene.objects, scene.appearance.shades):
                hue = colorsys.rgb_to_hsv(*shade)[0] * 360
                assert min(hues, key=lambda name: distance(hues[name], hue)) == item.color


def test_lights_range_from_ambient_only_to_three() -> None:
    counts = {len(s.appearance.lights) for s in scenes("wide", 80)}
    assert counts == {0, 1, 2, 3}
    assert {len(s.appearance.lights) for s in scenes("test", 20)} == {1}


def test_a_bow_leaves_the_ends_where_they_are() -> None:
    motion = Motion(
        np.zeros(3), np.array([0.2, 0.0, 0.0]), 1.0, 2.0, bow=np.array([0.0, 0.05, 0.0])
    )
    np.testing.assert_allclose(motion.target_at(1.0)[0], [0, 0, 0])
    np.testing.assert_allclose(motion.target_at(1.5)[0], [0.1, 0.05, 0])
    np.testing.assert_allclose(motion.target_at(2.0)[0], [0.2, 0, 0])
    for time in np.linspace(1.05, 1.95, 7):  # the velocity is the derivative of the position
        ahead, behind = motion.target_at(time + 1e-5)[0], motion.target_at(time - 1e-5)[0]
        np.testing.assert_allclose(motion.target_at(time)[1], (ahead - behind) / 2e-5, atol=1e-6)


def test_wide_clips_have_events_of_two_frames_and_fast_subjects() -> None:
    lengths, speeds, seconds, bows = [], [], [], []
    for index in range(1, 60):
        clip = simulate_unrendered(split_seed("wide", index))
        if clip.rollout.scene.variety is None:
            continue
        for executed in clip.rollout.executed_events:
            scripted, motion = executed.scripted, executed.motion
            if scripted.kind is not EventKind.STOPS:  # it starts with the clip
                seconds.append(scripted.end - scripted.start)
            is_straight = scripted.kind in (EventKind.COLLIDES, EventKind.STOPS)
            if motion is not None and not motion.lift:
                assert motion.bow is None or not is_straight
                bows.append(motion.bow is not None)
        for event in clip.events:
            lengths.append(event.span[1] - event.span[0] + 1)
            boxes = clip.boxes[event.span[0] : event.span[1] + 1, event.subject]
            sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
            steps = np.linalg.norm(np.diff((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0), axis=1)
            speeds.append(float((steps / sides[1:]).max()))
    assert min(lengths) == 2 and max(lengths) >= 6
    assert np.mean(np.array(speeds) > 1) > 0.15
    assert min(seconds) < 0.8 and max(seconds) <= math.exp(1.1) + 1e-9
    assert np.mean(bows) > 0.1


def test_clips_with_ambient_light_only_have_no_shadows() -> None:
    clips = (simulate_unrendered(split_seed("wide", index)) for index in range(1, 60))
    dark = next(clip for clip in clips if not clip.rollout.scene.appearance.lights)
    assert dark.render(0).frames.mean() > 20


def test_response_by_hand() -> None:
    frames = np.array([[[[200, 100, 50]]]], dtype=np.uint8)
    (frame,) = SensorEffects(gamma=2.0, saturation=0.5).apply(frames, np.zeros(1))
    gray = 350 / 3
    half = np.array([(v + gray) / 2 for v in (200, 100, 50)])
    np.testing.assert_array_equal(frame[0, 0], np.rint(255 * (half / 255) ** 2))
