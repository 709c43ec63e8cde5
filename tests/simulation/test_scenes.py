"""Splits, scenes, camera motion and sensor effects of the simulator."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from llava_st_ros.simulation.appearance import MATERIALS, fill_textures, sample_appearance
from llava_st_ros.simulation.camera import CameraTrajectory
from llava_st_ros.simulation.clip_rendering import render_boxes, render_frames
from llava_st_ros.simulation.clutter import Occluder
from llava_st_ros.simulation.events import EventKind, InfeasibleError, ScriptedEvent
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.mjcf import MAX_GEOMS, scene_xml
from llava_st_ros.simulation.rollout import Rollout
from llava_st_ros.simulation.scenes import COLORS, SHAPES, Scene, sample_objects, sample_scene
from llava_st_ros.simulation.sensor_effects import SensorEffects, sample_sensor_effects
from llava_st_ros.simulation.simulator import simulate_unrendered, split_seed
from llava_st_ros.simulation.textures import PHOTOS, surface
from llava_st_ros.simulation.worlds import HELD_OUT, world_for_seed

pytestmark = pytest.mark.renderer

SEEN_SPLITS = ("train", "validation", "test")
PATH = CameraTrajectory((0.0, 0.0, 0.05), 0.9, 90.0, -40.0, 40.0)


def scenes(split: str, count: int) -> list[Scene]:
    world = world_for_seed(split_seed(split, 0))
    return [
        sample_scene(np.random.default_rng([7, i]), 1 + i % 8, world, same_name=True)
        for i in range(count)
    ]


def names(scene: Scene) -> set[tuple[str, str]]:
    return {(o.color, o.shape) for o in scene.objects}


def test_held_out_objects_occur_in_their_split_only() -> None:
    seen = set().union(*(names(s) for split in SEEN_SPLITS for s in scenes(split, 200)))
    assert seen == set(itertools.product(COLORS, SHAPES)) - HELD_OUT
    unseen = scenes("unseen_objects", 200)
    assert all(names(s) & HELD_OUT for s in unseen)
    assert set().union(*(names(s) for s in unseen)) >= HELD_OUT
    # Every single color and shape occurs in training.
    assert {color for color, _ in seen} == set(COLORS)
    assert {shape for _, shape in seen} == set(SHAPES)


def test_a_held_out_object_is_a_subject_in_every_clip_of_its_split() -> None:
    for index in range(12):
        found = simulate_unrendered(split_seed("unseen_objects", index))
        subjects = [found.rollout.scene.objects[event.subject] for event in found.events]
        assert any((o.color, o.shape) in HELD_OUT for o in subjects)


def test_tables_and_lenses_of_the_unseen_splits_differ_from_training() -> None:
    def surfaces(split: str) -> set[str]:
        appearances = [s.appearance for s in scenes(split, 200)]
        return {name for k in appearances for name in (k.table.name, k.floor.name, k.wall.name)}

    known = set().union(
        *(surfaces(split) for split in (*SEEN_SPLITS, "unseen_objects", "unseen_lens"))
    )
    assert not known & surfaces("unseen_table")
    assert surfaces("unseen_table") & set(PHOTOS)
    assert known & set(PHOTOS)
    for split in (*SEEN_SPLITS, "unseen_objects", "unseen_table", "unseen_lens"):
        low, high = (58, 70) if split == "unseen_lens" else (34, 48)
        angles = [s.camera.fovy for s in scenes(split, 100)]
        assert min(angles) >= low and max(angles) <= high
        # A wider lens is closer to the table: objects keep their size in the image.
        assert min(s.camera.view_width for s in scenes(split, 100)) > 0.55
        assert max(s.camera.view_width for s in scenes(split, 100)) < 1.0


def test_two_objects_share_a_name_in_a_third_of_larger_scenes() -> None:
    rng, world = np.random.default_rng(0), world_for_seed(0)
    groups = [sample_objects(rng, 3 + i % 6, world) for i in range(600)]
    same_name = [g for g in groups if len({o.name for o in g}) < len(g)]
    assert 0.28 < len(same_name) / len(groups) < 0.44
    assert all(len({o.name for o in g}) == len(g) - 1 for g in same_name)
    sizes = [{o.size for o in g if sum(o.name == p.name for p in g) == 2} for g in same_name]
    assert np.mean([len(s) == 2 for s in sizes]) > 0.45
    alone = [sample_objects(rng, 3, world, same_name=False) for _ in range(100)]
    assert all(len({o.name for o in g}) == 3 for g in alone)


def test_camera_shake_is_bounded_and_a_function_of_time() -> None:
    still, shaken = PATH, replace(PATH, shake=0.4)
    point = np.array([[0.0, 0.0, 0.05]])
    times = np.arange(0, 6, 0.01)
    positions = np.array([shaken.pose_at(t).project(point)[0, :2] for t in times])
    away = np.abs(positions - still.pose_at(0.0).project(point)[0, :2])
    # 0.4 degrees at a field of view of 40 degrees: tan 0.4 / (2 tan 20) of the image width.
    bound = np.tan(np.radians(0.4)) / (2 * np.tan(np.radians(20)))
    assert 0.5 * bound < away.max() <= 1.02 * bound
    assert np.abs(np.diff(positions, axis=0)).max() < 0.5 * bound
    again = [shaken.pose_at(t).project(point)[0, :2] for t in times[::-1]]
    np.testing.assert_array_equal(positions, again[::-1])
    assert shaken.is_moving and not still.is_moving


def test_a_pole_is_projected_to_its_side_of_the_image() -> None:
    pole = Occluder("pole", 0.2, 0.5, 0.0, 0.01, 0.1, 4.0, 0.0, (0.5, 0.5, 0.5))
    pose = PATH.pose_at(0.0)
    for time, side in ((0.0, 0.7), (1.0, 0.8), (3.0, 0.6)):  # swings by 0.1 with a period of 4 s
        middle, rotation = pole.pose_at(PATH, time)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        ends = pose.project(middle + 0.2 * np.array([[-1.0], [0.0], [1.0]]) * rotation[:, 2])
        np.testing.assert_allclose(ends[:, 0], side, atol=1e-9)
        np.testing.assert_allclose(ends[:, 2], 0.45)


def test_sensor_effects_do_not_move_image_content() -> None:
    """A bright square keeps its position under every effect."""
    frames = np.full((3, 96, 96, 3), 40, dtype=np.uint8)
    frames[:, 30:60, 50:80] = (200, 60, 50)
    stamps = np.arange(3.0)
    assert SensorEffects(exposure_time=0.05, num_exposures=5).apply(frames, stamps) is frames
    changed = 0
    for seed in range(25):
        sensor_effects = sample_sensor_effects(np.random.default_rng(seed))
        changed_frames = sensor_effects.apply(frames, stamps)
        np.testing.assert_array_equal(changed_frames, sensor_effects.apply(frames, stamps))
        assert changed_frames.dtype == np.uint8 and changed_frames.shape == frames.shape
        changed += bool((changed_frames != frames).any())
        for frame in changed_frames:
            red = frame[:, :, 0].astype(int) - frame[:, :, 1] > 60
            rows, columns = np.flatnonzero(red.mean(1) > 0.15), np.flatnonzero(red.mean(0) > 0.15)
            edges = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
            assert np.abs(np.array(edges) - [30, 60, 50, 80]).max() <= 2, sensor_effects
            assert frame[40:50, 60:70, 0].mean() > 120
    assert changed == 25


def test_exposure_balance_and_vignette_by_hand() -> None:
    frames = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    sensor_effects = SensorEffects(
        white_balance=(1.1, 1.0, 0.9), gain=0.8, drift=0.5, period=4.0, vignette=0.4
    )
    first, second = sensor_effects.apply(frames, np.array([0.0, 1.0]))  # gains 0.8 and 0.8 * 1.5
    # Pixel centers are at +-0.25 and +-0.75 of the half width: a gain of 1 - 0.2 * 2 * 0.0625.
    np.testing.assert_array_equal(first[1, 1], np.rint(100 * 0.8 * 0.975 * np.array([1.1, 1, 0.9])))
    np.testing.assert_array_equal(second[0, 3], np.rint(120 * 0.775 * np.array([1.1, 1, 0.9])))


def _pushed_box() -> tuple[Rollout, Rollout]:
    """Return a sharp and a blurred rollout of a box that is pushed before a static camera."""
    world, scripted = world_for_seed(0), ScriptedEvent(EventKind.PUSHED, 0, None, 0.5, 1.3)

    def rollout(seed: int, scene: Scene, sensor_effects: SensorEffects) -> Rollout:
        scene = replace(scene, sensor_effects=sensor_effects)
        stamps = np.linspace(0, 2, 11)
        return Rollout(np.random.default_rng(seed), scene, stamps, [scripted], ["table"], 144)

    for seed in itertools.count(3):
        scene = replace(sample_scene(np.random.default_rng(seed), 1, world), occluder=None)
        if scene.objects[0].shape != "box" or scene.camera.is_moving:
            continue
        try:
            sharp = rollout(seed, scene, SensorEffects())
            return sharp, rollout(seed, scene, SensorEffects(exposure_time=0.06, num_exposures=5))
        except InfeasibleError:
            continue
    raise AssertionError


def test_motion_blur_changes_pixels_near_the_moving_box_only() -> None:
    sharp, blurred = _pushed_box()
    boxes = render_boxes(sharp)
    np.testing.assert_array_equal(boxes, render_boxes(blurred))
    difference = np.abs(render_frames(sharp).astype(int) - render_frames(blurred)).max(axis=3)
    speeds = np.linalg.norm(np.gradient(sharp.positions[:, 0], axis=0), axis=1)
    assert difference[speeds.argmax()].max() > 20
    assert difference[0].max() == 0
    outside = difference[speeds.argmax()].copy()
    x1, y1, x2, y2 = (boxes[speeds.argmax(), 0] * 144).astype(int)
    outside[max(0, y1 - 12) : y2 + 20, max(0, x1 - 20) : x2 + 20] = 0
    assert outside.max() < 10


def test_materials_keep_the_hue_and_most_of_the_brightness() -> None:
    appearance = sample_appearance(np.random.default_rng(1), world_for_seed(0), ["red"] * 8)
    scene = replace(scenes("train", 8)[7], appearance=appearance)
    model = mujoco.MjModel.from_xml_string(scene_xml(scene, 64))
    fill_textures(model, appearance)
    for material in MATERIALS.values():
        texture = model.texture(f"object-{material.texture}").id
        start = model.tex_adr[texture]
        end = model.tex_adr[texture + 1] if texture + 1 < model.ntex else len(model.tex_data)
        pixels = model.tex_data[start:end].reshape(-1, 3)
        assert (pixels == pixels[:, :1]).all()  # gray: the hue does not change
        assert pixels.min() >= 0.64 * 255


def test_all_scenes_share_one_texture_layout_and_stay_below_max_geoms() -> None:
    layouts = set()
    for scene in scenes("train", 24) + scenes("unseen_table", 8):
        model = mujoco.MjModel.from_xml_string(scene_xml(scene, 64))
        layouts.add((*model.tex_width, *model.tex_height, *model.tex_adr, model.nmeshvert))
        assert model.ngeom + len(scene.objects) < MAX_GEOMS
    assert len(layouts) == 1


@pytest.mark.parametrize("name", [*PHOTOS, "wood", "marble", "weave", "stripes", "speckle"])
def test_surfaces_have_medium_brightness_and_contrast(name) -> None:
    pixels = surface(name, np.random.default_rng(2), 128)
    assert pixels.shape == (128, 128, 3)
    assert pixels.std() > 0.01
    assert 0.35 < pixels.mean() < 0.65


def test_objects_do_not_pass_through_distractors() -> None:
    """Solid distractors are clear of all objects at the start and almost always afterwards."""
    checked = 0
    for index in range(24):
        rollout = simulate_unrendered(split_seed("train", 500 + index)).rollout
        for item in rollout.scene.distractors:
            if not item.is_solid:
                continue
            positions = rollout.positions[:, :, :2] - np.array(item.position)
            radius = np.array([o.radius for o in rollout.scene.objects])
            near = np.linalg.norm(positions, axis=2) < radius + item.radius - 0.01
            assert not near[0].any()
            assert near.mean() < 0.01
            checked += 1
    assert checked > 10
