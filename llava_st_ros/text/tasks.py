"""The tasks and how they are asked: question templates with places for times and boxes.

The templates for which LLaVA-ST was trained are kept to the letter, odd spaces included: a
coordinate input stands as `` {<TEMP-INPUT><TEMP-INPUT>} `` or `` [<WIDTH-INPUT>...]``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

from llava_st_ros.coordinates import CORNERS, Axis
from llava_st_ros.errors import QueryError
from llava_st_ros.records import Box, Query, Task

MAX_QUERY_CHARACTERS = 2000

_TIME = Axis.TIME.input_token
_SPAN = f" {{{_TIME}{_TIME}}} "
_START = f" Starts in {_TIME} "
_BOX = f" [{''.join(axis.input_token for axis in CORNERS)}]"
_WHERE = (
    "Please describe the location of the corresponding subject/object in this video.",
    "Can you identify the position of the corresponding subject/object within this video?",
    "Where is the corresponding subject/object located?",
)
_EACH = "give the spatial bounding box corresponding to each timestamp in the time period."
_STVG = f"Please firstly give the timestamps, and then {_EACH}"
_SVG = f"Please {_EACH}"
_ELC = (
    "Please firstly give the end timestamp, then give the event associated with the "
    f"object/subject, finally {_EACH}"
)
_TVG = "Please return the start and end timestamps."

# "@" stands for the words asked about. A task's second tuple serves words that already are a
# question ("who opens the door?").
_TEMPLATES: dict[Task, tuple[str, ...]] = {
    Task.STVG: tuple(
        f"At which time interval in the video can we see @ occurring? {w}{_STVG}" for w in _WHERE
    ),
    Task.SVG: tuple(
        f"{opener} {_SPAN}, @. {w}{_SVG}"
        for opener, w in zip(("Between", "In the time range", "During the span of"), _WHERE)
    ),
    Task.ELC: (
        f"{_START}, what happened about the subject/object within the specified region {_BOX}? "
        f"{_WHERE[2]}{_ELC}",
        f"{_START}, describe the event about subject/object located within the region {_BOX}. "
        f"{_WHERE[0]}{_ELC}",
    ),
    Task.TVG: (
        "Give you a textual query: '@'. When does the described content occur in the video? "
        f"{_TVG}",
    ),
    Task.TR: (
        f"Describe what took place during the period {_SPAN} in the video.",
        f"What was going on within the time frame of {_SPAN} in the video?",
    ),
    Task.REC: (
        "Where is @ situated within this image?",
        "Where can I find @ in this image?",
        "What part of this image contains @?",
        "Where does @ appear in this image?",
        "Please describe the location of @ in this image.",
        "What is the specific area in this image that represents @?",
    ),
    Task.REG: (
        f"What object can be observed within the region {_BOX} in the image?",
        f"What is the primary object within the region {_BOX}?",
    ),
    Task.DGC: (
        "Can you provide a thorough description of this image? Please output with interleaved "
        "bounding boxes for the corresponding phrases.",
        "Could you give me an elaborate explanation of this picture? Please respond with "
        "interleaved bounding boxes for the corresponding phrases.",
        "Please describe in detail the contents of the image. Please respond with interleaved "
        "bounding boxes for the corresponding parts of the answer.",
    ),
    Task.DVC: (
        "Can you describe the events that happen in this video, one after the other? Please give "
        "the start and end timestamps of each event.",
        "What happens in this video? Please give each event with its start and end timestamps.",
    ),
}
_ASKED: dict[Task, tuple[str, ...]] = {
    Task.STVG: tuple(f"@ {w}{_STVG}" for w in _WHERE),
    Task.SVG: tuple(t.replace("@.", "@") for t in _TEMPLATES[Task.SVG]),
    Task.TVG: (f"@ {_TVG}",),
    Task.REC: ("@",),
}
_NEEDS_SPAN = (Task.SVG, Task.ELC, Task.TR)
_NEEDS_BOX = (Task.ELC, Task.REG)


@dataclass(frozen=True)
class Question:
    """A question in the model's form.

    ``text`` holds the placeholders ``<TEMP-INPUT>``, ``<HEIGHT-INPUT>``, ``<WIDTH-INPUT>``; the
    tuples hold their values in order: times as fractions of the window, heights and widths as
    fractions of the frame, all in [0, 1].
    """

    task: Task
    text: str
    temporal_inputs: tuple[float, ...] = ()
    height_inputs: tuple[float, ...] = ()
    width_inputs: tuple[float, ...] = ()

    @property
    def inputs(self) -> dict[Axis, tuple[float, ...]]:
        """The values of each axis."""
        return dict(zip(Axis, (self.temporal_inputs, self.height_inputs, self.width_inputs)))


def num_templates(task: Task) -> int:
    """How many ways of asking the task has; ``template`` of ``question`` is below it."""
    return len(_TEMPLATES[task])


def make_question(
    task: Task,
    text: str = "",
    *,
    span: tuple[float, float] | None = None,
    box: Box | None = None,
    template: int = 0,
) -> Question:
    """The task's question about ``text``, with ``span`` (fractions of the window) and ``box``.

    Words for a task that needs none (TR, REG, ELC, DGC, DVC) are put before its question. Raises
    QueryError where an input is missing or makes no sense.
    """
    words = plain_words(text)
    if not 0 <= template < num_templates(task):
        raise QueryError(
            f"template {template} of {task.value}; expected one below {num_templates(task)}",
            "lower it",
        )
    form = _TEMPLATES[task][template]
    if "@" in form:
        if not words:
            raise QueryError(
                f"a {task.value} query without words; expected what to look for", "add the words"
            )
        if words.endswith("?"):
            asked = _ASKED[task]
            form = asked[template % len(asked)]
        elif not words.endswith("..."):
            words = words.rstrip(". ") or words
        text = form.replace("@", words)
    else:
        text = f"{words} {form.lstrip()}" if words else form
    times: tuple[float, ...] = ()
    if task in _NEEDS_SPAN:
        times = _checked_span(task, span)[: 1 if task is Task.ELC else 2]
    if task not in _NEEDS_BOX:
        return Question(task, text, times)
    box = _checked_box(task, box)
    return Question(task, text, times, (box.y1, box.y2), (box.x1, box.x2))


def question_from_query(query: Query) -> Question:
    """A user's query as a question: words made harmless, inputs checked.

    Raises QueryError for words missing where the task needs them or longer than
    ``MAX_QUERY_CHARACTERS``, and for a span or box that is missing or outside [0, 1].
    """
    if not isinstance(query.text, str):
        raise QueryError(f"a query's text of type {type(query.text).__name__}; expected str")
    if len(query.text) > MAX_QUERY_CHARACTERS:
        raise QueryError(
            f"a query of {len(query.text)} characters; expected at most {MAX_QUERY_CHARACTERS}",
            "say it in fewer words",
        )
    try:
        task = Task(query.task)
    except ValueError as error:
        names = ", ".join(t.value for t in Task)
        raise QueryError(f"task {query.task!r}; expected one of {names}") from error
    return make_question(task, query.text, span=query.span, box=query.box)


def plain_words(text: str) -> str:
    """Words that hold no structure: one line, no control characters, no special token.

    ``<`` before a letter or ``|`` is followed by a space, so that no special token is spelled;
    control characters become spaces and invisible ones vanish (joiners of scripts stay).
    """
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\N{REPLACEMENT CHARACTER}")
        elif category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category != "Cf" or character in "\u200c\u200d":
            kept.append(character)
    return re.sub(r"<(?=[\w|/])", "< ", " ".join("".join(kept).split()))


def _checked_span(task: Task, span: tuple[float, float] | None) -> tuple[float, float]:
    remedy = "give it as (start, end), fractions of the window"
    if span is None:
        raise QueryError(f"a {task.value} query without a span; expected a span", remedy)
    try:
        start, end = (float(v) for v in span)
    except (TypeError, ValueError) as error:
        raise QueryError(f"span {span!r}; expected two numbers", remedy) from error
    if not (math.isfinite(start) and math.isfinite(end) and 0.0 <= start <= end <= 1.0):
        raise QueryError(f"span ({start}, {end}); expected 0 <= start <= end <= 1", remedy)
    return start, end


def _checked_box(task: Task, box: Box | None) -> Box:
    remedy = "give it as x1, y1, x2, y2, fractions of the frame"
    if box is None:
        raise QueryError(f"a {task.value} query without a box; expected a box", remedy)
    ordered = 0.0 <= box.x1 <= box.x2 <= 1.0 and 0.0 <= box.y1 <= box.y2 <= 1.0
    if not ordered:
        raise QueryError(f"{box}; expected 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1", remedy)
    return box
