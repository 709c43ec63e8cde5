"""Evaluation on the simulator's clips: questions put to the Grounder as a robot would put them.

Every clip is streamed into the Grounder as a camera's frames, so what is measured is the whole
path: sampling, encoding, packing, prompt, grammar, decoding, parsing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig, ModelConfig, StreamConfig
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.evaluation.scoring import SUBJECTS, Values, score, subject
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Answer, Frame, Query

if TYPE_CHECKING:
    from llava_st_ros.simulation.clip_store import ClipStore
    from llava_st_ros.simulation.questions import Sample
    from llava_st_ros.simulation.simulator import SimulatedClip
    from llava_st_ros.text.tokenizer import Tokenizer

CAMERA = "simulated"


@dataclass(frozen=True)
class Case:
    """One question about one clip. ``frame`` is the image asked about, None for the video;
    ``attributes`` are the words that a right caption holds."""

    query: Query
    frame: int | None
    truth: Answer
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClipCases:
    """A clip's frames, RGB uint8 [F, S, S, 3], and the questions about it."""

    index: int
    frames: np.ndarray
    cases: tuple[Case, ...]


class BlindBackend:
    """A backend that sees black wherever it looks: what language and habit alone can answer."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        size = backend.describe().model.image_size
        self._black = backend.encode_frame(np.zeros((size, size, 3), np.uint8))

    def encode_frame(self, image: np.ndarray) -> Any:
        return self._black

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def simulated_cases(
    split: str,
    clips: range,
    config: ModelConfig,
    *,
    subjects: Sequence[str] = SUBJECTS,
    store: Path | None = None,
) -> Iterator[ClipCases]:
    """Those clips of a split, each with one question of every subject that it offers.

    The choice among a clip's questions depends on the clip's seed and the subject alone, so a
    longer run holds a shorter one, and one of more subjects one of fewer. ``store`` keeps rendered
    clips for the next run. Raises DataError where the simulator cannot be imported, BackendError
    where it has no OpenGL, ConfigError on an unknown split.
    """
    try:
        from llava_st_ros.simulation.questions import clip_samples
        from llava_st_ros.simulation.simulator import SPLITS, split_seed
    except ImportError as error:
        raise DataError(
            f"the simulator does not load ({error}); expected MuJoCo with EGL or OSMesa",
            "pip install mujoco, or evaluate on a bag or video",
        ) from error
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}; expected one of {', '.join(SPLITS)}")

    def questions() -> Iterator[ClipCases]:
        for index, clip in zip(clips, _rendered(split, clips, config, store)):
            seed = split_seed(split, index)
            samples = clip_samples(clip, np.random.default_rng(seed))
            by_subject = [[s for s in samples if subject(s.answer) == name] for name in subjects]
            cases = [_chosen(offered, index, seed) for offered in by_subject]
            yield ClipCases(index, clip.frames, tuple(case for case in cases if case is not None))

    return questions()


def _chosen(samples: Sequence[Sample], clip: int, seed: int) -> Case | None:
    if not samples:
        return None
    sample = samples[int(np.random.default_rng([seed, 1]).integers(len(samples)))]
    name = f"{clip}-{subject(sample.answer)}"
    query = Query(name, sample.text, sample.task, span=sample.span, box=sample.box)
    return Case(query, sample.frame, sample.answer, sample.attributes)


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
    """Clips 0..clips-1 of a split at least, at the model's frames and size; what ``store`` holds
    already is not rendered again."""
    from llava_st_ros.simulation.clip_store import SHARD_CLIPS, ClipStore, render_shards

    frames, size = config.num_frames, config.image_size
    whole = -(-clips // SHARD_CLIPS) * SHARD_CLIPS  # a stored shard must serve any later run
    folder = store / f"{split}-{frames}x{size}-{_simulator_version()}"
    for _ in render_shards(folder, split, whole, num_frames=frames, size=size, workers=2):
        pass
    return ClipStore(folder)


def _simulator_version() -> str:
    """A hash of the simulator's sources: clips of another version are other clips."""
    folder = Path(__file__).resolve().parents[1] / "simulation"
    # What is said about a clip and where it is kept do not change it.
    beside = (
        *("bag_writer", "clip_store"),
        *("descriptions", "negatives", "object_tubes", "placing", "questions", "wording"),
    )
    sources = [path for path in sorted(folder.glob("*.py")) if path.stem not in beside]
    text = b"".join(path.read_bytes() for path in sources)
    return hashlib.sha256(text).hexdigest()[:8]


class SimulatedEvaluation:
    """Asks and scores; collects per-case values by subject in ``scores``."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer, *, window_seconds: float = 6.0):
        stream = StreamConfig(window_seconds=window_seconds)
        self._grounder = Grounder(backend, tokenizer, GrounderConfig(stream=stream))
        frames = backend.describe().model.num_frames
        # The clip's frames lie on the window's own grid, so that it picks every one of them.
        step = round(window_seconds * NANOSECONDS / max(1, frames - 1))
        self._stamps = [(i + 1) * step for i in range(frames)]
        self.scores: dict[str, list[Values]] = {}
        self.answers: list[tuple[Case, Answer]] = []

    def run(self, clip: ClipCases) -> dict[str, list[Values]]:
        """Put the clip's questions; their values by subject, which ``scores`` gains too."""
        found: dict[str, list[Values]] = {}
        self._grounder.reset()
        for stamp, image in zip(self._stamps, clip.frames):
            self._grounder.push(Frame(image, stamp, CAMERA, CAMERA))
        for case in clip.cases:
            now = self._stamps[-1 if case.frame is None else case.frame]
            grounding = self._grounder.ask(case.query, camera=CAMERA, now=now)
            seen = list(grounding.window)
            if seen != ([now] if case.frame is not None else self._stamps):
                raise AssertionError(f"{case.query.id}: the window held {seen}")
            values = score(grounding.answer, case.truth, case.attributes)
            found.setdefault(subject(case.truth), []).append(values)
            self.scores.setdefault(subject(case.truth), []).append(values)
            self.answers.append((case, grounding.answer))
        return found
