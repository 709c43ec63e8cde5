"""Questions about simulated clips: whole, unambiguous, and true to the clip."""

from __future__ import annotations

import numpy as np
import pytest
from language_cases import config

from llava_st_ros.language.answers import format_answer, parse
from llava_st_ros.language.tasks import question
from llava_st_ros.records import Task
from llava_st_ros.training.questions import MIN_SIDE, Sample, clip_samples, image_samples
from llava_st_ros.training.scenes import SimulatedObject
from llava_st_ros.training.simulator import SimulatedClip, simulate_clip, split_seed
from llava_st_ros.training.wording import (
    all_texts,
    event_texts,
    object_texts,
    predicates,
    sentence,
)


@pytest.fixture(scope="module")
def asked() -> list[tuple[SimulatedClip, list[Sample]]]:
    clips = [simulate_clip(split_seed("validation", index)) for index in range(20)]
    return [(clip, clip_samples(clip, np.random.default_rng(clip.seed))) for clip in clips]


def test_every_task_is_asked(asked) -> None:
    assert {sample.task for _, samples in asked for sample in samples} == set(Task)
    for clip, samples in asked:
        for task in (Task.STVG, Task.SVG, Task.TVG, Task.TR, Task.ELC):
            assert sum(s.task is task for s in samples) == len(clip.events)
        assert sum(s.task is Task.DVC for s in samples) == 1


def test_the_same_generator_asks_the_same(asked) -> None:
    for clip, samples in asked[:5]:
        assert clip_samples(clip, np.random.default_rng(clip.seed)) == samples


def test_questions_and_answers_go_through_the_language(asked) -> None:
    for _, samples in asked:
        for sample in samples:
            question(sample.task, sample.text, span=sample.span, box=sample.box)
            read = parse(format_answer(sample.answer, config()).text, sample.task, config())
            assert not read.problems
            assert read.span == sample.answer.span or sample.task is Task.TR
            assert [t for t, _ in read.boxes] == [t for t, _ in sample.answer.boxes]
            assert read.segments == sample.answer.segments


def test_video_answers_are_the_events_spans_and_the_subjects_boxes(asked) -> None:
    for clip, samples in asked:
        spans = {event.span: event for event in clip.events}
        for sample in samples:
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
                assert sample.answer.caption == sentence(event, clip.objects)


def test_a_wording_means_one_event_only(asked) -> None:
    for clip, _ in asked:
        texts = [set(event_texts(e, clip.objects, clip.events)) for e in clip.events]
        if len(texts) == 2:
            assert not texts[0] & texts[1]
        for event, wordings in zip(clip.events, texts):
            said = predicates(event, clip.objects)
            assert all(any(p in text for p in said) for text in wordings)


def test_names_mean_one_visible_object() -> None:
    ball = SimulatedObject("red", "ball", "small", 0.05)
    other = SimulatedObject("blue", "ball", "large", 0.07)
    box = SimulatedObject("red", "box", "small", 0.05)
    objects = (ball, other, box)
    assert set(object_texts(0, objects, [0, 1, 2])) == {
        "the red ball",
        "the small red ball",
        "the small ball",
    }
    assert "the ball" in object_texts(0, objects, [0, 2])
    assert "the red object" in object_texts(0, objects, [0, 1])


def test_image_samples_are_about_what_shows_in_the_frame(asked) -> None:
    rng = np.random.default_rng(0)
    for clip, _ in asked:
        for frame in (0, 10, 19):
            samples = image_samples(clip, frame, rng)
            boxes = clip.boxes[frame]
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
            shown = {int(i) for i in np.flatnonzero(sides >= MIN_SIDE)}
            found = [s.answer.boxes[0][1] for s in samples if s.task is Task.REC]
            named = [(s.box, s.answer.caption) for s in samples if s.task is Task.REG]
            assert all(s.frame == frame for s in samples)
            assert len(found) == len(named) == len(shown)
            for box, caption in named:
                place = (box.x1, box.y1, box.x2, box.y2)
                index = next(i for i in shown if tuple(map(float, boxes[i])) == place)
                assert caption == f"a {clip.objects[index].full_name}"
            phrases = [s.answer.phrases for s in samples if s.task is Task.DGC]
            assert [len(p) for p in phrases] == ([len(shown)] if shown else [])


def test_the_corpus_holds_every_word_that_is_asked_or_answered(asked) -> None:
    words = {
        word for text in all_texts() for word in text.replace("?", "").replace(",", "").split()
    }
    for _, samples in asked:
        for sample in samples:
            texts = [
                sample.text,
                sample.answer.caption or "",
                *(c for _, c in sample.answer.segments),
            ]
            for text in texts:
                assert set(text.replace("?", "").replace(",", "").split()) <= words
                assert text == text.lower()
