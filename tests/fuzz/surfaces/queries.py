"""Queries as JSON, as plain words and as ROS messages: what is accepted can be evaluated."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import HOSTILE_VALUES, mutate_bytes, mutate_json
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros import msg
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import Frame, Query, Task
from llava_st_ros.ros.conversions import query_from_msg
from llava_st_ros.text.query_parser import parse_queries
from support.red_box_backend import load_red_box, red_box_image

SECOND = 10**9
EXAMPLES: tuple[dict[str, Any], ...] = (
    {"text": "the red box", "task": "REC", "period": 0.5, "expiry": 30},
    {"id": "a", "text": "the red box moves", "cameras": ["camera"], "period": 1},
    {"id": "b", "task": "TR", "span": [0.25, 0.75]},
    {"id": "c", "task": "ELC", "span": [0.5], "box": [0.1, 0.2, 0.3, 0.4]},
    {"id": "d", "task": "REG", "box": [0.1, 0.2, 0.3, 0.4]},
    {"id": "e", "task": "DVC"},
)
WORDS = ("the red box", "<video>", "<|im_end|>", "\U0001f600", "é", "\u202e", "\ud800", "\0", "x")
FLOATS = (0.0, 5e-324, 1e-9, 0.01, 1.0, 3600.0, 1e300, math.nan, math.inf, -math.inf, -1.0)


class Queries(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        model = load_red_box()
        config = GrounderConfig(stream=StreamConfig(history=0.0), max_new_tokens=8)
        self._grounder = Grounder(model.backend, model.tokenizer, config)
        self._image = red_box_image(10, 10, 20, 20)
        self._now = 1000 * SECOND

    def make(self, rng: np.random.Generator) -> Case:
        kind = int(rng.integers(4))
        example = EXAMPLES[int(rng.integers(len(EXAMPLES)))]
        if kind == 0:
            text, step = mutate_bytes(rng, json.dumps(example).encode())
            return Case(("text", text.decode(errors="replace")), f"JSON, {step}")
        if kind == 1:
            count = int(rng.choice((0, 1, 5, 50, 500, 2500)))
            words = "".join(str(rng.choice(WORDS)) for _ in range(count))
            return Case(("text", words), f"{count} words")
        if kind == 2:
            values, step = mutate_json(rng, example)
            return Case(("text", json.dumps(values)), f"JSON, {step}")
        return self._make_message(rng)

    def _make_message(self, rng: np.random.Generator) -> Case:
        texts = [v for v in HOSTILE_VALUES if isinstance(v, str) and v != "\ud800"]
        numbers = [float(v) for v in rng.choice(FLOATS, 4)]
        values = {
            "id": str(rng.choice(texts)) if rng.integers(3) == 0 else "m",
            "text": str(rng.choice(texts)) if rng.integers(3) == 0 else "the red box",
            "task": str(rng.choice([*(t.value for t in Task), "rec", "", "STVGG", " REC "])),
            "cameras": ["camera"] * int(rng.integers(0, 3)),
            "period": numbers[0],
            "expiry": numbers[1] if rng.integers(2) else 0.0,
            "span": [float(v) for v in rng.choice(FLOATS, int(rng.integers(0, 4)))],
            "box": [float(v) for v in rng.choice((*FLOATS, 0.2, 0.7), int(rng.choice((0, 4, 5))))],
        }
        return Case(("message", values), f"message {values}"[:300])

    def check(self, data: Any) -> None:
        kind, content = data
        if kind == "message":
            message = msg.Query()
            for name, value in content.items():
                setattr(message, name, value)
            queries = (query_from_msg(message, message.id or "q1", 1.0),)
        else:
            queries = parse_queries([content], 1.0)
            if not queries and content.strip():
                raise WrongAcceptanceError("a query was left out and not reported")
        for query in queries:
            _check_values(query)
            self._evaluate(query)

    def _evaluate(self, query: Query) -> None:
        """The query is accepted and answered, and another one beside it too."""
        grounder = self._grounder
        other = Query("other", "the red box", Task.REC, period=0.01)
        grounder.add_query(query)
        try:
            grounder.add_query(other)
            answered = set()
            for _ in range(2):
                self._now += SECOND
                grounder.push(Frame(self._image, self._now, "camera"))
                tick = grounder.tick(self._now)
                answered |= {grounding.query.id for grounding in tick.groundings}
                if failures := getattr(tick, "failures", ()):
                    raise WrongAcceptanceError(f"an accepted query fails: {failures[0]}")
            if "other" not in answered:
                raise WrongAcceptanceError("the query beside it is not answered")
        finally:
            for current in grounder.queries:
                grounder.remove_query(current.id)


def _check_values(query: Query) -> None:
    for name, value in (("period", query.period), ("expiry", query.expiry)):
        if name == "expiry" and value is None:
            continue
        if not (isinstance(value, (int, float)) and 0.01 <= value <= 1e9):
            raise WrongAcceptanceError(f"{name} is {value}")
    if not query.id.strip() or not query.id.isprintable():
        raise WrongAcceptanceError(f"id is {query.id!r}")


SURFACE = Queries
