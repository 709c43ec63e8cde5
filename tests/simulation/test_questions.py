"""Questions about simulated clips are valid, unambiguous and correct."""

from __future__ import annotations

import re

import numpy as np
import pytest

from llava_st_ros.records import Task
from llava_st_ros.simulation.descriptions import SYNONYMS
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.negatives import absent_event_text, absent_object_text
from llava_st_ros.simulation.phrasing import (
    BEHIND,
    PREDICATES,
    all_texts,
    event_sentence,
    event_text,
    object_text,
    plausible_subjects,
)
from llava_st_ros.simulation.questions import MIN_SIDE, Sample, clip_samples, image_samples
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.simulation.simulator import (
    SimulatedClip,
    SimulatedEvent,
    simulate_clip,
    split_seed,
)
from llava_st_ros.simulation.spatial_relations import VisibleObjects
from llava_st_ros.simulation.worlds import HELD_OUT
from llava_st_ros.text.answer_format import NO_MATCH_TASKS
from llava_st_ros.text.answers import format_answer, parse
from llava_st_ros.text.tasks import make_question
from support.text_cases import config

pytestmark = pytest.mark.renderer


@pytest.fixture(scope="module")
def samples_by_clip() -> list[tuple[SimulatedClip, list[Sample]]]:
    clips = [simulate_clip(split_seed("validation", index)) for index in range(20)]
    return [(clip, clip_samples(clip, np.random.default_rng(clip.seed))) for clip in clips]


def test_every_task_has_questions(samples_by_clip) -> None:
    assert {sample.task for _, samples in samples_by_clip for sample in samples} == set(Task)
    for clip, samples in samples_by_clip:
        answered = [s for s in samples if not s.answer.no_match]
        for task in (Task.TR, Task.ELC):
            assert sum(s.task is task for s in answered) == len(clip.events)
        for task in (Task.STVG, Task.SVG, Task.TVG):
            assert sum(s.task is task for s in answered) <= len(clip.events)
            assert sum(s.task is task for s in samples) <= len(clip.events) + 1
        assert sum(s.task is Task.DVC for s in samples) == 1


def test_the_same_generator_state_gives_the_same_questions(samples_by_clip) -> None:
    for clip, samples in samples_by_clip[:5]:
        assert clip_samples(clip, np.random.default_rng(clip.seed)) == samples


def test_questions_and_answers_survive_formatting_and_parsing(samples_by_clip) -> None:
    for _, samples in samples_by_clip:
        for sample in samples:
            make_question(sample.task, sample.text, span=sample.span, box=sample.box)
            read = parse(
                format_answer(sample.answer, config().coordinates).text, sample.task, config()
            )
            assert not read.problems
            assert read.span == sample.answer.span or sample.task is Task.TR
            assert [t for t, _ in read.boxes] == [t for t, _ in sample.answer.boxes]
            assert read.segments == sample.answer.segments
            assert read.no_match == sample.answer.no_match


def test_video_answers_are_the_spans_of_events_and_the_boxes_of_subjects(samples_by_clip) -> None:
    for clip, samples in samples_by_clip:
        spans = {event.span: event for event in clip.events}
        for sample in samples:
            if sample.answer.no_match:
                continue
            if sample.task in (Task.STVG, Task.TVG):
                assert sample.answer.span in spans
            if sample.task not in (Task.STVG, Task.SVG, Task.ELC):
                continue
            frames = [frame for frame, _ in sample.answer.boxes]
            fitting = [
                event
                for event in clip.events
                if all(
                    np.allclose(
                        clip.boxes[f, event.subject], (b.x1, b.y1, b.x2, b.y2), equal_nan=False
                    )
                    for f, b in sample.answer.boxes
                )
                and frames == list(range(event.span[0], event.span[1] + 1))
            ]
            assert len(fitting) == 1
            event = fitting[0]
            if sample.task is Task.SVG:
                assert sample.span == (event.span[0] / 19, event.span[1] / 19)
            if sample.task is Task.ELC:
                assert sample.span == (event.span[0] / 19, event.span[0] / 19)
                assert sample.box == sample.answer.boxes[0][1]
                assert sample.answer.span == event.span
                assert sample.answer.caption == event_sentence(event, clip.objects)


def test_every_event_text_matches_its_subject_only(samples_by_clip) -> None:
    """A literal reading of the words finds no other event."""
    num_parsed = 0
    for clip, _ in samples_by_clip:
        for number, event in enumerate(clip.events):
            for draw in range(20):
                text = event_text(clip, event, np.random.default_rng((number, draw)))
                found = None if text is None else matching_objects(text, clip)
                num_parsed += found is not None
                assert found in (None, {event.subject}), (text, clip.objects, clip.events)
    assert num_parsed > 200


