"""Clips of the second renderer: labels, determinism, and that the project's tools take them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.second_renderer import __main__ as command
from benchmarks.second_renderer import footage, scores
from benchmarks.second_renderer.footage import label_events, make_clip, make_video
from benchmarks.second_renderer.motions import Track, cruise, path, slide
from benchmarks.second_renderer.planning import Plan, PlannedEvent, sample_plan
from benchmarks.second_renderer.scenes import Scene, sample_scene
from benchmarks.second_renderer.shapes import contact_distance
from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.simulated import ClipQuestion, ClipQuestions, clip_questions
from llava_st_ros.records import Answer, Box, Query, Task
from llava_st_ros.simulation.bag_writer import write_bag
from llava_st_ros.simulation.event_labels import label_event
from llava_st_ros.simulation.events import EventKind, InfeasibleError
from llava_st_ros.simulation.video_queries import sample_queries

STAMPS = np.arange(20) * 0.25
A, B = np.array([0.0, 0.0, 0.05]), np.array([0.5, 0.0, 0.05])


def boxes(*hidden: tuple[int, int]) -> np.ndarray:
    """Boxes [20, 2, 4] that are visible but for (frame, object)."""
    found = np.full((20, 2, 4), 0.5, dtype=np.float32)
    for frame, index in hidden:
        found[frame, index] = np.nan
    return found


def plan(kind: EventKind, track: Track, start: float, other: int | None = None) -> Plan:
    resting = Track(A + np.array([0, 0.3, 0]), np.eye(3))
    return Plan((track, resting), (PlannedEvent(kind, 0, other, start),))


def pushed(start: float, seconds: float) -> Track:
    motion = slide(path(A, B, 0.0, 0.0), seconds, "constant", np.eye(3))
    return Track(A, np.eye(3), (motion.delayed(start),))


def test_an_event_begins_when_its_subject_is_displaced_and_ends_when_it_rests() -> None:
    found = label_events(plan(EventKind.PUSHED, pushed(1.1, 1.0), 1.1), STAMPS, boxes(), ())
    # Frame 5 is at 1.25 s; at 2.0 s, frame 8, it is still 0.05 m from its end.
    assert [event.span for event in found] == [(5, 9)]
    assert found[0].kind is EventKind.PUSHED
    assert found[0].other is None


def test_a_displacement_below_a_pixel_does_not_begin_an_event() -> None:
    # At 1.25 s the subject has moved 0.5 m / 1 s * 0.005 s = 2.5 mm.
    found = label_events(plan(EventKind.PUSHED, pushed(1.245, 1.0), 1.245), STAMPS, boxes(), ())
    assert found[0].span == (6, 9)


def test_stopping_begins_with_braking() -> None:
    even = slide(path(A, B, 0.0, 0.0), 1.0, "constant", np.eye(3))
    track = Track(A, np.eye(3), (cruise(even, 1.6, 1.2),))
    found = label_events(plan(EventKind.STOPS, track, 1.6), STAMPS, boxes(), ())
    # Braking from 1.6 to 2.8 s; at 2.75 s less than 1 mm is left.
    assert found[0].span == (7, 11)


def test_entering_begins_and_leaving_ends_with_visibility() -> None:
    hidden = [(frame, 0) for frame in range(6)]
    found = label_events(plan(EventKind.ENTERS, pushed(0.9, 1.0), 0.9), STAMPS, boxes(*hidden), ())
    assert found[0].span == (6, 8)
    hidden = [(frame, 0) for frame in range(7, 20)]
    found = label_events(plan(EventKind.LEAVES, pushed(0.9, 1.0), 0.9), STAMPS, boxes(*hidden), ())
    assert found[0].span == (4, 6)


@pytest.mark.parametrize(
    ("kind", "hidden"),
    [
        (EventKind.PUSHED, (7, 0)),  # hidden on its way
        (EventKind.ENTERS, (0, 1)),  # visible before it enters
        (EventKind.LEAVES, (0, 1)),  # visible after it has left
    ],
)
def test_what_cannot_be_seen_is_no_event(kind: EventKind, hidden: tuple[int, int]) -> None:
    with pytest.raises(InfeasibleError):
        label_events(plan(kind, pushed(1.1, 1.0), 1.1), STAMPS, boxes(hidden), ())


def test_a_collision_lasts_until_the_other_object_rests() -> None:
    coming = pushed(1.0, 0.5)
    going = slide(path(B, B + np.array([0.2, 0, 0]), 0, 0), 1.0, "constant", np.eye(3)).delayed(1.5)
    both = Plan(
        (coming, Track(B, np.eye(3), (going,))), (PlannedEvent(EventKind.COLLIDES, 0, 1, 1.0),)
    )
    found = label_events(both, STAMPS, boxes(), ())
    assert found[0].span == (5, 10)
    assert found[0].other == 1


def executed_events(scene: Scene, plan: Plan, stamps: np.ndarray) -> list[SimpleNamespace]:
    """A plan's events as ``simulation.event_labels`` reads them."""

    def centers(time: float) -> np.ndarray:
        return np.stack([track.at(time)[0] for track in plan.tracks])

    def pose_at(time: float) -> SimpleNamespace:
        pose = scene.camera.pose_at(time)
        return SimpleNamespace(project=pose.project, scale_at=lambda depth: 0.5 / depth)

    items = [
        SimpleNamespace(rest_height=shape.rest_height, scale=shape.bound) for shape in scene.shapes
    ]
    camera = SimpleNamespace(pose_at=pose_at)
    stops = [event.kind is EventKind.STOPS for event in plan.events]
    starts = [0.0 if stop else event.start for event, stop in zip(plan.events, stops)]
    return [
        SimpleNamespace(
            scene=SimpleNamespace(objects=items, camera=camera, min_event_frames=1),
            scripted=SimpleNamespace(**{**vars(event), "start": start}),
            motion=SimpleNamespace(brake_at=event.start if stop else None),
            before=centers(start),
            after=centers(until),
            until=until,
            stamps=stamps,
            positions=np.stack([centers(float(stamp)) for stamp in stamps]),
            contacts={frozenset((event.subject, event.other))},
        )
        for event, stop, start, until in zip(plan.events, stops, starts, [*starts[1:], math.inf])
    ]


