"""Questions and exact answers about simulated clips, for every task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.simulation.negatives import (
    absent_event_text,
    absent_name_text,
    absent_object_text,
)
from llava_st_ros.simulation.phrasing import (
    all_texts,
    caption,
    event_sentence,
    event_text,
    object_phrase,
    object_text,
    required_words,
)
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent
from llava_st_ros.simulation.spatial_relations import VisibleObjects
from llava_st_ros.text.tasks import Question, make_question, num_templates

__all__ = ["Sample", "all_texts", "clip_samples", "image_samples"]

MIN_SIDE = 0.03  # of the picture: objects that show less are not asked about


@dataclass(frozen=True)
class Sample:
    """A question and its true answer.

    ``text`` is the query without the task's template, empty where the task needs none. ``span``
    holds the input of SVG, TR and ELC (its start twice) as fractions of the window: frame k of F
    is k/(F-1). ``box`` is the input of ELC and REG. ``frame`` is the picture of an image task, None
    for a video. ``answer`` counts in frames (= time tokens) and has unrounded boxes. ``tube`` is
    what shows an answer of times without boxes to be right: its subject meanwhile. ``attributes``
    are the words that a right caption of an event must hold.
    """

    task: Task
    text: str
    span: tuple[float, float] | None
    box: Box | None
    frame: int | None
    answer: Answer
    tube: tuple[tuple[int, Box], ...] = ()
    attributes: tuple[str, ...] = ()

    def question(self, rng: np.random.Generator) -> Question:
        """The question in one of the ways in which its task is asked."""
        return make_question(
            self.task,
            self.text,
            span=self.span,
            box=self.box,
            template=int(rng.integers(num_templates(self.task))),
        )


def clip_samples(clip: SimulatedClip, rng: np.random.Generator) -> list[Sample]:
    """The questions that the clip supports, some that nothing in it answers, and those about one
    of its frames."""
    samples = []
    for event in clip.events:
        samples += _event_samples(clip, event, rng)
    segments = tuple((e.span, event_sentence(e, clip.objects)) for e in clip.events)
    samples.append(Sample(Task.DVC, "", None, None, None, Answer(Task.DVC, segments=segments)))
    samples += _no_match_samples(clip, rng)
    return samples + image_samples(clip, int(rng.integers(len(clip.frames))), rng)


def image_samples(clip: SimulatedClip, frame: int, rng: np.random.Generator) -> list[Sample]:
    """REC and REG for the objects that show well in a frame, DGC of all of them, and a REC for an
    object that is not there."""
    boxes = {}
    for index, values in enumerate(clip.boxes[frame]):
        box = _box(values)
        if box is not None and min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE:
            boxes[index] = box
    scenery = VisibleObjects.of(clip.objects, clip.boxes[frame])
    samples = []
    for index, box in boxes.items():
        text = object_text(index, scenery, rng)
        if text is not None:
            found = Answer(Task.REC, boxes=((None, box),))
            samples.append(Sample(Task.REC, text, None, None, frame, found))
        named = Answer(Task.REG, caption=object_phrase(clip.objects[index]))
        samples.append(Sample(Task.REG, "", None, box, frame, named))
    if boxes:
        order = sorted(boxes, key=lambda i: boxes[i].x1 + boxes[i].x2)
        items = [clip.objects[i] for i in order]
        phrases = tuple((object_phrase(clip.objects[i]), boxes[i]) for i in order)
        described = Answer(Task.DGC, caption=caption(items), phrases=phrases)
        samples.append(Sample(Task.DGC, "", None, None, frame, described))
    absent = absent_object_text(scenery, rng)
    if absent is not None:
        nothing = Answer(Task.REC, no_match=True)
        samples.append(Sample(Task.REC, absent, None, None, frame, nothing))
    return samples


def _event_samples(
    clip: SimulatedClip, event: SimulatedEvent, rng: np.random.Generator
) -> list[Sample]:
    tube = tuple(
        (frame, Box(*(float(v) for v in clip.boxes[frame, event.subject])))
        for frame in range(event.span[0], event.span[1] + 1)
    )
    said, last = event_sentence(event, clip.objects), len(clip.frames) - 1
    span = (event.span[0] / last, event.span[1] / last)
    right = required_words(event, clip.objects)
    told = Answer(Task.ELC, span=event.span, caption=said, boxes=tube)
    start = (span[0], span[0])
    samples = [
        Sample(Task.TR, "", span, None, None, Answer(Task.TR, caption=said), attributes=right),
        Sample(Task.ELC, "", start, tube[0][1], None, told, attributes=right),
    ]
    # Each in words of its own; some events have none that mean them alone.
    answers: dict[Task, tuple[tuple[float, float] | None, Answer]] = {
        Task.STVG: (None, Answer(Task.STVG, span=event.span, boxes=tube)),
        Task.SVG: (span, Answer(Task.SVG, span=event.span, boxes=tube)),
        Task.TVG: (None, Answer(Task.TVG, span=event.span)),
    }
    for task, (given, answer) in answers.items():
        text = event_text(clip, event, rng)
        if text is not None:
            shown = tube if task is Task.TVG else ()
            samples.append(Sample(task, text, given, None, None, answer, tube=shown))
    return samples


def _no_match_samples(clip: SimulatedClip, rng: np.random.Generator) -> list[Sample]:
    """A STVG, a TVG and a SVG question about what does not happen; that of SVG may be about what
    is not there, whatever happens."""
    samples = []
    last = len(clip.frames) - 1
    for task in (Task.STVG, Task.TVG, Task.SVG):
        by_name = task is Task.SVG and rng.random() < 0.3
        text = absent_name_text(clip.objects, rng) if by_name else absent_event_text(clip, rng)
        if text is None:
            continue
        span = None
        if task is Task.SVG:
            # The span of what does happen, as in questions that have an answer.
            event = clip.events[int(rng.integers(len(clip.events)))]
            span = (event.span[0] / last, event.span[1] / last)
        samples.append(Sample(task, text, span, None, None, Answer(task, no_match=True)))
    return samples


def _box(values: np.ndarray) -> Box | None:
    if np.isnan(values[0]):
        return None
    return Box(*(float(v) for v in values))
