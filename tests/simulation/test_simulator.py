"""The simulator is reproducible, its boxes are exact and its events are visible in the frames."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from llava_st_ros.errors import BackendError, ConfigError
from llava_st_ros.simulation import headless
from llava_st_ros.simulation.events import EventKind, InfeasibleError
from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.mjcf import scene_xml
from llava_st_ros.simulation.physics import Tabletop
from llava_st_ros.simulation.planning import MotionPlanner
from llava_st_ros.simulation.rendering import renderer_for
from llava_st_ros.simulation.scenes import COLORS, sample_scene
from llava_st_ros.simulation.simulator import (
    SPLITS,
    SimulatedClip,
    SimulatedEvent,
    UnrenderedClip,
    simulate_clip,
    simulate_unrendered,
    split_seed,
)
from llava_st_ros.simulation.worlds import world_for_seed

pytestmark = pytest.mark.renderer


@pytest.fixture(scope="module")
def unrendered() -> list[UnrenderedClip]:
    return [simulate_unrendered(split_seed("train", index)) for index in range(40)]


@pytest.fixture(scope="module")
def clips(unrendered) -> list[SimulatedClip]:
    """Rendered after all simulations: a clip must not affect another."""
    return [r.render(split_seed("train", index)) for index, r in enumerate(unrendered)]


def digest(clip: SimulatedClip) -> str:
    data = clip.frames.tobytes() + clip.boxes.tobytes() + repr((clip.objects, clip.events)).encode()
    return hashlib.sha256(data).hexdigest()


def events_of(
    clips: list[SimulatedClip], *kinds: EventKind
) -> list[tuple[SimulatedClip, SimulatedEvent]]:
    found = [(c, e) for c in clips for e in c.events if e.kind in kinds]
    assert found, f"no clip with {kinds}"
    return found


def centers(clip: SimulatedClip, index: int) -> np.ndarray:
    """[F, 2] in pixels."""
    boxes = clip.boxes[:, index]
    return (boxes[:, :2] + boxes[:, 2:]) / 2 * clip.frames.shape[1]


def test_a_seed_gives_the_same_bytes_after_other_simulations(clips) -> None:
    again = simulate_clip(clips[3].seed)
    assert digest(again) == digest(clips[3])
    assert len({digest(clip) for clip in clips}) == len(clips)


def test_a_seed_gives_the_same_bytes_in_another_process(clips) -> None:
    code = (
        "from llava_st_ros.simulation.simulator import simulate_clip; import hashlib;"
        f"c = simulate_clip({clips[1].seed});"
        "print(hashlib.sha256(c.frames.tobytes() + c.boxes.tobytes()"
        " + repr((c.objects, c.events)).encode()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert result.stdout.strip() == digest(clips[1])


def test_splits_share_no_seed() -> None:
    assert {"train", "validation", "test"} < set(SPLITS)
    for first, second in combinations(SPLITS.values(), 2):
        assert max(first.start, second.start) >= min(first.stop, second.stop)
    assert split_seed("test", 7) in SPLITS["test"]
    for split, index in (("test", -1), ("train", len(SPLITS["train"])), ("tset", 0)):
        with pytest.raises(ConfigError):
            split_seed(split, index)


def test_shapes_dtypes_and_ranges(clips) -> None:
    for clip in clips:
        count = len(clip.objects)
        assert clip.frames.shape == (20, 144, 144, 3)
        assert clip.frames.dtype == np.uint8
        assert clip.boxes.shape == (20, count, 4)
        assert clip.boxes.dtype == np.float32
        assert clip.stamps[0] == 0
        assert 5 <= clip.stamps[-1] <= 7
        assert 1 <= count <= 8
        assert 1 <= len(clip.events) <= 3
        assert len({(e.kind, e.subject) for e in clip.events}) == len(clip.events)
        seen = clip.boxes[clip.is_visible]
        assert (seen >= 0).all()
        assert (seen <= 1).all()
        assert (seen[:, 2:] > seen[:, :2]).all()


def test_kinds_counts_and_sizes_vary(clips) -> None:
    kinds = {event.kind for clip in clips for event in clip.events}
    assert kinds == set(EventKind)
    sides = np.concatenate(
        [(c.boxes[c.is_visible][:, 2:] - c.boxes[c.is_visible][:, :2]) for c in clips]
    )
    assert 20 <= np.median(sides.max(axis=1) * 144) <= 36
    assert {len(clip.objects) for clip in clips} >= {1, 2, 3, 4, 5, 6, 7}
    same_name = [len({o.name for o in c.objects}) < len(c.objects) for c in clips]
    assert 0.15 <= np.mean(same_name) <= 0.6
    repeated = [len({e.kind for e in c.events}) < len(c.events) for c in clips]
    assert sum(repeated) >= 4


@pytest.mark.parametrize("split", ["train", "unseen_lens"])
def test_the_box_of_a_ball_equals_its_projection(split) -> None:
    """The projection of a sphere is computed from its tangent cone, independently of OpenGL.

    Shaking cameras and another field of view are included.
    """
    checked = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, 1, world_for_seed(split_seed(split, 0)))
        if scene.objects[0].shape != "ball":
            continue
        scene = replace(scene, occluder=None, distractors=())
        time = float(rng.uniform(0, 6))
        model = mujoco.MjModel.from_xml_string(scene_xml(scene, 144))
        try:
            table = Tabletop(
                scene, model, *MotionPlanner(rng, scene, 6.0).sample_layout(["table"], [])
            )
        except InfeasibleError:
            continue
        pose = scene.camera.pose_at(time)
        labels = renderer_for(model, 144).render_segmentation(table.data, pose)
        rows, columns = np.nonzero(labels == model.geom("object0").id)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        x, y, z = pose.axes @ (table.positions[0] - pose.position)
        radius = scene.objects[0].scale
        focal = 72 / np.tan(np.radians(scene.camera.fovy) / 2)
        # The angles of the center from the optical axis and half the cone's, in both planes.
        across, upward = np.arctan2(x, z), np.arctan2(-y, z)
        wide, high = np.arcsin(radius / np.hypot(x, z)), np.arcsin(radius / np.hypot(y, z))
        tangents = np.tan([across - wide, upward - high, across + wide, upward + high])
        assert np.abs(72 + focal * tangents - found).max() < 1.0, (seed, found)
        checked += 1
    assert checked >= 5


def test_boxes_contain_the_color_of_their_object(clips) -> None:
    """Boxes belong to the right objects: the box of a blue object contains blue pixels."""
    for clip in clips:
        for index, item in enumerate(clip.objects):
            channels = np.array(COLORS[item.color])
            for frame in np.flatnonzero(clip.is_visible[:, index])[::6]:
                x1, y1, x2, y2 = np.round(clip.boxes[frame, index] * 144).astype(int)
                patch = clip.frames[frame, y1:y2, x1:x2].reshape(-1, 3).astype(float)
                if len(patch) < 100:
                    continue  # a sliver whose color is mixed with the occluder's by blur
                hue = patch / np.maximum(np.linalg.norm(patch, axis=1, keepdims=True), 1.0)
                alike = hue @ (channels / np.linalg.norm(channels)) > 0.95
                assert alike.mean() > 0.05, (clip.seed, item.name, frame)


def test_subjects_move_within_their_spans_only(clips, unrendered) -> None:
    fixed = [
        clip
        for clip, unrendered_clip in zip(clips, unrendered)
        if not unrendered_clip.rollout.scene.camera.is_moving
        and unrendered_clip.rollout.scene.occluder is None
    ]
    moved, rests = 0, 0
    for clip in fixed:
        for event in clip.events:
            first, last = event.span
            path = centers(clip, event.subject)[max(0, first - 1) : last + 1]
            travel = np.nanmax(np.abs(path - path[~np.isnan(path[:, 0])][0]))
            assert travel > 4, (clip.seed, event)
            moved += 1
        for index in range(len(clip.objects)):
            quiet = [
                f
                for f in range(19)
                if not any(max(0, e.span[0] - 1) <= f <= e.span[1] for e in clip.events)
                and not any(e.kind is EventKind.STOPS and f < e.span[0] for e in clip.events)
            ]
            for f in quiet:
                change = np.abs(clip.boxes[f + 1, index] - clip.boxes[f, index]) * 144
                assert not change.max() > 1.01, (clip.seed, index, f)
                rests += 1
    assert moved > 10
    assert rests > 50


def test_every_kind_has_its_effect_on_the_boxes(clips) -> None:
    for clip, event in events_of(clips, EventKind.LIFTED, EventKind.DROPPED):
        center = centers(clip, event.subject)
        rise = center[max(0, event.span[0] - 1), 1] - center[event.span[1], 1]
        assert (rise > 4) if event.kind is EventKind.LIFTED else (rise < -4), clip.seed
    for clip, event in events_of(clips, EventKind.ENTERS):
        visible = clip.is_visible[:, event.subject]
        assert not visible[: event.span[0]].any()
        assert visible[event.span[1]]
    for clip, event in events_of(clips, EventKind.LEAVES):
        visible = clip.is_visible[:, event.subject]
        assert visible[: event.span[0]].all()
        assert not visible[event.span[1] + 1 :].any()
    for clip, event in events_of(clips, EventKind.COLLIDES):
        assert event.other is not None
        subject, other = clip.boxes[:, event.subject], clip.boxes[:, event.other]
        gap = np.maximum(subject[:, :2], other[:, :2]) - np.minimum(subject[:, 2:], other[:, 2:])
        during = slice(event.span[0], event.span[1] + 1)
        assert (gap.max(axis=1)[during] * 144 < 4).any()
        start = max(0, event.span[0] - 1)
        assert np.nanmax(np.abs(other[during] - other[start]) * 144) > 1.5


def test_an_object_that_rolls_behind_another_crosses_it_and_is_partly_hidden(clips) -> None:
    found = [
        (clip, event, event.other)
        for clip, event in events_of(clips, EventKind.ROLLS)
        if event.other is not None
    ]
    assert found
    for clip, event, other in found:
        first, last = max(0, event.span[0] - 1), event.span[1]
        apart = centers(clip, event.subject)[:, 0] - centers(clip, other)[:, 0]
        assert apart[first] * apart[last] < 0
        subject, screen = clip.boxes[first:last, event.subject], clip.boxes[first:last, other]
        overlap = np.minimum(subject[:, 2:], screen[:, 2:]) - np.maximum(
            subject[:, :2], screen[:, :2]
        )
        hidden = np.isnan(subject[:, 0])
        assert (hidden | (overlap > -1.5 / 144).all(axis=1)).any()


def test_spans_are_neither_very_short_nor_the_complete_clip(clips) -> None:
    lengths = np.array([e.span[1] - e.span[0] + 1 for c in clips for e in c.events])
    assert lengths.min() >= 2
    assert lengths.max() <= 15
    assert 3 <= np.median(lengths) <= 9
    for clip in clips:
        for event in clip.events:
            assert clip.is_visible[event.span[0] : event.span[1] + 1, event.subject].all()
        for earlier, later in zip(clip.events, clip.events[1:]):
            assert earlier.span[1] <= later.span[0]


def test_missing_opengl_raises_an_error_with_all_reasons(monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("PYOPENGL_PLATFORM", os.environ.get("PYOPENGL_PLATFORM", "egl"))
    monkeypatch.setattr(headless, "PLATFORMS", {"osmesa": "llava_st_ros.no_such_module"})
    monkeypatch.setattr(headless.sys, "modules", dict(sys.modules))
    with pytest.raises(BackendError, match=r"glfw.*osmesa.*libegl1"):
        headless.gl_context(32)


def test_unstable_physics_is_rejected(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = sample_scene(np.random.default_rng(0), 1, world_for_seed(0))
    model = mujoco.MjModel.from_xml_string(scene_xml(scene, 64))
    table = Tabletop(scene, model, np.array([[0.0, 0.0, 0.5]]), np.zeros(1))
    table.step_until(0.1)
    table.data.qvel[0] = np.nan
    with pytest.raises(InfeasibleError, match="unstable"):
        table.step_until(0.2)
    assert not list(tmp_path.iterdir())  # MuJoCo's log
