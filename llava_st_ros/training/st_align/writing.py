"""Writing questions and answers as ST-Align records, and their images and videos as files."""

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
from llava_st_ros.text.prompt import UserTurn
from llava_st_ros.training.st_align.format import HUMAN, MODEL, TAGS, VARIABLES

DIGITS = 6  # decimals of a coordinate


def make_record(
    identity: str,
    media: str,
    modality: Modality,
    turns: Sequence[tuple[UserTurn, FormattedAnswer]],
) -> dict[str, Any]:
    """A record as ``format.parse`` reads it.

    Args:
        identity: The record's ``id``.
        media: The path of the image or video.
        modality: Which of the two it is.
        turns: Questions and answers. Times are fractions of the window in both: the answers must
            be formatted with as many rows of time as the window has frames.
    """
    variables: dict[str, list[float]] = {key: [] for key in VARIABLES.values()}
    conversations: list[dict[str, str]] = []
    for question, answer in turns:
        tag = "" if conversations else f"{TAGS[modality]}\n"
        conversations.append({"from": HUMAN, "value": tag + question.text})
        conversations.append({"from": MODEL, "value": COORDINATE.sub(_placeholder, answer.text)})
        for axis, values in question.inputs.items():
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
    """Write ``value`` as JSON on one line."""
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image, uint8 [H, W, 3], as a PNG."""
    encoded, data = cv2.imencode(".png", image[..., ::-1])
    assert encoded
    with atomic_file(path) as part:
        part.write_bytes(data.tobytes())


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write RGB frames, uint8 [F, H, W, 3], as an MP4.

    Raises:
        DataError: OpenCV cannot write it.
    """
    size = (frames.shape[2], frames.shape[1])
    with atomic_file(path) as part:
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(part), fourcc, fps, size)
        if not writer.isOpened():
            raise DataError(
                f"OpenCV cannot write {path}",
                "install an OpenCV with an MP4 encoder, or free disk space",
            )
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
