"""Questions about simulated clips with exact answers, for every task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.simulation.negatives import (
    absent_event,
    absent_name_text,
    absent_object_text,
    described_object,
)
from llava_st_ros.simulation.phrasing import (
    all_texts,
    caption_attributes,
    event_sentence,
    event_text,
    object_phrase,
    object_text,
    objects_caption,
)
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent
from llava_st_ros.simulation.spatial_relations import VisibleObjects
from llava_st_ros.text.tasks import Question, make_question, num_templates

__all__ = ["Sample", "all_texts", "clip_samples", "image_samples"]

EVENT_TASKS = (Task.STVG, Task.SVG, Task.TVG)  # the tasks that a text about an event answers
MIN_SIDE = 0.03  # of the image: smaller objects have no image questions


@dataclass(frozen=True)
class Sample:
    """A question and its correct answer.

    Attributes:
        task: The task.
        text: The query without the task's template; empty where the task needs no text.
        span: Input of SVG, TR and ELC (its start twice) as fractions of the window: frame k of F is
            k / (F - 1).
        box: Input of ELC and REG.
        frame: The frame that an image task is about, None for a video.
        answer: The answer in frames (= time tokens), with unrounded boxes.
        tube: The evidence for an answer that has times but no boxes: boxes of its subject by frame.
        attributes: The words that a correct caption of an event contains.
        subject: Boxes of the described object by frame, in all frames in which it is visible: what
            must be looked at to decide whether anything matches. Empty if there is no such object.
    """

    task: Task
    text: str
    span: tuple[float, float] | None
    box: Box | None
    frame: int | None
    answer: Answer
    tube: tuple[tuple[int, Box], ...] = ()
    attributes: tuple[str, ...] = ()
    subject: tuple[tuple[int, Box], ...] = ()

    def question(self, rng: np.random.Generator) -> Question:
        """Return the question in a randomly chosen template of its task."""
        return make_question(
            self.task,
            self.text,
            span=self.span,
            box=self.box,
            template=int(rng.integers(num_templates(self.task))),
        )


def clip_samples(clip: SimulatedClip, rng: np.random.Generator) -> list[Sample]:
    """Return the questions about a clip.

    These are the questions that its events support, no-match questions, and those of
    ``image_samples`` about a random frame.
    """
    samples = []
    for event in clip.events:
        samples += event_samples(clip, event, rng)
    if clip.events:
        segments = tuple((e.span, event_sentence(e, clip.objects)) for e in clip.events)
        samples.append(Sample(Task.DVC, "", None, None, None, Answer(Task.DVC, segments=segments)))
    samples += _no_match_samples(clip, rng)
    return samples + image_samples(clip, int(rng.integers(len(clip.frames))), rng)


def image_samples(clip: SimulatedClip, frame: int, rng: np.random.Generator) -> list[Sample]:
    """Return the questions about a frame.

    These are REC and REG for each object that is large enough, DGC of all these objects, and a
    no-match REC.
    """
    boxes = {}
    for index, values in enumerate(clip.boxes[frame]):
        box = _box(values)
        if box is not None and min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE:
            boxes[index] = box
    visible = VisibleObjects.from_boxes(clip.objects, clip.boxes[frame])
    samples = []
    for index, box in boxes.items():
        text = object_text(index, visible, rng)
        if text is not None:
            rec_answer = Answer(Task.REC, boxes=((None, box),))
            subject = ((frame, box),)
            samples.append(Sample(Task.REC, text, None, None, frame, rec_answer, subject=subject))
        reg_answer = Answer(Task.REG, caption=object_phrase(clip.objects[index]))
        samples.append(Sample(Task.REG, "", None, box, frame, reg_answer))
    if boxes:
        order = sorted(boxes, key=lambda i: boxes[i].x1 + boxes[i].x2)
        items = [clip.objects[i] for i in order]
        phrases = tuple((object_phrase(clip.objects[i]), boxes[i]) for i in order)
        dgc_answer = Answer(Task.DGC, caption=objects_caption(items), phrases=phrases)
        samples.append(Sample(Task.DGC, "", None, None, frame, dgc_answer))
    absent = absent_object_text(visible, rng)
    if absent is not None:
        no_match = Answer(Task.REC, no_match=True)
        samples.append(Sample(Task.REC, absent, None, None, frame, no_match))
    return samples


def visible_boxes(clip: SimulatedClip, index: int) -> tuple[tuple[int, Box], ...]:
    """Return an object's boxes by frame, in the frames in which it is visible."""
    frames = np.flatnonzero(clip.is_visible[:, index])
    return tuple((int(f), Box(*(float(v) for v in clip.boxes[f, index]))) for f in frames)