def test_labels_agree_with_the_simulators() -> None:
    """On plans of both kinds of footage, wherever the simulator accepts what happened."""
    compared = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        stamps = np.linspace(0.0, 6.0, 20)
        try:
            found = sample_plan(rng, scene, 6.0, 1 + seed % 3)
            shots = [footage.Shot.at(scene, found, float(stamp), 48) for stamp in stamps]
            seen = np.stack([shot.boxes for shot in shots])
            ours = label_events(found, stamps, seen, shots)
            theirs = [label_event(e, seen) for e in executed_events(scene, found, stamps)]
        except InfeasibleError:
            continue
        assert [e.span for e in ours] == [e.span for e in theirs]
        assert [(e.kind, e.subject) for e in ours] == [(e.kind, e.subject) for e in theirs]
        compared += len(ours)
    assert compared >= 8


def test_objects_on_the_ground_never_overlap() -> None:
    checked = 0
    for seed in range(12):
        rng = np.random.default_rng([seed, 7])
        scene = sample_scene(rng, 4)
        try:
            found = sample_plan(rng, scene, 20.0, 4)
        except InfeasibleError:
            continue
        for time in np.linspace(0, 20, 50):
            places = [track.at(float(time)) for track in found.tracks]
            for i, j in itertools.combinations(range(4), 2):
                apart = (places[j][0] - places[i][0])[:2]
                heights = [places[k][0][2] - scene.shapes[k].rest_height for k in (i, j)]
                if max(heights) > 1e-6:
                    continue
                distance = float(np.linalg.norm(apart))
                yaws = tuple(math.atan2(*axis_on_ground(places[k][1])[::-1]) for k in (i, j))
                shapes = scene.shapes[i], scene.shapes[j]
                assert distance > contact_distance(*shapes, yaws, apart / distance) - 2e-3
                checked += 1
    assert checked > 300


def axis_on_ground(rotation: np.ndarray) -> np.ndarray:
    """The x axis of what stands, the long axis of a lying capsule; any axis of a rolling ball."""
    return rotation[:2, 2] if abs(rotation[2, 2]) < 0.5 else rotation[:2, 0]


def test_a_plan_ends_each_event_before_the_next_begins() -> None:
    for seed in range(30):
        rng = np.random.default_rng([seed, 8])
        scene = sample_scene(rng)
        try:
            found = sample_plan(rng, scene, 8.0, 3)
        except InfeasibleError:
            continue
        for event, following in itertools.pairwise(found.events):
            times = np.linspace(following.start - 0.01, following.start, 2)
            for track in found.tracks:
                assert np.array_equal(*(track.at(float(t))[0] for t in times)), event


@pytest.fixture(scope="module")
def clip() -> footage.SimulatedClip:
    return make_clip(3, num_frames=12, size=72)


def test_a_seed_gives_the_same_bytes(clip: footage.SimulatedClip) -> None:
    again = make_clip(3, num_frames=12, size=72)
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.boxes, again.boxes, equal_nan=True)
    assert (clip.objects, clip.events) == (again.objects, again.events)
    other = make_clip(4, num_frames=12, size=72)
    assert other.objects != clip.objects