def matching_objects(text: str, clip: SimulatedClip) -> set[int] | None:
    """Return the objects that "the ATTRIBUTES [that] PREDICATE" matches literally.

    None for sentences of another form.
    """
    attributes = {*COLORS, *SHAPES, *SIZES, "object"}
    for kind, predicates in PREDICATES.items():
        for predicate in sorted(predicates, key=len, reverse=True):
            start, there, rest = text.partition(f" {predicate.split(' the @')[0]}")
            if not there or (rest and "@" not in predicate):
                continue
            words = start.removeprefix("the ").removesuffix(" that").split()
            plain = {next((c for c, o in SYNONYMS.items() if w in o), w) for w in words}
            if not plain <= attributes:
                return None
            happens = {i for e in clip.events for i in plausible_subjects(kind, e)}
            fitting = {
                i for i, o in enumerate(clip.objects) if plain <= {*o.full_name.split(), "object"}
            }
            return happens & fitting
    return None


ALL_PREDICATES = [p for predicates in (*PREDICATES.values(), BEHIND) for p in predicates]


def visible_objects(*placed_objects: tuple[str, float, float]) -> VisibleObjects:
    """Return visible objects from full names and box centers."""
    objects, boxes = [], []
    for name, x, y in placed_objects:
        size, color, shape = name.split()
        objects.append(SimulatedObject(color, shape, size, 0.05))
        boxes.append((x - 0.05, y - 0.05, x + 0.05, y + 0.05))
    return VisibleObjects.from_boxes(objects, np.array(boxes, dtype=np.float32))


def sample_texts(index: int, visible: VisibleObjects) -> set[str]:
    texts = (object_text(index, visible, np.random.default_rng(draw)) for draw in range(400))
    return {text for text in texts if text is not None}


def test_names_match_one_visible_object_only() -> None:
    visible = visible_objects(("small red ball", 0.2, 0.5), ("large blue ball", 0.5, 0.5))
    texts = sample_texts(0, visible)
    assert {"the red ball", "the small red ball", "the red object", "the red sphere"} <= texts
    assert not {"the ball", "the sphere", "the object", "the thing"} & texts
    assert not any("blue" in text.split(" the ")[0] for text in texts)


def test_identical_objects_are_described_by_their_place() -> None:
    left, right = ("small red ball", 0.2, 0.5), ("small red ball", 0.8, 0.5)
    visible = visible_objects(left, right, ("large blue box", 0.5, 0.5))
    for index, here, there in ((0, "left", "right"), (1, "right", "left")):
        texts = sample_texts(index, visible)
        assert f"the {here}most red ball" in texts
        assert f"the red ball on the {here}" in texts
        assert f"the red ball {here} of the blue box" in texts
        assert not any(there in text for text in texts if "from" not in text)
        assert "the red ball" not in texts
    middle = visible_objects(left, ("small red ball", 0.5, 0.5), right)
    assert {"the second ball from the left", "the second red ball from the right"} <= sample_texts(
        1, middle
    )
    close = visible_objects(left, ("small red ball", 0.22, 0.5))
    assert sample_texts(0, close) == set()  # too close to be distinguished


def test_next_to_is_used_only_for_the_clearly_nearest_object() -> None:
    row = ("small red ball", 0.2, 0.5), ("small red ball", 0.8, 0.5)
    visible = visible_objects(*row, ("large blue box", 0.3, 0.5))
    assert any("next to the" in text and "b" in text for text in sample_texts(0, visible))
    assert not any("next to" in text for text in sample_texts(1, visible))


def clip_with(*events: SimulatedEvent, names: tuple[str, ...]) -> SimulatedClip:
    """Return a clip with objects in a row and the given events."""
    objects = []
    for name in names:
        size, color, shape = name.split()
        objects.append(SimulatedObject(color, shape, size, 0.05))
    x = np.linspace(0.1, 0.9, len(names), dtype=np.float32)
    boxes = np.stack([x - 0.05, np.full_like(x, 0.4), x + 0.05, np.full_like(x, 0.5)], axis=1)
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    stamps = np.linspace(0, 6, 20)
    return SimulatedClip(0, frames, np.stack([boxes] * 20), tuple(objects), events, stamps)


def test_events_of_one_kind_are_described_by_their_order() -> None:
    first = SimulatedEvent(EventKind.LIFTED, 1, None, (2, 6))
    second = SimulatedEvent(EventKind.LIFTED, 0, None, (10, 15))
    clip = clip_with(first, second, names=("small red ball", "small red ball"))
    for event, order in ((first, "first"), (second, "second")):
        texts = {event_text(clip, event, np.random.default_rng(i)) for i in range(100)}
        assert f"the red ball that is lifted {order}" in texts
        assert all(text and text.endswith(order) for text in texts)


