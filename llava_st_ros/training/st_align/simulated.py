"""The simulator's clips as ST-Align data: videos, pictures, and a JSON of records a task.

The paper's data (its table of training stages) has 15 tasks, and each has a file here:

- nine with coordinates, asked and answered as everywhere in this package: temporal video
  grounding (TVG), dense video captioning (DVC), temporal referring (TR), referring expression
  comprehension (REC), dense grounded captioning (DGC), region caption (REG), spatial-temporal video
  grounding (STVG), spatial video grounding (SVG), event localization and captioning (ELC);
- two conversations of these: temporal grounded (TVG, TR, DVC) and image grounded (REC, REG, DGC);
- four of words alone: video captioning, video QA, classification, conversation. What the simulator
  can say in them is narrow: its events and their order, their number, their kind.

A clip's records are written last, so that a run that was killed goes on after its last whole clip.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.coordinates import CoordinateVocabulary
from llava_st_ros.errors import ConfigError
from llava_st_ros.records import Answer, Modality, Task
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.questions import clip_samples
from llava_st_ros.simulation.simulator import SimulatedClip, simulate_clip, split_seed
from llava_st_ros.text.answer_format import FormattedAnswer, format_answer
from llava_st_ros.text.tasks import Question
from llava_st_ros.training.st_align.writing import record, write_json, write_picture, write_video

FAMILIES = {
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
TEMPORAL_TALK, IMAGE_TALK = "temporal_grounded_conversation", "image_grounded_conversation"
CAPTIONING, VIDEO_QA = "video_captioning", "video_qa"
CLASSIFICATION, TALK = "classification", "conversation"
ALL_FAMILIES = (
    *FAMILIES.values(),
    *(TEMPORAL_TALK, IMAGE_TALK, CAPTIONING, VIDEO_QA, CLASSIFICATION, TALK),
)
MOST_TURNS = 4
_DESCRIBE = ("Describe this video.", "What happens in this video?", "Please caption the video.")
_COUNT = ("nothing", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_Turn = tuple[Question, FormattedAnswer]


@dataclass(frozen=True)
class SimulatedData:
    """What is written: clips ``first`` to ``first + clips - 1`` of a split, ``num_frames`` frames
    of ``size`` px each; ``seed`` chooses among questions and wordings."""

    clips: int
    split: str = "train"
    first: int = 0
    seed: int = 0
    num_frames: int = 20
    size: int = 144


def write_simulated(folder: Path, data: SimulatedData, workers: int = 1) -> Iterator[Path]:
    """Write what is not there yet; yields the list of records of each clip as it is ready, and
    writes the tasks' files once all are.

    Raises ConfigError where the folder holds other clips.
    """
    for name in ("videos", "pictures", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _check_same(folder / "simulated.json", data)
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
        # Spawned, not forked: a GL context does not survive a fork.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_write_clip, folder, data, index) for index in missing]
            for future in as_completed(futures):
                yield future.result()
    joined: dict[str, list[Any]] = {family: [] for family in ALL_FAMILIES}
    for path in paths.values():
        for family, records in json.loads(path.read_text(encoding="utf-8")).items():
            joined[family] += records
    for family, records in joined.items():
        write_json(folder / f"{family}.json", records)


def _check_same(path: Path, data: SimulatedData) -> None:
    """More clips may be asked for than last time, but not others."""
    wanted = asdict(data)
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if {**there, "clips": data.clips} != wanted:
            raise ConfigError(
                f"{path.parent} with clips of {there}; expected {wanted}", "name another folder"
            )
    write_json(path, wanted)


def _name(data: SimulatedData, index: int) -> str:
    return f"{data.split}-{data.first + index:06d}"


def _write_clip(folder: Path, data: SimulatedData, index: int) -> Path:
    name, seed = _name(data, index), split_seed(data.split, data.first + index)
    clip = simulate_clip(seed, num_frames=data.num_frames, size=data.size)
    fps = (len(clip.frames) - 1) / float(clip.stamps[-1])
    write_video(folder / "videos" / f"{name}.mp4", clip.frames, fps)
    talks = clip_talks(clip, np.random.default_rng([data.seed, seed]))
    for frame in {talk.frame for some in talks.values() for talk in some} - {None}:
        write_picture(folder / _media(name, frame), clip.frames[frame])
    path = folder / "clips" / f"{name}.json"
    records = {
        family: [
            record(
                f"{name}-{family}-{number}",
                _media(name, talk.frame),
                talk.frame is not None,
                talk.turns,
            )
            for number, talk in enumerate(some)
        ]
        for family, some in talks.items()
    }
    write_json(path, records)
    return path


def _media(name: str, frame: int | None) -> str:
    return f"videos/{name}.mp4" if frame is None else f"pictures/{name}-{frame:03d}.png"


@dataclass(frozen=True)
class Talk:
    """Turns about a picture (``frame``) or, where that is None, about the clip."""

    frame: int | None
    turns: tuple[_Turn, ...]


def clip_talks(clip: SimulatedClip, rng: np.random.Generator) -> dict[str, list[Talk]]:
    """Everything to be said about a clip, by family."""
    coordinates = window_coordinates(len(clip.frames))
    talks: dict[str, list[Talk]] = defaultdict(list)
    pools: dict[str, list[Talk]] = defaultdict(list)
    said: list[str] = []
    for sample in clip_samples(clip, rng):
        if sample.task is Task.DVC:
            said = [sentence for _, sentence in sample.answer.segments]
            if not said:
                continue
        turn = (sample.question(rng), format_answer(sample.answer, coordinates))
        talk = Talk(sample.frame, (turn,))
        talks[FAMILIES[sample.task]].append(talk)
        if sample.task.modality is Modality.IMAGE:
            pools[IMAGE_TALK].append(talk)
        elif sample.task in (Task.TVG, Task.TR, Task.DVC):
            pools[TEMPORAL_TALK].append(talk)
    for family, pool in pools.items():
        if len(pool) > 1:
            count = int(rng.integers(2, min(MOST_TURNS, len(pool)) + 1))
            chosen = [pool[i] for i in rng.permutation(len(pool))[:count]]
            frame = chosen[0].frame  # all of a pool are about the same picture
            talks[family].append(Talk(frame, tuple(t for talk in chosen for t in talk.turns)))
    if said:
        for family, turns in _words(clip, said, coordinates, rng).items():
            talks[family].append(Talk(None, turns))
    return dict(talks)


def _words(
    clip: SimulatedClip,
    said: Sequence[str],
    coordinates: CoordinateVocabulary,
    rng: np.random.Generator,
) -> dict[str, tuple[_Turn, ...]]:
    """The families without coordinates, from the sentences ``said`` about the clip's events."""
    kinds = [kind.value for kind in EventKind]

    def turn(asked: str, answer: str) -> _Turn:
        return Question(Task.TR, asked), format_answer(Answer(Task.TR, caption=answer), coordinates)

    described = turn(_DESCRIBE[int(rng.integers(len(_DESCRIBE)))], ", then ".join(said))
    asked = [
        turn("What happens first in the video?", said[0]),
        turn("What happens last in the video?", said[-1]),
        turn("How many events happen in the video?", _COUNT[min(len(said), len(_COUNT) - 1)]),
    ]
    asked = [asked[i] for i in rng.permutation(len(asked))]
    first = f"Which of these is the first event in the video: {', '.join(kinds)}?"
    return {
        CAPTIONING: (described,),
        VIDEO_QA: (asked[0],),
        CLASSIFICATION: (turn(first, clip.events[0].kind.value),),
        TALK: (described, *asked[1:]),
    }


def window_coordinates(num_frames: int) -> CoordinateVocabulary:
    """As many time rows as the window has frames, so that answers hold exact fractions of it."""
    return CoordinateVocabulary(text_rows=0, time_rows=num_frames, space_rows=100)