def test_a_clip_is_as_documented(clip: footage.SimulatedClip) -> None:
    assert clip.frames.shape == (12, 72, 72, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.boxes.dtype == np.float32
    assert clip.boxes.shape == (12, len(clip.objects), 4)
    assert clip.stamps[0] == 0.0
    shown = clip.boxes[clip.is_visible]
    assert ((shown >= 0) & (shown <= 1)).all()
    assert (shown[:, 2:] > shown[:, :2]).all()
    for event in clip.events:
        assert clip.is_visible[event.span[0] : event.span[1] + 1, event.subject].all()


def test_questions_are_about_the_clip(clip: footage.SimulatedClip) -> None:
    questions = clip_questions(clip, 3, 3, scores.CATEGORIES).questions
    by_task = {q.expected.task: q for q in questions if not q.expected.no_match}
    assert Task.REC in by_task
    spans = {event.span for event in clip.events}
    assert Task.STVG not in by_task or by_task[Task.STVG].expected.span in spans


def test_a_video_becomes_an_annotated_bag(tmp_path: Path) -> None:
    video = make_video(0, duration=10.0, fps=4.0, size=64)
    queries = sample_queries(video, 4, np.random.default_rng(0))
    write_bag(video, tmp_path / "bag", queries=queries)
    truth = read_annotations(annotation_path(tmp_path / "bag"))
    assert len(truth.objects) == len(video.objects)
    assert [query.text for query in truth.queries] == [query.text for query in queries]


def test_footage_has_a_least_length() -> None:
    with pytest.raises(ConfigError, match="at least 10 s"):
        make_video(0, duration=9.0)
    with pytest.raises(ConfigError, match="at least 8 frames"):
        make_clip(0, num_frames=1)


class RefusingWindow:
    """Answers "no match" unless it must not."""

    def ask(self, query: Query, frame: int | None, no_match_threshold: float = 0.5):
        found = Answer(Task.REC, boxes=((None, Box(0.1, 0.1, 0.5, 0.5)),))
        answer = found if no_match_threshold == 1 else Answer(Task.REC, no_match=True)
        return SimpleNamespace(answer=answer, match_probability=0.3)


def test_refused_questions_are_asked_again() -> None:
    expected = Answer(Task.REC, boxes=((None, Box(0.1, 0.1, 0.5, 0.5)),))
    query = Query("a", "the red ball", Task.REC)
    clip = ClipQuestions(0, np.zeros((1, 8, 8, 3), np.uint8), ())
    case = scores._ask(RefusingWindow(), clip, ClipQuestion(query, 0, expected))
    absent = ClipQuestion(replace(query, id="b"), 0, Answer(Task.REC, no_match=True))
    rows = scores.clip_rows([case, scores._ask(RefusingWindow(), clip, absent)])
    assert {(row.task, row.metric): row.value for row in rows} == {
        ("REC", "Acc@0.5"): 0.0,
        ("REC", "Acc@0.5, never no match"): 1.0,
        ("REC", 'false "no match"'): 1.0,
        ("no_match", "accuracy"): 1.0,
        ("all", 'false "no match"'): 1.0,
        ("all", "AUROC of P(match)"): 0.5,
    }


def test_the_command_draws_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "make_clip", lambda seed: make_clip(seed, num_frames=12, size=72))
    sheet = tmp_path / "sheet.png"
    assert command.main(["--n", "1", "--seed", "3", "--sheet", str(sheet)]) == 0
    assert sheet.stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["--n", "-1"],
        ["--queries", "0"],
        ["--out", "/proc/nowhere/x.json"],
        ["--sheet", "sheet.txt"],
        ["--sheet", "sheet.png", "--n", "0"],
        ["--vary", "period=1,2"],
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("covered", "left_after", "other"),
    [
        (range(6, 8), False, 1),  # the ball is covered half-way, and then on the other side
        (range(6, 8), True, None),  # it has come back
        (range(5, 8), False, None),  # it is covered from the start
        ((), False, None),
    ],
)
def test_rolling_behind_an_object(covered: Sequence[int], left_after: bool, other: int | None):
    shots = [
        SimpleNamespace(
            covering=lambda subject, frame=frame: {1} if frame in covered else set(),
            is_left_of=lambda subject, frame=frame: np.array([False, frame < 7 or left_after]),
        )
        for frame in range(20)
    ]
    found = label_events(plan(EventKind.ROLLS, pushed(1.1, 1.0), 1.1), STAMPS, boxes(), shots)
    assert (found[0].span, found[0].other) == ((5, 9), other)


def test_objects_that_are_too_small_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage, "_ATTEMPTS", 3)
    monkeypatch.setattr(footage, "LEAST_SIZE", 1.0)
    with pytest.raises(RuntimeError, match="nothing in 3 attempts"):
        make_clip(3, num_frames=12, size=72)


def test_streams_are_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(seed: int, duration: float) -> footage.SimulatedClip:
        made.append(seed)
        return make_video(seed, duration=duration, fps=2.0, size=48)

    monkeypatch.setattr(scores, "make_video", make)
    first = scores.record_streams(range(2), 3, tmp_path, duration=10.0)
    assert scores.record_streams(range(2), 3, tmp_path, duration=10.0) == first
    assert made == [0, 1]
    assert all(annotation_path(bag).exists() for bag in first)
