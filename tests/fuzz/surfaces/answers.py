"""Answers of a model, as token ids and as text: any sequence parses to values in range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.coordinates import Axis
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answer_format import NO_MATCH_TEXT
from llava_st_ros.text.answers import format_answer, parse
from llava_st_ros.text.tokenizer import train_tokenizer
from support.stream_config import stream_config

WORDS = (
    "During the span of { }",
    "Object bounding box:",
    ", . : ; ( ) [ ]",
    "ends in",
    "and to - –",
    NO_MATCH_TEXT,
    "the red box",
    "\n\t  ",
    "\U0001f600é\0",
)


class Answers(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tokenizer = train_tokenizer(WORDS, 400, 20, 100)
        self._config = stream_config(self._tokenizer)
        boxes = tuple((t, Box(0.1, 0.2, 0.3, 0.4)) for t in range(2, 6))
        self._formatted = [
            format_answer(answer, self._config.coordinates).text
            for answer in (
                Answer(Task.STVG, span=(2, 5), boxes=boxes),
                Answer(Task.REC, boxes=((None, boxes[0][1]),)),
                Answer(Task.ELC, span=(2, 5), boxes=boxes, caption="the red box"),
                Answer(Task.DVC, segments=(((2, 5), "the red box"), ((7, 9), "and to"))),
                Answer(Task.DGC, phrases=(("the red box", boxes[0][1]),), caption="the red box"),
                Answer(Task.TVG, span=(2, 5)),
            )
        ]

    def make(self, rng: np.random.Generator) -> Case:
        task = list(Task)[int(rng.integers(len(Task)))]
        kind = int(rng.integers(3))
        if kind == 0:
            ids = rng.integers(0, self._config.vocabulary, int(rng.integers(0, 120))).tolist()
            return Case((task, ids), f"{task.value}, {len(ids)} random ids")
        if kind == 1:
            ids = self._tokenizer.encode(str(rng.choice(self._formatted)))
            for _ in range(int(rng.integers(1, 5))):
                place = int(rng.integers(len(ids)))
                ids[place : place + int(rng.integers(0, 3))] = rng.integers(
                    0, self._config.vocabulary, int(rng.integers(0, 3))
                ).tolist()
                ids = ids or [0]
            return Case((task, ids), f"{task.value}, changed ids")
        parts = [self._piece(rng) for _ in range(int(rng.integers(0, 60)))]
        return Case((task, "".join(parts)), f"{task.value}, {len(parts)} pieces of text")

    def _piece(self, rng: np.random.Generator) -> str:
        if rng.integers(2):
            return str(rng.choice(WORDS))
        if rng.integers(4) == 0:
            text = str(rng.choice(self._formatted))
            return text[: int(rng.integers(len(text) + 1))]
        axis = list(Axis)[int(rng.integers(3))]
        return axis.token(int(rng.integers(20 if axis is Axis.TIME else 100)))

    def check(self, data: Any) -> None:
        task, content = data
        answer = parse(content, task, self._config, self._tokenizer)
        frames = self._config.num_frames
        spans = [span for span in (answer.span, *(s for s, _ in answer.segments)) if span]
        for first, last in spans:
            _require(0 <= first <= last < frames, f"span {first}, {last}")
        times = [time for time, _ in answer.boxes]
        if None not in times:
            _require(times == sorted(set(times)), f"times {times}")
            _require(all(0 <= time < frames for time in times), f"times {times}")
        for box in [box for _, box in (*answer.boxes, *answer.phrases)]:
            _require(0 <= box.x1 <= box.x2 <= 1 and 0 <= box.y1 <= box.y2 <= 1, f"box {box}")
        has_content = answer.span or answer.boxes or answer.segments or answer.phrases
        _require(
            bool(has_content or answer.caption or answer.no_match or answer.problems),
            "an answer without content has no problem",
        )


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise WrongAcceptanceError(problem)


SURFACE = Answers
