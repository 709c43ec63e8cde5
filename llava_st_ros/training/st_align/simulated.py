"""The simulator's clips as ST-Align data: videos, images, and a JSON file of records per subset.

The paper's table of training stages lists 15 subsets of data. Each has a file here:

- nine with coordinates, in the question and answer templates that this package uses everywhere:
  temporal video grounding (TVG), dense video captioning (DVC), temporal referring (TR), referring
  expression comprehension (REC), dense grounded captioning (DGC), region caption (REG),
  spatial-temporal video grounding (STVG), spatial video grounding (SVG), event localization and
  captioning (ELC);
- two that combine several of these in a conversation: temporal grounded (TVG, TR, DVC) and image
  grounded (REC, REG, DGC);
- four without coordinates: video captioning, video QA, classification, conversation. Their content
  is limited to the simulator's events: which, in which order, how many, of which kind.

A clip's JSON file is written after its media, so that an interrupted run resumes after the last
complete clip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.coordinates import CoordinateVocabulary
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.files.json_files import read_json
from llava_st_ros.records import Modality, Task
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.questions import clip_samples
from llava_st_ros.simulation.simulator import SimulatedClip, simulate_clip, split_seed
from llava_st_ros.text.answer_format import FormattedAnswer, format_answer
from llava_st_ros.text.prompt import UserTurn
from llava_st_ros.training.st_align.format import RecordQuestion
from llava_st_ros.training.st_align.writing import make_record, write_image, write_json, write_video

TASK_SUBSETS = {
    Task.TVG: "temporal_video_grounding",
    Task.DVC: "dense_video_captioning",
    Task.TR: "temporal_referring",
    Task.REC: "referring_expression_comprehension",
    Task.DGC: "dense_grounded_captioning",
    Task.REG: "region_caption",
    Task.STVG: "spatial_temporal_video_grounding",
    Task.SVG: "spatial_video_grounding",
    Task.ELC: "event_localization_and_captioning",
}
TEMPORAL_CONVERSATION = "temporal_grounded_conversation"
IMAGE_CONVERSATION = "image_grounded_conversation"
CAPTIONING, VIDEO_QA = "video_captioning", "video_qa"
CLASSIFICATION, CONVERSATION = "classification", "conversation"
_RENDER_AGAIN = "delete it to render the clip again"
SUBSETS = (
    *TASK_SUBSETS.values(),
    TEMPORAL_CONVERSATION,
    IMAGE_CONVERSATION,
    CAPTIONING,
    VIDEO_QA,
    CLASSIFICATION,
    CONVERSATION,
)
MAX_TURNS = 4  # of a conversation that combines tasks
_DESCRIBE = ("Describe this video.", "What happens in this video?", "Please caption the video.")
_NUMBERS = ("nothing", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_Turn = tuple[UserTurn, FormattedAnswer]


@dataclass(frozen=True)
class SimulatedData:
    """Which clips are written, and how.

    Attributes:
        clips: The number of clips.
        split: The simulator's split: "train", "validation" or "test".
        first: The index of the first clip in the split.
        seed: The seed of the choice of questions and wordings.
        num_frames: Frames per clip.
        size: Width and height of a frame in pixels.
    """

    clips: int
    split: str = "train"
    first: int = 0
    seed: int = 0
    num_frames: int = 20
    size: int = 144


def write_simulated(folder: Path, data: SimulatedData, workers: int = 1) -> Iterator[Path]:
    """Write the clips that are missing in ``folder``, then the file of each subset.

    Args:
        folder: The data folder.
        data: The clips to write.
        workers: Processes that render.

    Yields:
        The JSON file of each clip, as soon as it exists.

    Raises:
        ConfigError: The folder holds clips of other settings, or the split has no such clips.
    """
    for index in (data.first, data.first + data.clips - 1):
        split_seed(data.split, index)
    for name in ("videos", "pictures", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "simulated.json", data)
    paths = {index: folder / "clips" / f"{_name(data, index)}.json" for index in range(data.clips)}
    missing = []
    for index, path in paths.items():
        if path.is_file():
            yield path
        else:
            missing.append(index)
    if workers == 1:
        for index in missing:
            yield _write_clip(folder, data, index)
    elif missing:
        # An OpenGL context does not survive a fork.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_write_clip, folder, data, index) for index in missing]
            for future in as_completed(futures):
                yield future.result()
    joined: dict[str, list[Any]] = {subset: [] for subset in SUBSETS}
    for path in paths.values():
        for subset, records in read_json(path, DataError, _RENDER_AGAIN).items():
            if subset not in joined or not isinstance(records, list):
                raise DataError(f"{path} has no list of records {subset[:80]!r}", _RENDER_AGAIN)
            joined[subset] += records
    for subset, records in joined.items():
        write_json(folder / f"{subset}.json", records)


def _check_settings(path: Path, data: SimulatedData) -> None:
    """Reject a folder of other settings; only the number of clips may differ."""
    settings = asdict(data)
    if path.is_file():
        existing = read_json(path, DataError, "choose another folder")
        if {**existing, "clips": data.clips} != settings:
            raise ConfigError(
                f"{path.parent} contains clips made with {existing}, not with {settings}",
                "choose another folder",
            )
    write_json(path, settings)


def _name(data: SimulatedData, index: int) -> str:
    return f"{data.split}-{data.first + index:06d}"


def _write_clip(folder: Path, data: SimulatedData, index: int) -> Path:
    name, seed = _name(data, index), split_seed(data.split, data.first + index)
    clip = simulate_clip(seed, num_frames=data.num_frames, size=data.size)
    fps = (len(clip.frames) - 1) / float(clip.stamps[-1])
    write_video(folder / "videos" / f"{name}.mp4", clip.frames, fps)
    conversations = clip_conversations(clip, np.random.default_rng([data.seed, seed]))
    frames = {c.frame for group in conversations.values() for c in group}
    for frame in frames:
        if frame is not None:
            write_image(folder / _media(name, frame), clip.frames[frame])
    path = folder / "clips" / f"{name}.json"
    records = {
        subset: [
            make_record(
                f"{name}-{subset}-{number}",
                _media(name, conversation.frame),
                conversation.modality,
                conversation.turns,
            )
            for number, conversation in enumerate(group)
        ]
        for subset, group in conversations.items()
    }
    write_json(path, records)
    return path


def _media(name: str, frame: int | None) -> str:
    return f"videos/{name}.mp4" if frame is None else f"pictures/{name}-{frame:03d}.png"


@dataclass(frozen=True)
class ClipConversation:
    """Questions and answers about a clip, or about one of its frames.

    Attributes:
        frame: The index of the frame; None for the clip.
        turns: The questions and their answers.
    """

    frame: int | None
    turns: tuple[_Turn, ...]

    @property
    def modality(self) -> Modality:
        return Modality.VIDEO if self.frame is None else Modality.IMAGE


def clip_conversations(
    clip: SimulatedClip, rng: np.random.Generator
) -> dict[str, list[ClipConversation]]:
    """All conversations about a clip, by subset."""
    coordinates = window_coordinates(len(clip.frames))
    conversations: dict[str, list[ClipConversation]] = defaultdict(list)
    pools: dict[str, list[ClipConversation]] = defaultdict(list)
    sentences: list[str] = []
    for sample in clip_samples(clip, rng):
        if sample.task is Task.DVC:
            sentences = [sentence for _, sentence in sample.answer.segments]
            if not sentences:
                continue
        turn = (sample.question(rng), format_answer(sample.answer, coordinates))
        conversation = ClipConversation(sample.frame, (turn,))
        conversations[TASK_SUBSETS[sample.task]].append(conversation)
        if sample.task.modality is Modality.IMAGE:
            pools[IMAGE_CONVERSATION].append(conversation)
        elif sample.task in (Task.TVG, Task.TR, Task.DVC):
            pools[TEMPORAL_CONVERSATION].append(conversation)
    for subset, pool in pools.items():
        if len(pool) > 1:
            count = int(rng.integers(2, min(MAX_TURNS, len(pool)) + 1))
            chosen = [pool[i] for i in rng.permutation(len(pool))[:count]]
            frame = chosen[0].frame  # a pool is about a single frame, or about the clip
            turns = tuple(turn for conversation in chosen for turn in conversation.turns)
            conversations[subset].append(ClipConversation(frame, turns))
    if sentences:
        for subset, turns in _turns_without_coordinates(clip, sentences, rng).items():
            conversations[subset].append(ClipConversation(None, turns))
    return dict(conversations)


def _turns_without_coordinates(
    clip: SimulatedClip, sentences: Sequence[str], rng: np.random.Generator
) -> dict[str, tuple[_Turn, ...]]:
    """The subsets without coordinates, from a sentence for each of the clip's events."""
    kinds = [kind.value for kind in EventKind]

    def turn(question: str, answer: str) -> _Turn:
        return RecordQuestion(Modality.VIDEO, question), FormattedAnswer(answer, ())

    description = turn(_DESCRIBE[int(rng.integers(len(_DESCRIBE)))], ", then ".join(sentences))
    questions = [
        turn("What happens first in the video?", sentences[0]),
        turn("What happens last in the video?", sentences[-1]),
        turn(
            "How many events happen in the video?",
            _NUMBERS[min(len(sentences), len(_NUMBERS) - 1)],
        ),
    ]
    questions = [questions[i] for i in rng.permutation(len(questions))]
    first = f"Which of these is the first event in the video: {', '.join(kinds)}?"
    return {
        CAPTIONING: (description,),
        VIDEO_QA: (questions[0],),
        CLASSIFICATION: (turn(first, clip.events[0].kind.value),),
        CONVERSATION: (description, *questions[1:]),
    }


def window_coordinates(num_frames: int) -> CoordinateVocabulary:
    """A vocabulary with one time row per frame, so that a frame is an exact fraction."""
    return CoordinateVocabulary(text_rows=0, time_rows=num_frames, space_rows=100)
