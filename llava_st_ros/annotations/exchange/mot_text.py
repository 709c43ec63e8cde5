"""MOTChallenge text, the ground truth of trackers: a line for each box.

    frame, id, left, top, width, height, considered, class, visibility[, unused]

Frames count from 1. A row with 0 in column 7 is ignored by the evaluation. Lengths are pixels;
corners are kept as written, as by TrackEval, CVAT and Datumaro, although the benchmark's first
pixel is 1. What a class of column 8 is differs between data sets: class 3 has the label "class 3".
"""

from __future__ import annotations

from pathlib import Path

from llava_st_ros.annotations.exchange.number_texts import number_text, parse_number
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.exchange.tracks import (
    NO_LABEL,
    Converted,
    TrackReader,
    TrackWriter,
    width_and_height,
)
from llava_st_ros.annotations.records import AnnotatedCamera, GroundTruth
from llava_st_ros.errors import DataError
from llava_st_ros.files.limits import JSON_BYTES
from llava_st_ros.files.raw import read_text

REMEDY = "expected lines of MOTChallenge: frame,id,left,top,width,height,considered,class,..."
MIN_COLUMNS, MAX_COLUMNS = 7, 10
MAX_INTEGER = 999_999_999  # of a frame or id


def read_mot_text(
    path: Path, camera: AnnotatedCamera, frames: RecordedFrames, first_frame: int = 1
) -> GroundTruth:
    """Read the ground truth of a sequence.

    Args:
        path: The file, ``gt.txt``.
        camera: The camera of its boxes.
        frames: The frames of the camera's topic.
        first_frame: The number of the first frame; 0 in files of some tools.

    Raises:
        DataError: The file cannot be read, or a line is not a box of a track; the error names it.
    """
    reader = TrackReader(str(path), camera, frames)
    text = read_text(path, DataError, REMEDY, max_bytes=JSON_BYTES)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            _add_line(line, f"line {number}", reader, first_frame)
    return reader.ground_truth()


def mot_text(ground_truth: GroundTruth, topic: str, frames: RecordedFrames) -> Converted:
    """Write the objects of a topic as ground truth of MOTChallenge, with 10 columns.

    Every box is considered and of class 1, the one that the benchmark's scorers evaluate; the
    labels are counted as left out.

    Raises:
        KeyError: The topic is not annotated.
    """
    writer = TrackWriter(ground_truth, topic, frames)
    rows = []
    for track in writer.tracks:
        if track.label != NO_LABEL:
            writer.notes.add("labels, left out: every box has class 1", f"track {track.number}")
        for box in track.boxes:
            if not box.keyframe:
                writer.notes.add("marks of interpolated boxes, left out")
            width, height = width_and_height(box.corners)
            lengths = map(number_text, (*box.corners[:2], width, height))
            row = ",".join((str(box.frame + 1), str(track.number), *lengths, "1,1,1,-1"))
            rows.append((box.frame, track.number, row))
    text = "".join(f"{row}\n" for _, _, row in sorted(rows))
    return writer.converted(text)


def _add_line(line: str, place: str, reader: TrackReader, first_frame: int) -> None:
    cells = [cell.strip() for cell in line.split(",")]
    where = f"{reader.name}: {place}"
    if not MIN_COLUMNS <= len(cells) <= MAX_COLUMNS:
        raise DataError(
            f"{where} has {len(cells)} columns; expected {MIN_COLUMNS} to {MAX_COLUMNS}", REMEDY
        )
    values = [
        parse_number(cell, f"{where}, column {i}", REMEDY) for i, cell in enumerate(cells, start=1)
    ]
    frame, track = (_integer(values[i], f"{where}, column {i + 1}") for i in (0, 1))
    if frame < first_frame:
        raise DataError(
            f"{where}: frame is {frame}; frames of MOTChallenge count from 1",
            "name the first frame with --first-frame 0 if those of this file count from 0",
        )
    if values[6] == 0:
        reader.notes.add("rows that column 7 marks as ignored, left out", place)
        return
    if track < 0:
        raise DataError(f"{where}: id is {track}; expected a track, not a detection", REMEDY)
    x, y, width, height = values[2:6]
    if width < 0 or height < 0:
        raise DataError(f"{where}: the box is {width:g} wide and {height:g} high")
    reader.add_track(str(track), _label(values), place)
    reader.add_box(str(track), frame - first_frame, (x, y, x + width, y + height), place)


def _label(values: list[float]) -> str:
    # With 10 columns, as in MOT15, the last three are a place in the world.
    if len(values) not in (8, 9) or values[7] == 1 or values[7] < 0:
        return NO_LABEL
    return f"class {values[7]:g}"


def _integer(value: float, where: str) -> int:
    if value != int(value) or abs(value) > MAX_INTEGER:
        raise DataError(f"{where} is {value:g}; expected an integer", REMEDY)
    return int(value)
