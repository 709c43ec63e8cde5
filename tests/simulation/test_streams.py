"""Videos at camera rate with many events, directed while they run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llava_st_ros.errors import ConfigError
from llava_st_ros.simulation import streams
from llava_st_ros.simulation.clip_store import ClipStore, render_shards
from llava_st_ros.simulation.events import EventKind, InfeasibleError, ScriptedEvent, state_after
from llava_st_ros.simulation.rollout import MOTION_THRESHOLD, check_bystanders
from llava_st_ros.simulation.simulator import UnrenderedClip, split_seed
from llava_st_ros.simulation.streams import (
    StreamRollout,
    simulate_stream,
    simulate_training_video,
    simulate_unrendered_stream,
)

pytestmark = pytest.mark.renderer

FPS, SIZE = 3.2, 96


@pytest.fixture(scope="module")
def videos() -> list[UnrenderedClip]:
    return [
        simulate_unrendered_stream(split_seed(split, index), fps=FPS, size=SIZE)
        for split, index in (("test", 1), ("test", 4), ("wide", 1), ("wide", 5))
    ]


def test_videos_have_several_events_with_quiet_stretches(videos) -> None:
    durations, kinds, rests, again, alike = [], set(), [], 0, 0
    for video in videos:
        durations.append(len(video.boxes) / FPS)
        assert len(video.events) >= 2
        for before, after in itertools.pairwise(video.events):
            assert before.span[1] < after.span[0]
            rests.append((after.span[0] - before.span[1]) / FPS)
        kinds |= {event.kind for event in video.events}
        asked = [(event.kind, event.subject) for event in video.events]
        again += len(set(asked)) < len(asked)
        alike += len({kind for kind, _ in set(asked)}) < len(set(asked))
    assert min(durations) >= 29.5 and max(durations) <= 60 and np.ptp(durations) > 5
    assert kinds == set(EventKind)
    assert max(rests) > 8 and min(rests) < 2
    assert again >= 2 and alike >= 2
    counts = {len(video.objects) for video in videos}
    assert len(counts) >= 3 and max(counts) <= 8


def test_events_are_as_labeled(videos) -> None:
    for video in videos:
        visible = ~np.isnan(video.boxes[:, :, 0])
        assert visible.any(axis=0).all()
        index = {item: i for i, item in enumerate(video.rollout.scene.objects)}
        for event in video.events:
            first, last = event.span
            assert visible[first : last + 1, event.subject].all()
            assert event.other is None or visible[first, event.other]
            states = video.rollout.positions
            path = states[first - 1 : last + 1, index[video.objects[event.subject]]]
            if event.kind is EventKind.LIFTED:
                assert path[-1, 2] - path[0, 2] > 0.05
            if event.kind is EventKind.DROPPED:
                assert path[0, 2] - path[-1, 2] > 0.05
            if event.kind is EventKind.ENTERS and first > 0:
                assert not visible[first - 1, event.subject]
            if event.kind is EventKind.LEAVES:
                assert not visible[last + 1, event.subject]
            if event.kind is EventKind.STOPS:
                assert event is video.events[0]


def test_nothing_moves_outside_events(videos) -> None:
    """Between the end of an event and the start of the next one every object rests."""
    for video in videos:
        moving = np.zeros(len(video.boxes), dtype=bool)
        for event in video.events:
            start = 0 if event.kind is EventKind.STOPS else event.span[0]
            # An object that leaves or enters also moves while it is outside the image.
            pad = 12 if event.kind in (EventKind.LEAVES, EventKind.ENTERS) else 1
            moving[max(0, start - pad) : event.span[1] + pad + 1] = True
        steps = np.linalg.norm(np.diff(video.rollout.positions, axis=0), axis=2).max(axis=1)
        assert steps[~(moving[:-1] | moving[1:])].max(initial=0.0) < 2 * MOTION_THRESHOLD


def test_videos_are_reproducible_from_their_seeds() -> None:
    seed = split_seed("validation", 1)
    first, second = (simulate_stream(seed, duration=12.0, fps=3.0, size=64) for _ in range(2))
    assert (first.frames == second.frames).all() and first.events == second.events
    assert first.frames.shape == (36, 64, 64, 3)
    np.testing.assert_allclose(first.stamps, np.arange(36) / 3.0)


def fail(*arguments: object) -> None:
    raise InfeasibleError("never")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_event", fail),
        ("check_bystanders", fail),  # another object is moved
        ("REST_SPEED", -1.0),  # the objects do not come to rest
    ],
)
def test_failed_event_leaves_no_trace(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every event but the rests failing, the video shows a scene at rest."""
    video = simulate_unrendered_stream(split_seed("test", 1), duration=12.0, fps=3.0, size=64)
    monkeypatch.setattr(streams, "_initial_states", lambda rng, count: ["table"] * count)

    def film() -> StreamRollout:
        rng = np.random.default_rng(6)
        return StreamRollout(rng, video.rollout.scene, np.arange(36) / 3.0, 64)

    assert film().events
    monkeypatch.setattr(streams, name, value)
    rollout = film()
    assert rollout.events == []
    drift = np.linalg.norm(rollout.positions - rollout.positions[0], axis=2)
    assert drift.max() < MOTION_THRESHOLD


def test_object_that_has_left_may_enter_again() -> None:
    assert state_after(EventKind.LEAVES) == "outside"
    assert state_after(EventKind.LIFTED) == "air"
    assert state_after(EventKind.PUSHED) == "table"


@pytest.mark.parametrize("wrong", [{"duration": 3.0}, {"fps": 0.5}, {"size": 16}])
def test_too_short_or_small_videos_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 10 s, 1 frame/s and 32 px"):
        simulate_stream(0, **{"duration": 12.0, **wrong})


def test_training_videos_are_stored_in_shards(tmp_path) -> None:
    shards = render_shards(
        tmp_path,
        "wide",
        2,
        num_frames=40,
        size=48,
        workers=1,
        simulate=simulate_training_video,
        shard_clips=1,
    )
    assert sorted(shard.name for shard in shards) == ["wide-000000", "wide-000001"]
    store = ClipStore(tmp_path)
    expected = simulate_training_video(split_seed("wide", 1), num_frames=40, size=48)
    assert store[1].events == expected.events and store[1].objects == expected.objects
    np.testing.assert_array_equal(store[1].frames, expected.frames)
    np.testing.assert_allclose(store[1].stamps, expected.stamps)


def test_only_subject_and_object_that_is_hit_may_move() -> None:
    collision = ScriptedEvent(EventKind.COLLIDES, 0, 2, 0.0, 1.0)
    before = np.zeros((3, 3))
    moved = np.array([[0.1, 0, 0], [0.9 * MOTION_THRESHOLD, 0, 0], [0, 0.1, 0]])
    check_bystanders(collision, before, moved)
    moved[1] = [1.1 * MOTION_THRESHOLD, 0, 0]
    with pytest.raises(InfeasibleError, match="not in the event"):
        check_bystanders(collision, before, moved)
