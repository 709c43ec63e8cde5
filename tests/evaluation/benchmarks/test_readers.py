"""Readers of the benchmarks' files: exact formats, their traps, and records that cannot be used."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.evaluation.benchmarks.charades_sta import read_charades_sta
from llava_st_ros.evaluation.benchmarks.hc_stvg import read_hc_stvg
from llava_st_ros.evaluation.benchmarks.refcoco import read_refcoco
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkFile, VideoTruth
from llava_st_ros.evaluation.benchmarks.st_align import read_st_align
from llava_st_ros.evaluation.benchmarks.vidstg import read_vidstg
from llava_st_ros.records import Box, Task
from support.benchmark_files import (
    CHARADES_LINES,
    CHARADES_RECORD,
    hc_stvg_record,
    refcoco_file,
    st_align_record,
    vidor_video,
    vidstg_record,
    write_json,
)


def box(frame: int) -> Box:
    """``benchmark_files.xywh`` as fractions of 400x200 pixels."""
    return Box((40 + 4 * frame) / 400, 0.25, (120 + 4 * frame) / 400, 0.75)


TUBE = {frame: box(frame) for frame in range(14, 21)}


def problems(read: BenchmarkFile) -> list[str]:
    return [f"{bad.place}: {bad.problem}" for bad in read.bad]


def changed(record: dict[str, Any], *path: Any, value: Any = None) -> dict[str, Any]:
    """A copy with one value replaced, or removed if it is None."""
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return record


# ST-Align


def st_align(tmp_path: Path, task: str, *records: Any) -> BenchmarkFile:
    return read_st_align(write_json(tmp_path / f"{task}.json", list(records)))


def test_st_align_stvg(tmp_path: Path) -> None:
    read = st_align(tmp_path, "stvg", st_align_record("stvg"))
    (sample,) = read.samples
    assert (read.bad, read.notes) == ((), ())
    assert (sample.id, sample.place) == ("0-box", "stvg.json: record 0")
    assert (sample.query.text, sample.query.task) == ("a box moves", Task.STVG)
    assert (sample.media, sample.category) == (("vidor/box.mp4",), "STVG")
    # The last frame, 20, is included in the file.
    assert sample.truth == VideoTruth((14, 21), TUBE, 400, 200, (10, 29))


def test_st_align_svg_is_asked_with_its_span(tmp_path: Path) -> None:
    (sample,) = st_align(tmp_path, "svg", st_align_record("svg")).samples
    assert (sample.query.text, sample.query.task) == ("a box moves.", Task.SVG)
    assert sample.query.span == pytest.approx((4 / 19, 10 / 19))  # of frames 10 to 29


def test_st_align_elc_is_asked_with_its_start_and_box(tmp_path: Path) -> None:
    (sample,) = st_align(tmp_path, "elc", st_align_record("elc")).samples
    assert (sample.query.text, sample.query.task, sample.query.box) == ("", Task.ELC, box(14))
    assert sample.query.span is not None and sample.query.span[0] == pytest.approx(4 / 19)
    assert isinstance(sample.truth, VideoTruth)
    assert sample.truth.caption == "a box moves right."


def test_the_task_of_an_st_align_file_is_its_name_or_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "mine.json", [st_align_record("svg")])
    assert read_st_align(path, "svg").samples[0].query.task is Task.SVG
    with pytest.raises(ConfigError, match=r"mine\.json is unknown; expected stvg, svg, elc"):
        read_st_align(path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("video_path",), "../box.mp4", "video_path is '../box.mp4'; expected a path below"),
        (("meta", "split"), [29, 29], "split is [29, 29]; expected two frames in order"),
        (("meta", "split"), [15, 29], "the span 14..20 is not in the split 15..29"),
        (("meta", "time_token", "<s>"), 21, "the span 21..20 is not in the split"),
        (("meta", "time_token", "<e>"), None, "the record has no <e>"),
        (("meta", "spatial_token", "<bboxes>"), {}, "<bboxes> is empty"),
        (
            ("meta", "spatial_token", "<bboxes>", "16"),
            [120, 50, -8, 10],
            "<bboxes>[16] has the corners (120, 50, 112, 60): they are swapped",
        ),
        (
            ("meta", "spatial_token", "<bboxes>", "16"),
            [400, 50, 8, 10],
            "<bboxes>[16] (400, 50, 408, 60) is outside the image of 400x200",
        ),
        (("meta", "spatial_token", "<bboxes>", "x"), [0, 0, 1, 1], "'x' is not the number"),
        (("meta", "spatial_token", "<bboxes>", "016"), [0, 0, 1, 1], "two boxes of frame 16"),
        (("meta", "width"), 0, "width is 0; expected an integer in 1..1000000"),
        (("conversations",), [], "conversations has no answer"),
        (("conversations", 0, "value"), "<video>\n", "what the question is about is ''"),
    ],
)
def test_a_bad_st_align_record_costs_only_itself(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    good = st_align_record("stvg")
    read = st_align(tmp_path, "stvg", good, changed(good, *path, value=value), good)
    assert [sample.id for sample in read.samples] == ["0-box", "2-box"]
    assert len(read.bad) == 1
    assert read.bad[0].place == "stvg.json: record 1" and message in read.bad[0].problem


def test_boxes_across_the_image_border_are_used_and_noted(tmp_path: Path) -> None:
    record = changed(
        st_align_record("stvg"), "meta", "spatial_token", "<bboxes>", "16", value=[-4, 0, 8, 9]
    )
    read = st_align(tmp_path, "stvg", record, record)
    assert isinstance(read.samples[0].truth, VideoTruth)
    assert read.samples[0].truth.boxes[16] == Box(-0.01, 0.0, 0.01, 0.045)
    assert read.notes == (
        "boxes that are partly outside the image, used as they are "
        "(stvg.json: record 0, the first of 2)",
    )


def test_boxes_of_st_align_outside_the_span_are_noted(tmp_path: Path) -> None:
    record = changed(
        st_align_record("stvg"), "meta", "spatial_token", "<bboxes>", "21", value=[0, 0, 9, 9]
    )
    read = st_align(tmp_path, "stvg", record)
    assert isinstance(read.samples[0].truth, VideoTruth) and 21 in read.samples[0].truth.boxes
    assert read.notes == ("boxes outside the span (stvg.json: record 0)",)


def test_an_answer_of_elc_in_another_form_is_its_caption_and_noted(tmp_path: Path) -> None:
    record = changed(
        st_align_record("elc"),
        "conversations",
        1,
        "value",
        value="A box. Object bounding box: <bboxes>",
    )
    read = st_align(tmp_path, "elc", record)
    assert isinstance(read.samples[0].truth, VideoTruth)
    assert read.samples[0].truth.caption == "A box."
    assert read.notes == ('answers without "Ends in <e>," (elc.json: record 0)',)


def test_a_record_that_is_not_json_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "stvg.jsonl"
    good = write_json(tmp_path / "x", st_align_record("stvg")).read_text()
    path.write_text(f'{good}\n{{"video_path": \n{good}\n')
    read = read_st_align(path)
    assert len(read.samples) == 2
    assert "record 1: the record is not valid JSON" in problems(read)[0]


# VidSTG


def vidstg(tmp_path: Path, *records: Any, video: Any = None, **options: Any) -> BenchmarkFile:
    write_json(tmp_path / "vidor/training/1002/101.json", video or vidor_video())
    path = write_json(tmp_path / "val_annotations.json", list(records))
    return read_vidstg(path, tmp_path / "vidor", **options)


def test_vidstg_has_declarative_and_interrogative_samples(tmp_path: Path) -> None:
    read = vidstg(tmp_path, vidstg_record())
    declarative, interrogative = read.samples
    assert (read.bad, read.notes) == ((), ())
    assert (declarative.id, declarative.category) == ("101-0-declarative-0", "STVG declarative")
    assert (declarative.query.text, interrogative.query.text) == ("the box moves.", "what moves?")
    assert interrogative.category == "STVG interrogative"
    assert declarative.media == ("1002/101.mp4", "101")
    # Both ends are excluded in the file.
    expected = VideoTruth((14, 21), TUBE, 400, 200, (10, 29), 40, 10.0)
    assert declarative.truth == interrogative.truth == expected
    (only,) = vidstg(tmp_path, vidstg_record(), kinds=("interrogative",)).samples
    assert only.id == interrogative.id


def test_a_span_of_vidstg_may_end_one_frame_after_the_segment(tmp_path: Path) -> None:
    record = changed(vidstg_record(), "temporal_gt", value={"begin_fid": 14, "end_fid": 31})
    read = vidstg(tmp_path, record)
    assert read.notes == (
        "temporal_gt ends one frame after used_segment (val_annotations.json: record 0)",
    )
    later = changed(vidstg_record(), "temporal_gt", "end_fid", value=32)
    (bad,) = vidstg(tmp_path, later).bad
    assert "temporal_gt 14..32 is not in used_segment 10..30" in bad.problem


def test_a_bad_sentence_of_vidstg_costs_only_itself(tmp_path: Path) -> None:
    record = changed(vidstg_record(), "captions", 0, "target_id", value=5)
    read = vidstg(tmp_path, record)
    assert [sample.query.text for sample in read.samples] == ["what moves?"]
    assert problems(read) == [
        "val_annotations.json: record 0, captions[0]: VidOR has no box of object 5 in frames 14..20"
    ]


def test_frames_without_a_box_in_vidor_are_noted(tmp_path: Path) -> None:
    video = changed(vidor_video(), "trajectories", 16, value=[])
    read = vidstg(tmp_path, vidstg_record(), video=video, kinds=("declarative",))
    assert isinstance(read.samples[0].truth, VideoTruth)
    assert sorted(read.samples[0].truth.boxes) == [14, 15, 17, 18, 19, 20]
    assert read.notes[0].startswith("frames of temporal_gt without a box, which count as IoU 0 (")


def test_videos_of_another_size_than_in_vidor_are_noted(tmp_path: Path) -> None:
    read = vidstg(tmp_path, changed(vidstg_record(), "width", value=200), kinds=("declarative",))
    assert isinstance(read.samples[0].truth, VideoTruth)
    assert (read.samples[0].truth.width, read.samples[0].truth.boxes) == (400, TUBE)
    assert read.notes[0].startswith("videos of another size or length than in VidOR")


def test_two_boxes_of_an_object_in_a_frame_of_vidor_are_not_chosen_from(tmp_path: Path) -> None:
    video = vidor_video()
    video["trajectories"][16] *= 2
    read = vidstg(tmp_path, vidstg_record(), video=video, kinds=("declarative",))
    assert not read.samples
    assert "VidOR's trajectories[16] has two boxes of object 0" in problems(read)[0]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("vid",), "102", "no 102.json below"),
        (("temporal_gt", "end_fid"), 14, "temporal_gt is empty: it begins at 14 and ends before"),
        (("used_segment", "end_fid"), 41, "used_segment ends at 41, but the video has 40 frames"),
        (("fps",), 0, "fps is 0.0; expected a value in (0, 1000]"),
        (("questions",), None, "the record has no questions"),
    ],
)
def test_a_bad_vidstg_record_costs_only_itself(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    read = vidstg(tmp_path, changed(vidstg_record(), *path, value=value), vidstg_record())
    assert [sample.id for sample in read.samples] == [
        "101-1-declarative-0",
        "101-1-interrogative-0",
    ]
    assert len(read.bad) == 1 and message in read.bad[0].problem


def test_a_damaged_vidor_file_is_named(tmp_path: Path) -> None:
    read = vidstg(tmp_path, vidstg_record(), video={"video_id": "101"})
    assert len(read.bad) == 1
    assert f"{tmp_path}/vidor/training/1002/101.json: the record has no trajectories" in (
        read.bad[0].problem
    )


# HC-STVG


def hc_stvg(tmp_path: Path, version: int, **records: Any) -> BenchmarkFile:
    values = {f"{name}.mp4": record for name, record in records.items()}
    return read_hc_stvg(write_json(tmp_path / "test.json", values), version)


@pytest.mark.parametrize("version", [1, 2])
def test_hc_stvg_counts_from_one_and_has_a_box_per_frame(tmp_path: Path, version: int) -> None:
    read = hc_stvg(tmp_path, version, a=hc_stvg_record(version))
    (sample,) = read.samples
    assert (read.bad, read.notes) == ((), ())
    assert (sample.id, sample.media, sample.category) == ("a.mp4", ("a.mp4",), "STVG")
    assert sample.query.text == "The box moves."
    # 40 frames in 20 s; version 2 has its size as height, width.
    assert sample.truth == VideoTruth((14, 21), TUBE, 400, 200, None, 40, 2.0)


def test_ends_of_hc_stvg_that_disagree_with_the_boxes_are_counted(tmp_path: Path) -> None:
    record = {**hc_stvg_record(1), "ed_frame": 31, "ed_time": 15.0}
    read = hc_stvg(tmp_path, 1, a=record, b=hc_stvg_record(1))
    assert read.samples[0].truth == read.samples[1].truth
    assert read.notes == (
        "ed_frame disagrees with the number of boxes, which counts (test.json: record 0, 'a.mp4')",
        "ed_time disagrees with the number of boxes, which counts (test.json: record 0, 'a.mp4')",
    )


def test_boxes_of_hc_stvg_after_the_last_frame_are_used_and_noted(tmp_path: Path) -> None:
    record = {**hc_stvg_record(1), "st_frame": 36, "ed_frame": 42, "ed_time": 21.0}
    read = hc_stvg(tmp_path, 1, a=record)
    assert isinstance(read.samples[0].truth, VideoTruth)
    assert read.samples[0].truth.span == (35, 42)
    assert read.notes[0].startswith("boxes after the video's last frame (img_num)")


def test_a_repeated_video_of_hc_stvg_is_counted_once(tmp_path: Path) -> None:
    record = write_json(tmp_path / "x", hc_stvg_record(1)).read_text()
    path = tmp_path / "test.json"
    path.write_text(f'{{"a.mp4": {record}, "b.mp4": {record}, "a.mp4": {record}}}')
    read = read_hc_stvg(path, 1)
    assert [sample.id for sample in read.samples] == ["a.mp4", "b.mp4"]
    assert problems(read) == [
        "test.json: record 2, 'a.mp4': the record has the same name as test.json: record 0, 'a.mp4'"
    ]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("bbox",), [], "bbox is empty, so the span is too"),
        (("bbox",), None, "the labels of version 2's test split are not public"),
        (("bbox", 2), [0, 0, 5], "bbox[2] is [0, 0, 5]; expected a list of 4 values"),
        (("st_frame",), 0, "st_frame is 0; expected an integer in 1.."),
        (("st_frame",), 41, "st_frame is 41, but img_num is 40"),
        (("English",), None, "the record has no English"),
    ],
)
def test_a_bad_hc_stvg_record_costs_only_itself(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    good = hc_stvg_record(2)
    read = hc_stvg(tmp_path, 2, a=good, b=changed(good, *path, value=value), c=good)
    assert [sample.id for sample in read.samples] == ["a.mp4", "c.mp4"]
    assert len(read.bad) == 1 and message in read.bad[0].problem


# Charades-STA


def test_lines_of_charades_sta(tmp_path: Path) -> None:
    path = tmp_path / "charades_sta_test.txt"
    path.write_text(
        f"{CHARADES_LINES}\nBOX01 2.0 2.0##nothing.\nBOX01 1.0##a\nBOX01 a b##c\n"
        f"{CHARADES_LINES}BOX01 0.0 1##no##yes"
    )
    read = read_charades_sta(path)
    first, _, last = read.samples
    assert (first.id, first.media, first.category) == ("BOX01-1", ("BOX01", "BOX01"), "TVG")
    assert (first.query.text, first.query.task) == ("a box moves.", Task.TVG)
    assert (first.truth.start, first.truth.end, first.truth.normalized) == (1.4, 2.0, False)
    assert last.query.text == "no##yes"
    assert problems(read) == [
        "charades_sta_test.txt: line 3: the span is empty: it starts at 2, ends at 2",
        "charades_sta_test.txt: line 4: the line is 'BOX01 1.0##a'; expected VIDEO START "
        "END##QUERY",
        "charades_sta_test.txt: line 5: the times are a and b; expected seconds",
    ]
    assert read.notes == ("repeated records, each of which counts (charades_sta_test.txt: line 6)",)


def test_records_of_charades_sta_have_fractions(tmp_path: Path) -> None:
    after = {**CHARADES_RECORD, "timestamp": [0.5, 1.02]}
    seconds = {**CHARADES_RECORD, "timestamp": [24.3, 30.4]}
    read = read_charades_sta(write_json(tmp_path / "test.json", [CHARADES_RECORD, after, seconds]))
    sample, _ = read.samples
    assert (sample.truth.start, sample.truth.end, sample.truth.normalized) == (0.35, 0.5, True)
    assert sample.media == ("v_BOX01.mp4", "BOX01.mp4")
    assert "expected fractions of the video" in problems(read)[0]
    assert read.notes[0].startswith("timestamps that end after the video")


# RefCOCO


@pytest.mark.parametrize("form", ["llava_st", "coco"])
def test_refcoco_in_both_forms(tmp_path: Path, form: str) -> None:
    read = read_refcoco(write_json(tmp_path / "refcoco_val.json", refcoco_file(form)))
    first, second = read.samples
    assert (read.bad, read.notes) == ((), ())
    assert (first.id, first.query.text, first.query.task) == ("0-7", "the red box", Task.REC)
    assert (second.id, second.query.text) == ("1-8", "box on the left")
    assert first.media == ("COCO_train2014_000000000072.jpg",)
    assert (first.truth.box, first.truth.width, first.truth.height) == (box(0), 400, 200)


def test_ids_of_refcoco_must_agree_by_position(tmp_path: Path) -> None:
    content = refcoco_file("llava_st")
    content["annotations"].reverse()
    content["images"].append({**content["images"][0], "id": 9})
    read = read_refcoco(write_json(tmp_path / "a.json", content))
    assert not read.samples
    assert problems(read) == [
        "a.json: images[2]: no annotation at its position",
        "a.json: annotations[0]: the ids of the annotation (8) and of the image at its position "
        "(7) differ",
        "a.json: annotations[1]: the ids of the annotation (7) and of the image at its position "
        "(8) differ",
    ]


def test_an_annotation_of_an_unknown_image_is_bad(tmp_path: Path) -> None:
    content = changed(refcoco_file("coco"), "annotations", 0, "image_id", value=73)
    read = read_refcoco(write_json(tmp_path / "a.json", content))
    assert [sample.id for sample in read.samples] == ["1-8"]
    assert problems(read) == ["a.json: annotations[0]: there is no image with the id 73"]


def test_repeated_ids_and_empty_boxes_of_refcoco_count_and_are_noted(tmp_path: Path) -> None:
    content = refcoco_file("coco")
    content["annotations"][1].update(id=7, bbox=[40, 50, 0, 100])
    read = read_refcoco(write_json(tmp_path / "a.json", content))
    assert [sample.id for sample in read.samples] == ["0-7", "1-7"]
    assert read.notes == (
        "repeated ids, each of which counts (a.json: annotations[1])",
        "boxes without an area, whose IoU is 0 (a.json: annotations[1])",
    )


def test_a_refcoco_file_with_two_lists_of_a_name_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [], "annotations": [], "images": []}')
    with pytest.raises(DataError, match=r"a\.json repeats a name at its top level"):
        read_refcoco(path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="is a pickle, which can run code when it is read; write"):
        read_refcoco(path)
