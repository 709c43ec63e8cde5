"""``llava-st ask``: one question to a running node, on the newest frames of a camera."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from llava_st_ros.cli.node_arguments import add_node_arguments, connect
from llava_st_ros.cli.outputs import sigterm_interrupts
from llava_st_ros.cli.query_arguments import add_question_arguments, read_question
from llava_st_ros.cli.times import interval_text, time_text
from llava_st_ros.errors import printable_line

HELP = "ask a running node about what its camera sees now"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_question_arguments(parser)
    parser.add_argument(
        "--camera", default="", help="name of the camera (default: that with the newest frame)"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_node_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, and print the answer; Ctrl-C cancels the question."""
    query, _ = read_question(args)
    if query.note:
        print(query.note, file=sys.stderr)
    progress = Progress()
    with sigterm_interrupts(), connect(args, "llava-st ask") as client:
        try:
            answer = client.ask(query, args.camera, progress.update)
        finally:
            progress.clear()
    if args.json:
        print(json.dumps(answer))
    else:
        for line in answer_lines(answer):
            print(printable_line(line))
    return 0


class Progress:
    """The number of tokens so far, on one line of a terminal's stderr; elsewhere nothing."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def update(self, tokens: int) -> None:
        if self._is_shown:
            print(f"\r{tokens} tokens", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def answer_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Describe an answer, as NodeClient.ask returns it, in words."""
    window = interval_text(*answer["window"])
    width, height = answer["image"]
    yield (
        f"camera {answer['camera']}, {window}, {width}x{height} px, "
        f"confidence {answer['confidence']:.2f}"
    )
    for problem in answer["problems"]:
        yield f"not understood: {problem}"
    if answer["no_match"]:
        yield "nothing matches"
        return
    lines = list(_content(answer))
    yield from lines or [answer["text"]]


def _content(answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["caption"]:
        yield answer["caption"]
    if answer["span"]:
        yield f"when: {interval_text(*answer['span'])}"
    if answer["boxes"]:
        last, count = answer["boxes"][-1], len(answer["boxes"])
        others = f", the last of {count} boxes" if count > 1 else ""
        yield f"where: {box_text(last['box'])} at {time_text(last['stamp'])}{others}"
    for phrase in answer["phrases"]:
        yield f"{phrase['text']}: {box_text(phrase['box'])}"
    for segment in answer["segments"]:
        yield f"{interval_text(segment['start'], segment['end'])}: {segment['text']}"


def box_text(box: list[float]) -> str:
    """Corners rounded to pixels: x_min, y_min, x_max, y_max."""
    return f"[{', '.join(f'{value:.0f}' for value in box)}]"