def test_rolling_does_not_describe_an_object_if_a_similar_one_collides() -> None:
    hit = SimulatedEvent(EventKind.COLLIDES, 0, 1, (2, 6))
    rolls = SimulatedEvent(EventKind.ROLLS, 2, None, (10, 15))
    clip = clip_with(hit, rolls, names=("small red ball", "large blue box", "small green ball"))
    texts = {event_text(clip, rolls, np.random.default_rng(i)) or "" for i in range(200)}
    assert any("green" in text for text in texts)
    assert not any(
        re.match(r"the (small |little )?(ball|sphere|object) (that )?(rolls|is rolling)", t)
        for t in texts
    )
    same = clip_with(
        hit,
        SimulatedEvent(EventKind.ROLLS, 0, None, (10, 15)),
        names=("small red ball", "large blue box"),
    )
    assert event_text(same, same.events[1], np.random.default_rng(0)) is None


def test_no_match_questions_match_nothing_in_the_clip(samples_by_clip) -> None:
    kinds: set[Task] = set()
    for clip, samples in samples_by_clip:
        for sample in samples:
            if not sample.answer.no_match:
                continue
            kinds.add(sample.task)
            assert not (sample.answer.span or sample.answer.boxes or sample.tube)
            if sample.task is not Task.REC:
                assert matching_objects(sample.text, clip) in (None, set()), sample.text
    assert kinds == set(NO_MATCH_TASKS)


def test_neither_span_nor_wording_reveals_that_nothing_matches(samples_by_clip) -> None:
    """Everything that holds for all questions with an answer holds for the others too."""
    hit = re.compile(r"(?:collides with|hits|bumps into|behind) the (.*?)\??$")
    spans = things = names = 0
    for clip, samples in samples_by_clip:
        given = {(e.span[0] / 19, e.span[1] / 19) for e in clip.events}
        for sample in samples:
            if not sample.answer.no_match or sample.task is Task.REC:
                continue
            if sample.task is Task.SVG:
                spans += 1
                assert sample.span in given
                names += not any(p.split(" the")[0] in sample.text for p in ALL_PREDICATES)
            if thing := hit.search(sample.text):
                things += 1
                assert thing[1] in {item.name for item in clip.objects}
    assert spans > 10 and things > 3 and names > 3


def test_absent_and_misplaced_object_texts_are_false() -> None:
    visible = visible_objects(("small red ball", 0.2, 0.5), ("large blue box", 0.7, 0.5))
    texts = {absent_object_text(visible, np.random.default_rng(i)) or "" for i in range(300)}
    assert {"the red box", "the blue ball", "the red ball right of the blue box"} <= texts
    assert not {"the red ball", "the blue box", "the ball", "the large box"} & texts
    assert not any("ball left of the" in text for text in texts if "red" in text.split(" of ")[0])
    held_out = {f"{color} {shape}" for color, shape in HELD_OUT}
    assert not any(name in text for name in held_out for text in texts)


def test_absent_event_texts_change_the_object_or_the_kind() -> None:
    lifted = SimulatedEvent(EventKind.LIFTED, 0, None, (2, 6))
    clip = clip_with(lifted, names=("small red ball", "large blue box"))
    texts = {absent_event_text(clip, np.random.default_rng(i)) or "" for i in range(600)}
    assert "the blue box is lifted" in texts  # the right kind, the wrong object
    assert any(text.startswith("the red ball") for text in texts)  # the right object, another kind
    assert not any(
        re.match(r"the red ball (that )?(is (lifted|picked|raised)|stops|comes to)", t)
        for t in texts
    )


def test_image_samples_are_about_the_objects_visible_in_the_frame(samples_by_clip) -> None:
    rng = np.random.default_rng(0)
    for clip, _ in samples_by_clip:
        for frame in (0, 10, 19):
            samples = image_samples(clip, frame, rng)
            boxes = clip.boxes[frame]
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
            shown = {int(i) for i in np.flatnonzero(sides >= MIN_SIDE)}
            rec = [s for s in samples if s.task is Task.REC and not s.answer.no_match]
            found = [s.answer.boxes[0][1] for s in rec]
            named = [(s.box, s.answer.caption) for s in samples if s.task is Task.REG]
            assert all(s.frame == frame for s in samples)
            assert len(found) <= len(named) == len(shown)
            assert {box for box, _ in named} >= set(found)
            for box, caption in named:
                place = (box.x1, box.y1, box.x2, box.y2)
                index = next(i for i in shown if tuple(map(float, boxes[i])) == place)
                assert caption == f"a {clip.objects[index].full_name}"
            phrases = [s.answer.phrases for s in samples if s.task is Task.DGC]
            assert [len(p) for p in phrases] == ([len(shown)] if shown else [])


def test_the_corpus_has_every_word_of_questions_and_answers(samples_by_clip) -> None:
    words = {
        word for text in all_texts() for word in text.replace("?", "").replace(",", "").split()
    }
    for _, samples in samples_by_clip:
        for sample in samples:
            texts = [
                sample.text,
                sample.answer.caption or "",
                *(c for _, c in sample.answer.segments),
            ]
            for text in texts:
                assert set(text.replace("?", "").replace(",", "").split()) <= words
                assert text == text.lower()
