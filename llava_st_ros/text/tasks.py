"""The question templates of the tasks, with placeholders for times and boxes.

The templates are those LLaVA-ST was trained with, to the letter, unusual spaces included: a span
is `` {<TEMP-INPUT><TEMP-INPUT>} `` and a box is `` [<WIDTH-INPUT>...]``.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from llava_st_ros.coordinates import CORNERS, Axis
from llava_st_ros.errors import QueryError
from llava_st_ros.records import Box, Modality, Query, Task

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

# "@" is replaced by the words of the query.
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
# For words that are a question themselves ("who opens the door?").
_QUESTION_TEMPLATES: dict[Task, tuple[str, ...]] = {
    Task.STVG: tuple(f"@ {w}{_STVG}" for w in _WHERE),
    Task.SVG: tuple(t.replace("@.", "@") for t in _TEMPLATES[Task.SVG]),
    Task.TVG: (f"@ {_TVG}",),
    Task.REC: ("@",),
}


@dataclass(frozen=True)
class Question:
    """A question as the model expects it.

    Attributes:
        task: The task that it asks for.
        text: The question with its placeholders ``<TEMP-INPUT>``, ``<HEIGHT-INPUT>`` and
            ``<WIDTH-INPUT>``.
        temporal_inputs: Values of the ``<TEMP-INPUT>`` placeholders in order, fractions of the
            window in [0, 1].
        height_inputs: Values of the ``<HEIGHT-INPUT>`` placeholders in order, fractions of the
            frame's height in [0, 1].
        width_inputs: Values of the ``<WIDTH-INPUT>`` placeholders in order, fractions of the
            frame's width in [0, 1].
    """

    task: Task
    text: str
    temporal_inputs: tuple[float, ...] = ()
    height_inputs: tuple[float, ...] = ()
    width_inputs: tuple[float, ...] = ()

    @property
    def modality(self) -> Modality:
        """The visual input that the question is about."""
        return self.task.modality

    @property
    def inputs(self) -> dict[Axis, tuple[float, ...]]:
        """The placeholder values by axis."""
        return dict(zip(Axis, (self.temporal_inputs, self.height_inputs, self.width_inputs)))


def num_templates(task: Task) -> int:
    """Return the number of question templates of a task."""
    return len(_TEMPLATES[task])


def make_question(
    task: Task,
    text: str = "",
    *,
    span: tuple[float, float] | None = None,
    box: Box | None = None,
    template: int = 0,
) -> Question:
    """Return the question of a query with these values; see ``question_from_query``."""
    return question_from_query(Query("", text, task, span=span, box=box), template)


def question_from_query(query: Query, template: int = 0) -> Question:
    """Fill in a question template of the query's task.

    TR, REG, ELC, DGC and DVC need no words; if there are any, they precede the question.

    Args:
        query: The query; its words are sanitized with ``plain_words``.
        template: Which template to use, below ``num_templates(query.task)``.

    Raises:
        QueryError: The words, the span or the box that the task needs are missing, or there is no
            such template.
    """
    task, span, box = query.task, query.span, query.box
    if not 0 <= template < num_templates(task):
        raise QueryError(
            f"there is no template {template} of {task.value}; "
            f"expected a number below {num_templates(task)}"
        )
    text = _fill(task, plain_words(query.text), template)
    times: tuple[float, ...] = ()
    if task.uses_span:
        if span is None:
            raise QueryError(
                f"the {task.value} query has no span; expected "
                f"{'its start' if task is Task.ELC else 'start and end'} as fractions of the window"
            )
        times = span[: 1 if task is Task.ELC else 2]
    if not task.uses_box:
        return Question(task, text, times)
    if box is None:
        raise QueryError(
            f"the {task.value} query has no box; expected x1, y1, x2, y2 as fractions of the frame"
        )
    return Question(task, text, times, (box.y1, box.y2), (box.x1, box.x2))


def _fill(task: Task, words: str, template: int) -> str:
    form = _TEMPLATES[task][template]
    if "@" not in form:
        return f"{words} {form.lstrip()}" if words else form
    if not words:
        raise QueryError(f"the {task.value} query has no text; expected what to look for")
    if words.endswith("?"):
        forms = _QUESTION_TEMPLATES[task]
        form = forms[template % len(forms)]
    elif not words.endswith("..."):
        words = words.rstrip(". ") or words
    return form.replace("@", words)


def plain_words(text: str) -> str:
    """Return a text on one line, without control characters and special tokens.

    Control characters become spaces, invisible format characters are removed (except the zero-width
    joiners that some scripts need), and a space follows every ``<`` that could begin a special
    token.
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
