"""Annotation files: what is read, what is changed with a note, what is rejected and where."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llava_st_ros.annotations.annotation_file import (
    SCHEMA,
    annotation_path,
    check_footage,
    check_image_size,
    parse_annotations,
    read_annotations,
    write_annotations,
)
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.errors import DataError
from llava_st_ros.records import Box, Span, Task
from support.annotation_files import ANNOTATIONS as VALUE
from support.annotation_files import TOPIC
from support.paths import ROOT


def changed(*edits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    value = copy.deepcopy(VALUE)
    for edit in edits:
        edit(value)
    return value


def box(value: dict[str, Any], number: int) -> dict[str, Any]:
    found: dict[str, Any] = value["objects"][0]["boxes"][number]
    return found


def is_valid(value: Any) -> bool:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(VALUE))
    truth = read_annotations(path)
    assert truth.notes == ()
    assert truth.cameras == (AnnotatedCamera(TOPIC, 200, 100), AnnotatedCamera("", 8, 8))
    (cup,) = truth.objects
    assert cup.boxes == {
        10: Box(0.1, 0.1, 0.3, 0.5),
        20: Box(0.1125, 0.1, 0.3125, 0.5),
        30: Box(0.125, 0.1, 0.325, 0.5),
    }
    assert cup.keyframes == {10, 30}
    fall, dog = truth.queries
    assert (fall.task, fall.spans) == (Task.STVG, (Span(10, 20), Span(25, 40)))
    assert truth.objects_of(fall) == (cup,)
    assert [fall.is_active(stamp) for stamp in (9, 10, 22, 40)] == [False, True, False, True]
    assert dog.no_match and not fall.no_match


def test_what_is_written_is_read_again_and_follows_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    truth = parse_annotations(VALUE, "x")
    write_annotations(path, truth)
    assert read_annotations(path) == truth
    value = json.loads(path.read_text())
    assert is_valid(value) and is_valid(VALUE)
    named = {"$schema": "annotations.schema.json", **VALUE}
    assert is_valid(named) and parse_annotations(named, "x") == truth
    write_annotations(path, GroundTruth(()))
    assert read_annotations(path) == GroundTruth(()) and is_valid(json.loads(path.read_text()))


def test_a_box_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_annotations(path, GroundTruth(()))
    before = path.read_bytes()
    bad = AnnotatedObject("cup", "cup", TOPIC, {5: Box(0.0, 0.0, math.nan, 1.0)})
    with pytest.raises(DataError, match=r"object 'cup' has the box .*nan.* at stamp 5"):
        write_annotations(path, GroundTruth((AnnotatedCamera(TOPIC, 8, 8),), (bad,)))
    assert path.read_bytes() == before


def test_the_demo_is_annotated_without_a_note() -> None:
    truth = read_annotations(annotation_path(ROOT / "demo/bag"))
    assert [query.id for query in truth.queries] == [
        "blue-ball-lifted",
        "red-box-pushed",
        "green-ball",
    ]
    assert truth.notes == ()


@pytest.mark.parametrize(
    ("edit", "note", "boxes"),
    [
        (
            lambda v: box(v, 0).update(box=[60, 50, 20, 10]),
            "boxes with swapped corners, put in order: 1, the first at objects[0].boxes[0]",
            {10: Box(0.1, 0.1, 0.3, 0.5)},
        ),
        (
            lambda v: box(v, 0).update(box=[-20, 10, 260, 50]),
            "boxes beyond the edge of the image, clipped: 1, the first at objects[0].boxes[0]",
            {10: Box(0.0, 0.1, 1.0, 0.5)},
        ),
        (
            lambda v: box(v, 2).update(box=[200, 10, 260, 50]),
            "boxes outside the image, left out: 1, the first at objects[0].boxes[2]",
            {30: None},
        ),
        (
            lambda v: box(v, 2).update(box=[20, 10, 20, 50]),
            "boxes without area, left out: 1, the first at objects[0].boxes[2]",
            {30: None},
        ),
        (
            lambda v: v["objects"][0]["boxes"].reverse(),
            "boxes not in the order of their stamps, sorted: 2, the first at objects[0].boxes[1]",
            {10: Box(0.1, 0.1, 0.3, 0.5)},
        ),
        (
            lambda v: v["objects"][0]["boxes"].append(dict(box(v, 2))),
            "boxes given twice: 1, the first at objects[0].boxes[3]",
            {30: Box(0.125, 0.1, 0.325, 0.5)},
        ),
    ],
)
def test_boxes_with_one_reading_are_accepted_with_a_note(
    edit: Callable[[Any], Any], note: str, boxes: dict[int, Box | None]
) -> None:
    truth = parse_annotations(changed(edit), "x")
    assert truth.notes == (note,)
    (cup,) = truth.objects
    assert {stamp: cup.boxes.get(stamp) for stamp in boxes} == boxes
    assert list(cup.boxes) == sorted(cup.boxes)


def test_spans_out_of_order_are_sorted_and_overlapping_ones_merged() -> None:
    truth = parse_annotations(
        changed(lambda v: v["queries"][0].update(spans=[[30, 40], [10, 20], [20, 25]])), "x"
    )
    assert truth.queries[0].spans == (Span(10, 25), Span(30, 40))
    assert truth.notes == (
        "spans not in order, sorted: 1, the first at queries[0]",
        "spans that overlap, merged: 1, the first at queries[0]",
    )


ERRORS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda v: v.update(format="coco"), "format is not"),
    (lambda v: v.update(version=2), "has version 2 of the format"),
    (lambda v: v.pop("cameras"), "lacks cameras"),
    (lambda v: v["cameras"].append(dict(v["cameras"][0])), "cameras[2] has the topic"),
    (lambda v: v["cameras"][0].update(width=0), "cameras[0]: width is 0"),
    (lambda v: v["cameras"][0].update(width="200"), "cameras[0]: width is '200'"),
    (lambda v: v["objects"].append(dict(v["objects"][0])), "objects[1] has the id 'cup'"),
    (lambda v: v["objects"][0].update(topic="/rear"), "objects[0]: topic '/rear' is none of"),
    (lambda v: v["objects"][0].update(id=""), "objects[0]: the id is empty"),
    (lambda v: v["objects"][0].update(id="a\nb"), "objects[0]: the id 'a\\nb' contains"),
    (lambda v: v["objects"][0].update(label="\ud800"), "objects[0]: label contains U+D800"),
    (lambda v: v["cameras"][1].update(topic="\ud800"), "cameras[1]: topic contains U+D800"),
    (lambda v: box(v, 1).update(box=[1, 2, 3]), "boxes[1]: box has 3 values; expected 4"),
    (lambda v: box(v, 1).update(stamp=10), "objects[0].boxes[1]: stamp 10 has another box"),
    (lambda v: box(v, 1).update(stamp=-1), "objects[0].boxes[1]: stamp is -1"),
    (lambda v: box(v, 1).update(stamp=2**63), "objects[0].boxes[1]: stamp is 9223372036854775808"),
    (lambda v: box(v, 1).update(stamp=1.5), "boxes[1]: stamp is 1.5; expected an integer"),
    (lambda v: v["queries"].append(dict(v["queries"][0])), "queries[2] has the id 'fall'"),
    (lambda v: v["queries"][0].update(task="WALK"), "queries[0]: task 'WALK' is unknown"),
    (lambda v: v["queries"][0].update(spans=[]), "queries[0]: it has no spans"),
    (lambda v: v["queries"][0].update(spans=[[20, 10]]), "queries[0].spans[0] is 20 to 10"),
    (lambda v: v["queries"][0].update(objects=["dog"]), "queries[0]: object 'dog' is none of"),
    (lambda v: v["queries"][0].update(topic=""), "queries[0]: object 'cup' is of topic"),
    (lambda v: v["queries"][1].update(spans=[[1, 2]]), "queries[1]: no_match is true, but"),
    (lambda v: v["queries"][0].update(text="a\0b"), "queries[0]: the query's text contains"),
    (lambda v: v["queries"][0].update(labels=[]), "has no setting 'labels'"),
]


@pytest.mark.parametrize(("edit", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_what_has_no_single_reading_is_an_error_with_its_place(
    edit: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        parse_annotations(changed(edit), "run.json")
    assert message in caught.value.problem and "run.json" in caught.value.problem
    assert "\n" not in str(caught.value)


def test_what_the_schema_rejects_the_reader_rejects_too() -> None:
    """The schema has no references between entries; the reader checks these in addition."""
    structural = [changed(edit) for edit, _ in ERRORS if not is_valid(changed(edit))]
    assert len(structural) >= 12
    assert not is_valid(changed(lambda v: v["queries"][0].update(objects=[1])))
    for value in structural:
        with pytest.raises(DataError):
            parse_annotations(value, "x")


@pytest.mark.parametrize("text", ["", "[1]", '{"format": NaN}', '{"a": 1, "a": 2}', "{" * 100])
def test_files_that_are_no_json_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"annotations\.json"):
        read_annotations(path)


def test_annotations_are_in_the_bag_or_beside_a_file(tmp_path: Path) -> None:
    assert annotation_path(tmp_path) == tmp_path / "annotations.json"
    assert annotation_path(tmp_path / "a.mcap") == tmp_path / "a.annotations.json"
    assert annotation_path(tmp_path / "a.mcap.zstd") == tmp_path / "a.annotations.json"


def test_footage_that_does_not_agree_is_named() -> None:
    boxes = {10: Box(0, 0, 1, 1), 15: Box(0, 0, 1, 1), 99: Box(0, 0, 1, 1)}
    query = AnnotatedQuery("q", "it", Task.TVG, TOPIC, (Span(10, 12), Span(50, 60)))
    truth = GroundTruth(
        (AnnotatedCamera(TOPIC, 20, 10),),
        (AnnotatedObject("o", "it", TOPIC, boxes),),
        (query,),
    )
    assert check_footage(truth, TOPIC, [10, 15, 99]) == []
    assert check_footage(truth, TOPIC, [10, 20]) == [
        "object 'o': 2 of 3 boxes have the stamp of no frame (1 outside the recording), the first "
        "15",
        "query 'q': 1 of 2 spans are outside the recording",
    ]
    check_image_size(truth, TOPIC, (20, 10))
    with pytest.raises(DataError, match="are of 20 x 10 images, but its images are 40 x 20"):
        check_image_size(truth, TOPIC, (40, 20))
