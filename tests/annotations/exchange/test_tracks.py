"""Frame numbers, and what the readers and writers of other formats have in common."""

from __future__ import annotations

import doctest

import pytest

from llava_st_ros.annotations import box_rules, change_notes
from llava_st_ros.annotations.exchange import number_texts, recorded_frames, tracks
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.exchange.tracks import TrackReader, TrackWriter
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.errors import DataError
from llava_st_ros.records import Box, Span, Task

CAMERA = AnnotatedCamera("/cam", 200, 100)
FRAMES = RecordedFrames([100, 200, None, 200, 150])


@pytest.mark.parametrize("module", [box_rules, change_notes, number_texts, recorded_frames, tracks])
def test_docstring_examples(module) -> None:
    results = doctest.testmod(module)
    assert results.failed == 0 and results.attempted >= 1


def test_frames_are_numbered_in_the_order_of_recording() -> None:
    assert len(FRAMES) == 5
    assert FRAMES.stamps == (100, 200, None, None, 150)
    assert [FRAMES.number(stamp) for stamp in (100, 150, 200, 120)] == [0, 4, 1, None]
    assert FRAMES.unusable == 2
    assert [FRAMES.is_within(s) for s in (99, 100, 120, 200, 201)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_boxes_are_stored_at_the_stamps_of_their_frames() -> None:
    reader = TrackReader("x", CAMERA, FRAMES)
    reader.add_track("7", "cup", "line 1")
    reader.add_box("7", 4, (20, 10, 60, 50), "line 1")
    reader.add_box("7", 0, (40, 10, 80, 50), "line 2", keyframe=False)
    (cup,) = reader.ground_truth().objects
    assert (cup.id, cup.label, cup.topic) == ("7", "cup", "/cam")
    assert list(cup.boxes.items()) == [
        (100, Box(0.2, 0.1, 0.4, 0.5)),
        (150, Box(0.1, 0.1, 0.3, 0.5)),
    ]
    assert cup.keyframes == {150}


def test_boxes_that_no_frame_holds_are_counted_by_reason() -> None:
    reader = TrackReader("x", CAMERA, FRAMES)
    reader.add_track("7", "cup", "a")
    reader.add_track("8", "box", "a")
    for number, frame in enumerate((0, 0, 2, 3, 5, -1), start=1):
        reader.add_box("7", frame, (20, 10, 60, 50), f"line {number}")
    reader.add_box("8", 1, (20, 100, 60, 120), "line 7")
    truth = reader.ground_truth()
    assert [item.id for item in truth.objects] == ["7"]
    assert truth.notes == (
        "boxes given twice: 1, the first at line 2",
        "boxes in frames without a stamp of their own, left out: 2, the first at line 3",
        "boxes in frames that the recording of 5 frames does not have, left out: 2, the first at "
        "line 5",
        "boxes outside the image, left out: 1, the first at line 7",
        "tracks without a box in the recording, left out: 1, the first at track 8",
    )


def test_a_box_that_is_left_out_and_given_twice_is_counted_once_for_each() -> None:
    reader = TrackReader("x", CAMERA, FRAMES)
    reader.add_track("7", "cup", "a")
    for line in (1, 2):
        reader.add_box("7", 0, (20, 10, 20, 50), f"line {line}")
    assert reader.ground_truth().notes[:2] == (
        "boxes without area, left out: 1, the first at line 1",
        "boxes given twice: 1, the first at line 2",
    )


def test_boxes_of_another_recording_are_an_error() -> None:
    reader = TrackReader("gt.txt", CAMERA, FRAMES)
    reader.add_track("7", "cup", "a")
    reader.add_box("7", 5, (20, 10, 60, 50), "line 1")
    with pytest.raises(DataError, match=r"gt\.txt: none of its 1 boxes is in a frame"):
        reader.ground_truth()


def test_two_boxes_of_a_track_in_one_frame_are_an_error() -> None:
    reader = TrackReader("gt.txt", CAMERA, FRAMES)
    reader.add_track("7", "cup", "a")
    reader.add_box("7", 0, (20, 10, 60, 50), "line 1")
    with pytest.raises(DataError, match=r"gt\.txt: line 2: track 7 has another box"):
        reader.add_box("7", 0, (20, 10, 60, 51), "line 2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2e9])
def test_a_coordinate_that_is_none_is_an_error(value: float) -> None:
    reader = TrackReader("gt.txt", CAMERA, FRAMES)
    reader.add_track("7", "cup", "a")
    with pytest.raises(DataError, match="line 1: the box is"):
        reader.add_box("7", 0, (value, 10, 60, 50), "line 1")


@pytest.mark.parametrize(
    ("track", "label", "message"),
    [("", "cup", "the id is empty"), ("a\nb", "cup", "the id 'a"), ("7", "\ud800", "U\\+D800")],
)
def test_what_an_annotation_file_cannot_hold_is_an_error(
    track: str, label: str, message: str
) -> None:
    reader = TrackReader("a.xml", CAMERA, FRAMES)
    with pytest.raises(DataError, match=f"a.xml: line 3: .*{message}"):
        reader.add_track(track, label, "line 3")


def test_another_size_of_the_images_is_an_error() -> None:
    reader = TrackReader("a.xml", CAMERA, FRAMES)
    reader.check_size(200, 100, "line 3")
    reader.check_size(None, 100, "line 3")
    with pytest.raises(DataError, match="line 3 states images of 400 x 200 pixels; those of /cam"):
        reader.check_size(400, 200, "line 3")


def test_what_tracks_do_not_hold_is_counted() -> None:
    box = Box(0.1, 0.1, 0.3, 0.5)
    truth = GroundTruth(
        (CAMERA, AnnotatedCamera("/rear", 8, 8)),
        (
            AnnotatedObject("cup", "red cup", "/cam", {100: box, 120: box, 900: box}),
            AnnotatedObject("late", "box", "/cam", {901: box}),
            AnnotatedObject("x", "box", "/rear", {100: box}),
        ),
        (AnnotatedQuery("q", "it falls", Task.TVG, "/cam", (Span(100, 200),)),),
    )
    writer = TrackWriter(truth, "/cam", FRAMES)
    (track,) = writer.tracks
    assert (track.number, track.label) == (1, "red cup")
    assert [(b.frame, b.corners, b.keyframe) for b in track.boxes] == [(0, (20, 10, 60, 50), False)]
    assert writer.notes.lines() == (
        "objects of other topics, left out: 1",
        "queries with their spans, left out: 1",
        "objects whose id is replaced by a number: 2, the first at object 'cup'",
        "boxes at stamps between frames, left out: 1, the first at 'cup', stamp 120",
        "boxes at stamps outside the recording, left out: 2, the first at 'cup', stamp 900",
        "objects without a box in a frame, left out: 1, the first at object 'late'",
    )
