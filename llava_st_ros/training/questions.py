"""Questions and exact answers about simulated clips, for every task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.training.simulator import SimulatedClip, SimulatedEvent
from llava_st_ros.training.wording import (
    all_texts,
    caption,
    event_texts,
    object_texts,
    phrase,
    predicates,
    sentence,
)

__all__ = ["Sample", "all_texts", "clip_samples", "image_samples"]

MIN_SIDE = 0.03  # of the picture: objects that show less are not asked about


@dataclass(frozen=True)
class Sample:
    """A question and its true answer.

    ``text`` is the query without the task's template, empty where the task needs none. ``span``
    holds the input of SVG, TR and ELC (its start twice) as fractions of the window: frame k of F
    is k/(F-1). ``box`` is the input of ELC and REG. ``frame`` is the picture of an image task, None
    for a video. ``answer`` counts in frames (= time tokens) and has unrounded boxes. ``tube`` is
    what shows an answer of times without boxes to be right: its subject meanwhile.
    """

    task: Task
    text: str
    span: tuple[float, float] | None
    box: Box | None
    frame: int | None
    answer: Answer
    tube: tuple[tuple[int, Box], ...] = ()


def clip_samples(clip: SimulatedClip, rng: np.random.Generator) -> list[Sample]:
    """Every question that the clip supports, and those about one of its frames."""
    samples = []
    for event in clip.events:
        samples += _event_samples(clip, event, rng)
    segments = tuple((e.span, sentence(e, clip.objects)) for e in clip.events)
    samples.append(Sample(Task.DVC, "", None, None, None, Answer(Task.DVC, segments=segments)))
    return samples + image_samples(clip, int(rng.integers(len(clip.frames))), rng)


def image_samples(clip: SimulatedClip, frame: int, rng: np.random.Generator) -> list[Sample]:
    """REC and REG for every object that shows well in a frame, and DGC of all of them."""
    boxes = {}
    for index, values in enumerate(clip.boxes[frame]):
        box = _box(values)
        if box is not None and min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE:
            boxes[index] = box
    visible = [int(i) for i in np.flatnonzero(clip.visible[frame])]
    samples = []
    for index, box in boxes.items():
        text = _choose(rng, object_texts(index, clip.objects, visible))
        found = Answer(Task.REC, boxes=((None, box),))
        named = Answer(Task.REG, caption=phrase(clip.objects[index]))
        samples.append(Sample(Task.REC, text, None, None, frame, found))
        samples.append(Sample(Task.REG, "", None, box, frame, named))
    if boxes:
        order = sorted(boxes, key=lambda i: boxes[i].x1 + boxes[i].x2)
        items = [clip.objects[i] for i in order]
        phrases = tuple((phrase(clip.objects[i]), boxes[i]) for i in order)
        described = Answer(Task.DGC, caption=caption(items), phrases=phrases)
        samples.append(Sample(Task.DGC, "", None, None, frame, described))
    return samples


def _event_samples(
    clip: SimulatedClip, event: SimulatedEvent, rng: np.random.Generator
) -> list[Sample]:
    tube = tuple(
        (frame, Box(*(float(v) for v in clip.boxes[frame, event.subject])))
        for frame in range(event.span[0], event.span[1] + 1)
    )
    said, last = sentence(event, clip.objects), len(clip.frames) - 1
    span = (event.span[0] / last, event.span[1] / last)

    def text() -> str:
        return _choose(rng, event_texts(event, clip.objects, clip.events))

    def statement() -> str:
        name = clip.objects[event.subject].name
        return f"the {name} {_choose(rng, predicates(event, clip.objects))}"

    return [
        Sample(Task.STVG, text(), None, None, None, Answer(Task.STVG, span=event.span, boxes=tube)),
        Sample(Task.SVG, text(), span, None, None, Answer(Task.SVG, span=event.span, boxes=tube)),
        Sample(
            Task.TVG, statement(), None, None, None, Answer(Task.TVG, span=event.span), tube=tube
        ),
        Sample(Task.TR, "", span, None, None, Answer(Task.TR, caption=said)),
        Sample(
            Task.ELC,
            "",
            (span[0], span[0]),
            tube[0][1],
            None,
            Answer(Task.ELC, span=event.span, caption=said, boxes=tube),
        ),
    ]


def _box(values: np.ndarray) -> Box | None:
    if np.isnan(values[0]):
        return None
    return Box(*(float(v) for v in values))


def _choose(rng: np.random.Generator, texts: list[str] | tuple[str, ...]) -> str:
    return texts[int(rng.integers(len(texts)))]
