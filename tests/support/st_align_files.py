"""A small ST-Align data set: generated videos and images with records about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.text.answer_format import format_answer
from llava_st_ros.text.tasks import make_question
from llava_st_ros.training.st_align.simulated import window_coordinates
from llava_st_ros.training.st_align.writing import make_record, write_image, write_json, write_video

FRAMES = 12


def moving_square(seed: int) -> np.ndarray:
    """uint8 [12, 32, 40, 3]: a bright square that moves right on a plain background."""
    rng = np.random.default_rng(seed)
    frames = np.full((FRAMES, 32, 40, 3), rng.integers(0, 80, 3), np.uint8)
    top, color = int(rng.integers(0, 20)), rng.integers(120, 255, 3)
    for index, frame in enumerate(frames):
        frame[top : top + 8, 2 * index : 2 * index + 8] = color
    return frames


def video_record(name: str) -> dict[str, Any]:
    """Three turns about a video: STVG, TR and TVG, frames 2 to 4 of 12."""
    coordinates = window_coordinates(FRAMES)
    tube = tuple((t, Box(t / 20, 0.25, t / 20 + 0.2, 0.5)) for t in (2, 3, 4))
    span = (2 / 11, 4 / 11)
    turns = [
        (
            make_question(Task.STVG, "the square"),
            format_answer(Answer(Task.STVG, span=(2, 4), boxes=tube), coordinates),
        ),
        (
            make_question(Task.TR, span=span),
            format_answer(Answer(Task.TR, caption="the square moves"), coordinates),
        ),
        (
            make_question(Task.TVG, "the square moves"),
            format_answer(Answer(Task.TVG, span=(2, 4)), coordinates),
        ),
    ]
    return make_record(name, f"videos/{name}.mp4", Modality.VIDEO, turns)


def image_record(name: str) -> dict[str, Any]:
    """Two turns about an image: REG, whose input is a box, and REC."""
    coordinates = window_coordinates(FRAMES)
    box = Box(0.1, 0.25, 0.3, 0.5)
    turns = [
        (
            make_question(Task.REG, box=box),
            format_answer(Answer(Task.REG, caption="a square"), coordinates),
        ),
        (
            make_question(Task.REC, "the square"),
            format_answer(Answer(Task.REC, boxes=((None, box),)), coordinates),
        ),
    ]
    return make_record(name, f"pictures/{name}.png", Modality.IMAGE, turns)


def write_files(folder: Path, videos: int = 3, pictures: int = 3) -> Path:
    """Write ``videos.json`` and ``pictures.json`` with their media; returns ``folder``."""
    for name in ("videos", "pictures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(videos):
        write_video(folder / f"videos/v{index}.mp4", moving_square(index), 10.0)
    for index in range(pictures):
        write_image(folder / f"pictures/p{index}.png", moving_square(index)[3])
    write_json(folder / "videos.json", [video_record(f"v{i}") for i in range(videos)])
    write_json(folder / "pictures.json", [image_record(f"p{i}") for i in range(pictures)])
    return folder


def change(path: Path, index: int, **values: Any) -> None:
    """Replace fields of the record at ``index`` of a file."""
    records = json.loads(path.read_text(encoding="utf-8"))
    records[index].update(values)
    write_json(path, records)