def event_samples(
    clip: SimulatedClip, event: SimulatedEvent, rng: np.random.Generator
) -> list[Sample]:
    """Return the questions about an event of the clip."""
    tube = _tube(clip, event)
    sentence, last = event_sentence(event, clip.objects), len(clip.frames) - 1
    span = (event.span[0] / last, event.span[1] / last)
    attributes = caption_attributes(event, clip.objects)
    elc_answer = Answer(Task.ELC, span=event.span, caption=sentence, boxes=tube)
    start = (span[0], span[0])
    samples = [
        Sample(
            Task.TR, "", span, None, None, Answer(Task.TR, caption=sentence), attributes=attributes
        ),
        Sample(Task.ELC, "", start, tube[0][1], None, elc_answer, attributes=attributes),
    ]
    # Each task samples its own text. Some events have no text that matches them alone.
    for task in EVENT_TASKS:
        text = event_text(clip, event, rng)
        if text is not None:
            samples.append(event_sample(clip, event, task, text))
    return samples


def event_sample(clip: SimulatedClip, event: SimulatedEvent, task: Task, text: str) -> Sample:
    """Return the question of one of ``EVENT_TASKS`` about an event that ``text`` describes."""
    tube, last = _tube(clip, event), len(clip.frames) - 1
    span = (event.span[0] / last, event.span[1] / last) if task is Task.SVG else None
    boxes = () if task is Task.TVG else tube
    return Sample(
        task,
        text,
        span,
        None,
        None,
        Answer(task, span=event.span, boxes=boxes),
        tube=tube if task is Task.TVG else (),
        subject=visible_boxes(clip, event.subject),
    )


def _tube(clip: SimulatedClip, event: SimulatedEvent) -> tuple[tuple[int, Box], ...]:
    first, last = event.span
    return tuple(
        (frame, Box(*(float(v) for v in clip.boxes[frame, event.subject])))
        for frame in range(first, last + 1)
    )


def _no_match_samples(clip: SimulatedClip, rng: np.random.Generator) -> list[Sample]:
    """Return an STVG, a TVG and an SVG question without a match.

    They are about events that do not happen; SVG is sometimes about an object that does not exist.
    """
    samples = []
    for task in (Task.STVG, Task.TVG, Task.SVG):
        by_name = task is Task.SVG and rng.random() < 0.3
        text, subject = absent_name_text(clip.objects, rng) if by_name else None, None
        found = None if by_name else absent_event(clip, rng)
        if found is not None:
            text, subject = found[0], described_object(found[1], clip.objects)
        if text is not None:
            samples.append(no_match_sample(clip, task, text, subject, rng))
    return samples


def no_match_sample(
    clip: SimulatedClip, task: Task, text: str, subject: int | None, rng: np.random.Generator
) -> Sample:
    """Return a question of one of ``EVENT_TASKS`` without a match.

    Args:
        clip: The clip.
        task: The task.
        text: The text.
        subject: The object that the text describes, None if there is no such object.
        rng: The random generator.
    """
    span = some_span(clip, rng) if task is Task.SVG else None
    boxes = () if subject is None else visible_boxes(clip, subject)
    return Sample(task, text, span, None, None, Answer(task, no_match=True), subject=boxes)


def some_span(clip: SimulatedClip, rng: np.random.Generator) -> tuple[float, float]:
    """Sample the span of a question without a match, as fractions of the clip.

    It is that of an actual event, as in questions that have an answer, or any if there is none.
    """
    last = len(clip.frames) - 1
    if clip.events:
        first, end = clip.events[int(rng.integers(len(clip.events)))].span
    else:
        first, end = sorted(int(f) for f in rng.choice(last + 1, 2, replace=False))
    return first / last, end / last


def _box(values: np.ndarray) -> Box | None:
    if np.isnan(values[0]):
        return None
    return Box(*(float(v) for v in values))
