"""MOTChallenge text, from and to annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_st_ros.annotations.exchange.mot_text import mot_text, read_mot_text
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.records import AnnotatedCamera, AnnotatedObject, GroundTruth
from llava_st_ros.errors import DataError
from llava_st_ros.records import Box
from support.annotation_files import MOT17

CAMERA = AnnotatedCamera("/cam", 200, 100)
FRAMES = RecordedFrames([100, 200, 300])
MOT15 = "1,1,20,10,40,40,1,-1,-1,-1\n\n2,1,20,10,40,40,1,4.5,7,-1\n"


def read(folder: Path, text: str) -> GroundTruth:
    path = folder / "gt.txt"
    path.write_text(text)
    return read_mot_text(path, CAMERA, FRAMES)


def test_rows_of_mot17_are_boxes_from_frame_1_on(tmp_path: Path) -> None:
    truth = read(tmp_path, MOT17)
    person, car = truth.objects
    assert (person.id, person.label, car.id, car.label) == ("2", "object", "5", "class 3")
    assert person.boxes == {
        100: Box(0.1, 0.1, 0.3, 0.5),
        200: Box(0.1525, 0.1, 0.3525, 0.5),
    }
    assert person.keyframes == {100, 200}
    assert car.boxes == {100: Box(0.5, 0.5, 0.6, 0.6)}
    assert truth.notes == ("rows that column 7 marks as ignored, left out: 1, the first at line 4",)


def test_the_last_columns_of_mot15_are_no_class(tmp_path: Path) -> None:
    truth = read(tmp_path, MOT15)
    (person,) = truth.objects
    assert person.label == "object" and sorted(person.boxes) == [100, 200]
    assert truth.notes == ()


def test_frames_may_count_from_0(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("0,2,20,10,40,40,1,1,1\n")
    with pytest.raises(DataError, match=r"line 1: frame is 0;.*--first-frame 0"):
        read_mot_text(path, CAMERA, FRAMES)
    (person,) = read_mot_text(path, CAMERA, FRAMES, 0).objects
    assert list(person.boxes) == [100]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,2,20,10,40,40,1,1,1", "line 2: frame is 0; frames of MOTChallenge count from 1"),
        ("1,-1,20,10,40,40,1,1,1", "line 2: id is -1; expected a track"),
        ("1,2,20,10,40,40", "line 2 has 6 columns; expected 7 to 10"),
        ("1,2,20,10,40,40,1,1,1,1,1", "line 2 has 11 columns"),
        ("1,2,nan,10,40,40,1,1,1", "line 2, column 3 is 'nan'"),
        ("1,2,1_0,10,40,40,1,1,1", "line 2, column 3 is '1_0'"),
        ("1,2,1e999,10,40,40,1,1,1", "line 2, column 3 is '1e999'"),
        ("1.5,2,20,10,40,40,1,1,1", "line 2, column 1 is 1.5; expected an integer"),
        ("1,9999999999,20,10,40,40,1,1,1", "line 2, column 2 is 1e+10; expected an integer"),
        ("1,2,20,10,-40,40,1,1,1", "line 2: the box is -40 wide"),
        ("1,2,21,10,40,40,1,1,1", "line 2: track 2 has another box"),
        ("1 2 20 10 40 40 1 1 1", "line 2 has 1 columns"),
    ],
)
def test_a_row_that_is_no_box_of_a_track_is_an_error_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, MOT17.split("\n")[0] + f"\n{line}\n")
    assert message in str(caught.value) and "gt.txt" in str(caught.value)


def test_boxes_are_written_with_ten_columns_by_frame(tmp_path: Path) -> None:
    box, other = Box(0.1, 0.1, 0.3, 0.5), Box(0.1525, 0.1, 0.35251, 0.5)
    truth = GroundTruth(
        (CAMERA,),
        (
            AnnotatedObject("2", "object", "/cam", {100: box, 200: other}, frozenset({100})),
            AnnotatedObject("11", "cup", "/cam", {100: box}, frozenset({100})),
        ),
    )
    converted = mot_text(truth, "/cam", FRAMES)
    assert converted.text == (
        "1,2,20,10,40,40,1,1,1,-1\n1,11,20,10,40,40,1,1,1,-1\n2,2,30.5,10,40.002,40,1,1,1,-1\n"
    )
    assert converted.notes == (
        "marks of interpolated boxes, left out: 1",
        "labels, left out: every box has class 1: 1, the first at track 11",
    )
    again = read(tmp_path, converted.text)
    assert mot_text(again, "/cam", FRAMES).text == converted.text


def test_trackeval_reads_what_is_written(tmp_path: Path) -> None:
    """TrackEval's reader of MOTChallenge with its default settings: every box is evaluated."""
    trackeval = pytest.importorskip(
        "trackeval", reason="requirements/trackeval.txt is not installed"
    )
    sequence = tmp_path / "gt/MOT17-train/run"
    results = tmp_path / "trackers/MOT17-train/other/data"
    for folder in (sequence / "gt", results, tmp_path / "gt/seqmaps"):
        folder.mkdir(parents=True)
    boxes = {100: Box(0.1, 0.1, 0.3, 0.5), 300: Box(0.2, 0.1, 0.4, 0.5)}
    truth = GroundTruth(
        (CAMERA,),
        tuple(AnnotatedObject(name, "cup", "/cam", boxes) for name in ("4", "9")),
    )
    text = mot_text(truth, "/cam", FRAMES).text
    (sequence / "gt/gt.txt").write_text(text)
    (results / "run.txt").write_text(text)
    (sequence / "seqinfo.ini").write_text("[Sequence]\nname=run\nseqLength=3\n")
    (tmp_path / "gt/seqmaps/MOT17-train.txt").write_text("name\nrun\n")
    folders = {"GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "trackers")}
    reader = trackeval.datasets.MotChallenge2DBox({**folders, "PRINT_CONFIG": False})
    read = reader.get_preprocessed_seq_data(reader.get_raw_seq_data("other", "run"), "pedestrian")
    assert (read["num_gt_dets"], read["num_gt_ids"]) == (4, 2)
    assert read["gt_dets"][0].tolist() == [[20, 10, 40, 40], [20, 10, 40, 40]]
    assert read["gt_dets"][2].tolist() == [[40, 10, 40, 40], [40, 10, 40, 40]]
