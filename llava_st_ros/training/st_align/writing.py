"""Questions and answers as records of ST-Align's files (st_align), with their media as files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from llava_st_ros.atomic_files import atomic_file, write_text
from llava_st_ros.coordinates import COORDINATE, Axis
from llava_st_ros.errors import DataError
from llava_st_ros.records import Modality
from llava_st_ros.text.answer_format import FormattedAnswer
from llava_st_ros.text.tasks import Question
from llava_st_ros.training.st_align.format import HUMAN, MODEL, TAGS, VARIABLES

DIGITS = 6  # of a value


def record(
    identity: str,
    media: str,
    modality: Modality,
    turns: Sequence[tuple[Question, FormattedAnswer]],
) -> dict[str, Any]:
    """What ``st_align.parse`` reads back. Times of questions and answers are fractions of the
    window: answers must be formatted with as many time rows as the window has frames."""
    variables: dict[str, list[float]] = {key: [] for key in VARIABLES.values()}
    conversations = []
    for asked, answer in turns:
        tag = "" if conversations else f"{TAGS[modality]}\n"
        conversations.append({"from": HUMAN, "value": tag + asked.text})
        conversations.append({"from": MODEL, "value": COORDINATE.sub(_placeholder, answer.text)})
        for axis, values in asked.inputs.items():
            variables[VARIABLES[axis.input_token]] += [round(v, DIGITS) for v in values]
        for match, value in zip(COORDINATE.finditer(answer.text), answer.values):
            variables[VARIABLES[_placeholder(match)]].append(round(value, DIGITS))
    return {
        "id": identity,
        modality.value: media,
        "conversations": conversations,
        "variables": variables,
    }


def _placeholder(token: re.Match[str]) -> str:
    return Axis.of_kind(token[1]).output_token


def write_json(path: Path, value: Any) -> None:
    """``value`` on one line."""
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


def write_picture(path: Path, image: np.ndarray) -> None:
    """RGB uint8 [H, W, 3] as a PNG, without loss."""
    whole, data = cv2.imencode(".png", image[..., ::-1])
    assert whole
    with atomic_file(path) as part:
        part.write_bytes(data.tobytes())


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """RGB uint8 [F, H, W, 3] as an MP4. Raises DataError where OpenCV can't write one."""
    size = (frames.shape[2], frames.shape[1])
    with atomic_file(path) as part:
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
        if not writer.isOpened():
            raise DataError(f"{path}, which OpenCV can't write; expected an MP4 encoder and room")
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
