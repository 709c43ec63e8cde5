"""Tokenizers, geometries and hypothesis strategies for the tests of text and decoding."""

from __future__ import annotations

from functools import lru_cache

from hypothesis import strategies as st

from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig, VisionConfig
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answer_format import FIXED_WORDS, NO_MATCH_TASKS
from llava_st_ros.text.tasks import make_question, num_templates
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer

HALF = Box(0.25, 0.25, 0.75, 0.75)
TABLES = (20, 100)  # rows of the temporal table; the spatial tables have 100


@lru_cache
def tokenizer(num_temporal: int = 20) -> Tokenizer:
    questions = [
        make_question(task, "the red ball", span=(0.0, 1.0), box=HALF, template=number).text
        for task in Task
        for number in range(num_templates(task))
    ]
    answers = list(FIXED_WORDS)
    chat = ["system\nYou are a helpful assistant.", "\n", "user\n", "assistant\n"]
    return train_tokenizer((questions + answers + chat) * 4, 600, num_temporal, 100)


@lru_cache
def config(num_temporal: int = 20, num_frames: int | None = None) -> ModelConfig:
    """144 px in patches of 16, with a minimal network."""
    own = tokenizer(num_temporal)
    return ModelConfig(
        image_size=144,
        patch_size=16,
        vision=VisionConfig(8, 8, 1, 1),
        language=LanguageConfig(8, 8, 1, 1, 1, vocab_size=own.vocab_size),
        packer=PackerConfig(8, 1),
        special_tokens=own.special,
        num_temporal_tokens=num_temporal,
        num_spatial_tokens=100,
        num_frames=num_temporal if num_frames is None else num_frames,
        compat="paper",
        end_token_ids=(own.chat_end,),
    )


@st.composite
def boxes(draw: st.DrawFn, rows: int = 100) -> Box:
    """A box whose corners are rows of the table."""
    row = st.integers(0, rows - 1)
    x1, x2 = sorted((draw(row), draw(row)))
    y1, y2 = sorted((draw(row), draw(row)))
    last = rows - 1
    return Box(x1 / last, y1 / last, x2 / last, y2 / last)


def spans(frames: int) -> st.SearchStrategy[tuple[int, int]]:
    time = st.integers(0, frames - 1)
    return st.tuples(time, time).map(lambda pair: (min(pair), max(pair)))


_WORD = st.text("abcdefgzABCéß球0123'-", min_size=1, max_size=6).filter(
    lambda word: any(c.isalnum() for c in word)
)
sentences = st.lists(_WORD, min_size=1, max_size=6).map(" ".join)


@st.composite
def answers(draw: st.DrawFn, task: Task, frames: int) -> Answer:
    """A valid, complete answer of the task."""
    if task in NO_MATCH_TASKS and draw(st.integers(0, 9)) == 0:
        return Answer(task, no_match=True)
    if task is Task.REC:
        return Answer(task, boxes=((None, draw(boxes())),))
    if task in (Task.TR, Task.REG):
        return Answer(task, caption=draw(sentences))
    if task is Task.TVG:
        return Answer(task, span=draw(spans(frames)))
    if task is Task.DGC:
        phrases = draw(st.lists(st.tuples(sentences, boxes()), min_size=1, max_size=4))
        caption = " ".join(phrase for phrase, _ in phrases)
        return Answer(task, phrases=tuple(phrases), caption=caption)
    if task is Task.DVC:
        segment = st.tuples(spans(frames), sentences)
        return Answer(task, segments=tuple(draw(st.lists(segment, min_size=1, max_size=4))))
    first, last = draw(spans(frames))
    last = min(last, first + 6)
    tube = tuple((time, draw(boxes())) for time in range(first, last + 1))
    caption = draw(sentences) if task is Task.ELC else None
    return Answer(task, span=(first, last), boxes=tube, caption=caption)
