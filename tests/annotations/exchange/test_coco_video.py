"""COCO for videos, in the forms of TAO, CocoVID and YouTube-VIS, from and to annotations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_st_ros.annotations.exchange.coco_video import coco_video_text, read_coco_video
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.records import AnnotatedCamera, AnnotatedObject, GroundTruth
from llava_st_ros.errors import DataError
from llava_st_ros.records import Box
from support.annotation_files import COCOVID, SIZE, TAO, YOUTUBE_VIS
from support.annotation_files import XYWH_A as A
from support.annotation_files import XYWH_B as B

CAMERA = AnnotatedCamera("/cam", 200, 100)
FRAMES = RecordedFrames([100, 200, 300, 400])
BOX_A, BOX_B = Box(0.1, 0.1, 0.3, 0.5), Box(0.1525, 0.1, 0.3525, 0.5)


def read(folder: Path, value: Any, *arguments: Any) -> GroundTruth:
    path = folder / "coco.json"
    path.write_text(json.dumps(value))
    return read_coco_video(path, CAMERA, FRAMES, *arguments)


def changed(value: dict[str, Any], edit: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    value = copy.deepcopy(value)
    edit(value)
    return value


@pytest.mark.parametrize("video", ["train/kitchen", "0"])
def test_a_video_of_tao_is_chosen_by_name_or_id(tmp_path: Path, video: str) -> None:
    truth = read(tmp_path, TAO, video)
    (cup,) = truth.objects
    assert (cup.id, cup.label) == ("5", "cup")
    assert cup.boxes == {100: BOX_A, 400: BOX_B} and cup.keyframes == {100, 400}
    assert truth.notes == (
        "masks, left out: boxes are kept: 1, the first at annotations[0]",
        "annotations with iscrowd 1, left out: 1, the first at annotations[3]",
        "annotations of other videos, left out: 1",
    )


@pytest.mark.parametrize(
    ("video", "message"), [(None, "has 2 videos"), ("x", "has no single video 'x'")]
)
def test_the_videos_of_a_file_are_listed(tmp_path: Path, video: str | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, TAO, video)
    assert f"{message} (train/kitchen, train/hall)" in str(caught.value)


def test_instances_of_cocovid_are_tracks(tmp_path: Path) -> None:
    (cup,) = read(tmp_path, COCOVID).objects
    assert (cup.id, cup.boxes) == ("5", {100: BOX_A, 200: BOX_B})


def test_a_frame_id_from_1_on_needs_the_users_word(tmp_path: Path) -> None:
    def shift(value: dict[str, Any]) -> None:
        for image in value["images"]:
            image["frame_id"] += 1

    value = changed(COCOVID, shift)
    with pytest.raises(DataError, match=r"frame_id of videos\[0\] starts at 1.*--first-frame 0"):
        read(tmp_path, value)
    assert sorted(read(tmp_path, value, None, 1).objects[0].boxes) == [100, 200]
    assert sorted(read(tmp_path, value, None, 0).objects[0].boxes) == [200, 300]


def test_objects_of_youtube_vis_have_a_box_or_null_per_frame(tmp_path: Path) -> None:
    truth = read(tmp_path, YOUTUBE_VIS)
    (cup,) = truth.objects
    assert (cup.id, cup.label, cup.boxes) == ("5", "cup", {100: BOX_A, 400: BOX_B})
    assert "annotations of other videos, left out: 1" in truth.notes


def test_file_names_number_the_frames_of_sampled_videos(tmp_path: Path) -> None:
    def sample(value: dict[str, Any]) -> None:
        value["videos"][0].update(length=2, file_names=["a/00000.jpg", "a/00002.jpg"])
        value["annotations"][0]["bboxes"] = [A, B]

    (cup,) = read(tmp_path, changed(YOUTUBE_VIS, sample)).objects
    assert cup.boxes == {100: BOX_A, 300: BOX_B}
    unnamed = changed(YOUTUBE_VIS, sample)
    for names in (
        ["a/x.jpg", "a/y.jpg"],
        ["2.jpg", "1.jpg"],
        ["1.jpg", "4.jpg"],
        ["1.jpg"],
        [1, 2],
        5,
    ):
        unnamed["videos"][0]["file_names"] = names
        with pytest.raises(DataError, match="has 2 bboxes, the recording 4 frames"):
            read(tmp_path, unnamed)


ERRORS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], Any], str]] = [
    (COCOVID, lambda v: v.pop("videos"), "videos is None; expected a list"),
    (COCOVID, lambda v: v["annotations"].append(5), "annotations[2] is 5; expected an object"),
    (COCOVID, lambda v: v["annotations"][0].update(bbox=[1, 2, 3]), "annotations[0]: bbox is"),
    (COCOVID, lambda v: v["annotations"][0].update(bbox=[1, 2, -3, 4]), "bbox is -3 wide"),
    (COCOVID, lambda v: v["annotations"][0].update(bbox=[1, 2, True, 4]), "bbox is [1, 2, True"),
    (COCOVID, lambda v: v["annotations"][0].update(image_id=7), "image_id 7 is none of"),
    (COCOVID, lambda v: v["annotations"][0].update(category_id=7), "category_id 7 is none of"),
    (COCOVID, lambda v: v["annotations"][0].pop("instance_id"), "has no track_id or instance_id"),
    (COCOVID, lambda v: v["annotations"][1].update(image_id=1), "has another box in this frame"),
    (COCOVID, lambda v: v["images"][1].update(frame_id=0), "has the frame 0 of images[0]"),
    (
        COCOVID,
        lambda v: v["categories"].append({"id": 1, "name": "x"}),
        "categories[1] has the id 1",
    ),
    (COCOVID, lambda v: v["categories"][0].pop("name"), "category 1: name is None"),
    (
        YOUTUBE_VIS,
        lambda v: v["categories"].append({"id": 25, "name": "x"}),
        "the id 25 of another",
    ),
    (COCOVID, lambda v: v["images"][1].update(id=1), "images[1] has the id 1 of another"),
    (COCOVID, lambda v: v["images"][1].pop("frame_id"), "has no frame_index or frame_id"),
    (COCOVID, lambda v: v["images"][1].update(width=5, height=5), "images[1] states images of 5"),
    (COCOVID, lambda v: v["images"][1].update(frame_id=-1), "frame_id is -1"),
    (COCOVID, lambda v: v["images"][1].update(id=10**16), "id is 10000000000000000; expected an"),
    (YOUTUBE_VIS, lambda v: v["annotations"][0].update(bboxes=[A]), "the length 4"),
    (YOUTUBE_VIS, lambda v: v["annotations"][0].update(bboxes=7), "bboxes is 7; expected a list"),
    (YOUTUBE_VIS, lambda v: v["annotations"][0]["bboxes"].__setitem__(1, {}), "bboxes[1] is"),
]


@pytest.mark.parametrize(("value", "edit", "message"), ERRORS, ids=[row[2] for row in ERRORS])
def test_what_is_not_valid_is_an_error_with_its_place(
    tmp_path: Path, value: dict[str, Any], edit: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, changed(value, edit))
    assert message in str(caught.value) and "coco.json" in str(caught.value)


def test_objects_are_written_as_tracks_of_one_video(tmp_path: Path) -> None:
    truth = GroundTruth(
        (CAMERA,),
        (
            AnnotatedObject("5", "cup", "/cam", {100: BOX_A, 400: BOX_B}, frozenset({100})),
            AnnotatedObject("9", "", "/cam", {200: BOX_A}, frozenset({200})),
        ),
    )
    converted = coco_video_text(truth, "/cam", FRAMES)
    assert converted.notes == (
        "objects without a label, written as 'object': 1, the first at object '9'",
        "marks of interpolated boxes, left out: 1",
    )
    value = json.loads(converted.text)
    assert value["videos"] == [{"id": 1, "name": "cam", **SIZE}]
    assert [image["frame_index"] for image in value["images"]] == [0, 1, 2, 3]
    assert [category["name"] for category in value["categories"]] == ["cup", "object"]
    first = value["annotations"][0]
    assert (first["bbox"], first["area"], first["image_id"]) == (A, 1600, value["images"][0]["id"])
    assert first["track_id"] == first["instance_id"] == 5
    again = read(tmp_path, value)
    assert [item.boxes for item in again.objects] == [item.boxes for item in truth.objects]
    assert coco_video_text(again, "/cam", FRAMES).text == converted.text
