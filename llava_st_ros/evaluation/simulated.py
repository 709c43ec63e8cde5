"""Evaluation on simulated clips, through the Grounder as on a robot.

Every clip is pushed into the Grounder frame by frame, so the metrics cover the complete path:
sampling, encoding, packing, prompt, grammar, decoding and parsing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.clip_window import ClipWindow
from llava_st_ros.evaluation.results import Case
from llava_st_ros.evaluation.scoring import CATEGORIES, category, score
from llava_st_ros.evaluation.simulator_import import requires_simulator
from llava_st_ros.records import Answer, Query

if TYPE_CHECKING:
    from llava_st_ros.simulation.clip_store import ClipStore
    from llava_st_ros.simulation.questions import Sample
    from llava_st_ros.simulation.simulator import SimulatedClip
    from llava_st_ros.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ClipQuestion:
    """A query about a clip, with its ground truth.

    Attributes:
        frame: Index of the image that the query is about; None if it is about the video.
        expected: The ground truth.
        attributes: Words that a correct ELC caption contains.
    """

    query: Query
    frame: int | None
    expected: Answer
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClipQuestions:
    """A clip's frames, RGB uint8 [F, S, S, 3], and the questions about it."""

    index: int
    frames: np.ndarray
    questions: tuple[ClipQuestion, ...]


class BlindBackend:
    """A backend that sees only black frames: the baseline of what the text alone can answer."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        size = backend.describe().model.image_size
        self._black = backend.encode_frame(np.zeros((size, size, 3), np.uint8))

    def encode_frame(self, image: np.ndarray) -> Any:
        return self._black

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def simulated_questions(
    split: str,
    clips: range,
    config: ModelConfig,
    *,
    categories: Sequence[str] = CATEGORIES,
    store: Path | None = None,
) -> Iterator[ClipQuestions]:
    """Return clips of a simulated split, each with one question per category that it offers.

    Which question is chosen depends only on the clip's seed and the category, so a run over more
    clips or categories contains the questions of a run over fewer.

    Args:
        split: Name of the split ("test", "validation", ...).
        clips: Indices of the clips.
        config: The model's number of frames and image size, at which clips are rendered.
        categories: The categories of questions (``scoring.CATEGORIES``).
        store: Folder that keeps rendered clips for later runs; None renders every time.

    Raises:
        DataError: The simulator cannot be imported.
        BackendError: The simulator has no OpenGL.
        ConfigError: The split is unknown.
    """
    with requires_simulator():
        from llava_st_ros.simulation.simulator import SPLITS, split_seed
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} does not exist; expected one of {', '.join(SPLITS)}")

    def generate() -> Iterator[ClipQuestions]:
        for index, clip in zip(clips, _rendered(split, clips, config, store)):
            yield clip_questions(clip, index, split_seed(split, index), categories)

    return generate()


def clip_questions(
    clip: SimulatedClip, index: int, seed: int, categories: Sequence[str] = CATEGORIES
) -> ClipQuestions:
    """Return a clip with one question per category that it offers.

    Args:
        clip: The clip.
        index: Its number, for the ids of the queries.
        seed: With the category, determines the question.
        categories: The categories of questions (``scoring.CATEGORIES``).
    """
    from llava_st_ros.simulation.questions import clip_samples

    samples = clip_samples(clip, np.random.default_rng(seed))
    by_category = (
        [sample for sample in samples if category(sample.answer) == name] for name in categories
    )
    questions = tuple(_choose(offered, index, seed) for offered in by_category if offered)
    return ClipQuestions(index, clip.frames, questions)


def _choose(samples: Sequence[Sample], clip: int, seed: int) -> ClipQuestion:
    sample = samples[int(np.random.default_rng([seed, 1]).integers(len(samples)))]
    name = f"{clip}-{category(sample.answer)}"
    query = Query(name, sample.text, sample.task, span=sample.span, box=sample.box)
    return ClipQuestion(query, sample.frame, sample.answer, sample.attributes)


def _rendered(
    split: str, clips: range, config: ModelConfig, store: Path | None
) -> Iterator[SimulatedClip]:
    from llava_st_ros.simulation.simulator import simulate_clip, split_seed

    frames, size = config.num_frames, config.image_size
    if store is None:
        for index in clips:
            yield simulate_clip(split_seed(split, index), num_frames=frames, size=size)
        return
    stored = render_split(split, clips.stop, config, store)
    yield from (stored[index] for index in clips)


def render_split(split: str, clips: int, config: ModelConfig, store: Path) -> ClipStore:
    """Render clips 0..clips-1 of a split (at least) at the model's number of frames and size.

    Clips that are already in ``store`` are not rendered again.
    """
    from llava_st_ros.simulation.clip_store import SHARD_CLIPS, ClipStore, render_shards
    from llava_st_ros.simulation.version import SIMULATOR_VERSION

    frames, size = config.num_frames, config.image_size
    rounded = -(-clips // SHARD_CLIPS) * SHARD_CLIPS  # later runs need complete shards
    folder = store / f"{split}-{frames}x{size}-v{SIMULATOR_VERSION}"
    for _ in render_shards(folder, split, rounded, num_frames=frames, size=size, workers=2):
        pass
    return ClipStore(folder)


class SimulatedEvaluation:
    """Asks questions about clips and scores the answers.

    Attributes:
        cases: Every question so far, scored, in order.
        answers: Every question so far with its answer, in order.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        self._window = ClipWindow(backend, tokenizer)
        self.cases: list[Case] = []
        self.answers: list[tuple[ClipQuestion, Answer]] = []

    def run(self, clip: ClipQuestions) -> list[Case]:
        """Ask the clip's questions; return their cases and add them to ``cases``."""
        cases: list[Case] = []
        self._window.load(clip.frames)
        for question in clip.questions:
            answer = self._window.ask(question.query, question.frame).answer
            cases.append(_case(clip, question, answer))
            self.answers.append((question, answer))
        self.cases += cases
        return cases


def _case(clip: ClipQuestions, question: ClipQuestion, answer: Answer) -> Case:
    return Case(
        id=question.query.id,
        source=f"clip {clip.index}",
        task=category(question.expected),
        query=question.query.text,
        values=score(answer, question.expected, question.attributes),
        problems=tuple(answer.problems),
    )
