"""VidOR's annotation files, which have the boxes of VidSTG: one file for each video.

A file, ``training/GROUP/VIDEO.json`` or ``validation/GROUP/VIDEO.json``::

    {"video_id": "5159741010", "video_path": "1002/5159741010.mp4", "frame_count": 219,
     "fps": 29.97, "width": 1920, "height": 1080,
     "subject/objects": [{"tid": 0, "category": "bicycle"}, ...],
     "trajectories": [[{"tid": 0, "bbox": {"xmin": 672, "ymin": 560, "xmax": 781, "ymax": 693},
                        "generated": 0, "tracker": "none"}, ...], ...]}

``trajectories`` has a list for each frame. Source: xdshang.github.io/docs/vidor.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, shown
from llava_st_ros.evaluation.benchmarks import fields
from llava_st_ros.evaluation.benchmarks.folders import FolderIndex
from llava_st_ros.evaluation.benchmarks.samples import ReadingLog
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.limits import RECORDS_BYTES
from llava_st_ros.records import Box

CACHED = 16  # files: the records of a video follow one another


@dataclass(frozen=True)
class VidorVideo:
    """The annotations of a video.

    Attributes:
        path: The video's path below the folder of videos.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        frames: Its number of frames.
        trajectories: The boxes of each frame, as in the file.
    """

    path: str
    width: int
    height: int
    frames: int
    trajectories: list[Any]

    def tube(
        self, target: int, span: tuple[int, int], log: ReadingLog, place: str
    ) -> dict[int, Box]:
        """Return an object's box in each frame of a span (end excluded) that has one.

        Raises:
            DataError: A box is not valid, or the object has none in the span.
        """
        tube: dict[int, Box] = {}
        size = (self.width, self.height)
        for frame in range(span[0], min(span[1], len(self.trajectories))):
            name = f"VidOR's trajectories[{frame}]"
            for entry in fields.listed(self.trajectories[frame], name):
                box = fields.mapping(entry, name)
                if box.get("tid") != target:
                    continue
                if frame in tube:
                    raise DataError(f"{name} has two boxes of object {target}")
                tube[frame] = fields.box_of_edges(box.get("bbox"), name, size, log, place)
        if not tube:
            raise DataError(
                f"VidOR has no box of object {target} in frames {span[0]}..{span[1] - 1}"
            )
        return tube


class VidorFolder:
    """VidOR's annotations below a folder.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._index = folder, FolderIndex(folder)
        self.video = lru_cache(CACHED)(self._video)

    def _video(self, name: str) -> VidorVideo:
        """Return a video's annotations. Raises DataError if there is no valid file."""
        path = self._index.find((f"{name}.json",))
        if path is None:
            raise DataError(
                f"no {name}.json below {self._folder}",
                "the validation split's boxes are in VidOR's training annotations, the test "
                "split's in its validation annotations",
            )
        record = read_json(path, DataError, nan=True, max_bytes=RECORDS_BYTES)
        try:
            return _parse(record, name)
        except DataError as error:
            raise DataError(f"{path}: {error.problem}", error.remedy) from error


def _parse(record: Mapping[str, Any], name: str) -> VidorVideo:
    if record.get("video_id") != name:
        raise DataError(f"video_id is {shown(record.get('video_id'))}; expected {name!r}")
    trajectories = fields.listed(fields.member(record, "trajectories"), "trajectories")
    return VidorVideo(
        fields.media_path(fields.member(record, "video_path"), "video_path"),
        fields.side(fields.member(record, "width"), "width"),
        fields.side(fields.member(record, "height"), "height"),
        fields.integer(fields.member(record, "frame_count"), "frame_count", 1),
        trajectories,
    )
