"""How many positions an answer needs, so that a query that leaves too few is rejected in time."""

from __future__ import annotations

from collections.abc import Sequence

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answer_format import format_answer
from llava_st_ros.text.grammar import MAX_SENTENCE_TOKENS
from llava_st_ros.text.prompt import PromptBuilder

# Tokens for the words of an answer, besides its coordinates: one sentence, or several. The grammar
# allows more; a longer answer is cut and reported in its ``problems``.
_WORDS = {
    Task.ELC: MAX_SENTENCE_TOKENS,
    Task.TR: MAX_SENTENCE_TOKENS,
    Task.REG: MAX_SENTENCE_TOKENS,
    Task.DGC: 4 * MAX_SENTENCE_TOKENS,
    Task.DVC: 4 * MAX_SENTENCE_TOKENS,
}
_BOX = Box(0.0, 0.0, 1.0, 1.0)


def answer_room(
    task: Task, times: Sequence[float], prompts: PromptBuilder, config: ModelConfig
) -> int:
    """Return the number of tokens of a complete answer with the longest tube.

    Args:
        task: The task.
        times: The times given in the question, fractions of the window.
        prompts: Tokenizes the answer.
        config: The checkpoint's geometry.
    """
    first, last = 0, config.num_frames - 1
    if task is Task.SVG:
        first, last = (round(value * last) for value in times)
    tube = tuple((time, _BOX) for time in range(first, last + 1))
    answer = {
        Task.STVG: Answer(task, span=(first, last), boxes=tube),
        Task.SVG: Answer(task, boxes=tube),
        Task.ELC: Answer(task, span=(first, last), boxes=tube, caption="it moves"),
        Task.TVG: Answer(task, span=(first, last)),
        Task.REC: Answer(task, boxes=((None, _BOX),)),
    }.get(task)
    words = _WORDS.get(task, 0)
    if answer is None:
        return words
    return words + prompts.answer_length(format_answer(answer, config.coordinates))
