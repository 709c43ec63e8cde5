"""RefCOCO, RefCOCO+ and RefCOCOg as JSON, in LLaVA-ST's form or that of COCO.

LLaVA-ST's form has an entry in ``images`` for each expression, paired with an entry in
``annotations`` by position; their ids agree::

    {"images": [{"id": 7, "file_name": "COCO_train2014_000000000072.jpg", "width": 428,
                 "height": 640, "caption": "the left giraffe"}, ...],
     "annotations": [{"id": 7, "bbox": [x, y, w, h]}, ...]}

In COCO's form the expression is in the annotation, as ``caption``, and ``image_id`` names its
image.

The original ``refs(unc).p`` is a pickle, which can run code when it is read, so it is not.

Source: inference/src/datasets.py of github.com/appletea233/LLaVA-ST; github.com/lichengunc/refer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, shown
from llava_st_ros.evaluation.benchmarks import fields
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkFile,
    BenchmarkQuery,
    ReadingLog,
    RegionTruth,
    parse_records,
)
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.files.json_files import read_items
from llava_st_ros.records import Query, Task

PICKLES = (".p", ".pkl", ".pickle")
_FORM = "expected an object with images and annotations"


def read_refcoco(path: Path, limit: int | None = None) -> BenchmarkFile:
    """Read an annotation file of RefCOCO, RefCOCO+ or RefCOCOg.

    Args:
        path: The file.
        limit: Read this many samples at most.

    Raises:
        DataError: The file cannot be read.
    """
    if path.suffix in PICKLES:
        raise DataError(
            f"{path} is a pickle, which can run code when it is read",
            "write its expressions as JSON with images and annotations (docs/evaluation.md) "
            "where you trust it",
        )
    items = read_items(path, DataError)
    content = dict(items)
    if len(content) != len(items):
        raise DataError(f"{path} repeats a name at its top level")
    images, annotations = (content.get(name) for name in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path} has no lists of images and annotations; {_FORM}")
    log = ReadingLog()
    by_id: dict[Any, Mapping[str, Any]] = {}
    for number, image in enumerate(images):
        if not isinstance(image, Mapping):
            continue
        if isinstance(image.get("id"), (int, str)):
            by_id.setdefault(image["id"], image)
        if number >= len(annotations) and "caption" in image:
            log.reject(f"{path.name}: images[{number}]", DataError("no annotation at its position"))
    entries = (
        (f"{path.name}: annotations[{number}]", (number, value))
        for number, value in enumerate(annotations)
    )
    return parse_records(entries, partial(_parse, images=images, by_id=by_id), limit, log)


def _parse(
    entry: tuple[int, Any],
    place: str,
    log: ReadingLog,
    images: list[Any],
    by_id: Mapping[Any, Mapping[str, Any]],
) -> Iterator[BenchmarkQuery]:
    number, value = entry
    annotation = fields.mapping(value)
    if "caption" in annotation:
        image = by_id.get(_id(annotation, "image_id"))
        if image is None:
            raise DataError(f"there is no image with the id {shown(annotation['image_id'])}")
        words = annotation["caption"]
    else:
        image = fields.mapping(images[number] if number < len(images) else None, "its image")
        if _id(annotation, "id") != _id(image, "id"):
            raise DataError(
                f"the ids of the annotation ({shown(annotation['id'])}) and of the image at its "
                f"position ({shown(image['id'])}) differ"
            )
        words = fields.member(image, "caption")
    identity = _id(annotation, "id")
    if log.first_place(identity, place):
        log.note("repeated ids, each of which counts", place)
    width, height = (fields.side(fields.member(image, name), name) for name in ("width", "height"))
    bbox = fields.member(annotation, "bbox")
    box = fields.box_xywh(bbox, "bbox", (width, height), log, place)
    yield BenchmarkQuery(
        f"{number}-{identity}",
        Dataset.REFCOCO,
        place,
        (fields.media_path(fields.member(image, "file_name"), "file_name"),),
        Query("", fields.text(words, "caption"), Task.REC),
        Task.REC.value,
        RegionTruth(box, width, height),
    )


def _id(record: Mapping[str, Any], name: str) -> int | str:
    value = fields.member(record, name)
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise DataError(f"{name} is {shown(value)}; expected an integer or text")
    return value
