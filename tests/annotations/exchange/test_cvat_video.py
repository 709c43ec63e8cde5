"""CVAT for video 1.1, from and to annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_st_ros.annotations.exchange.cvat_video import cvat_video_text, read_cvat_video
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.records import AnnotatedCamera, AnnotatedObject, GroundTruth
from llava_st_ros.errors import DataError
from llava_st_ros.files.xml_files import parse_xml
from llava_st_ros.records import Box
from support.annotation_files import CVAT_META as META

CAMERA = AnnotatedCamera("/cam", 200, 100)
FRAMES = RecordedFrames([100 * (n + 1) for n in range(8)])
A, B = 'xtl="20.00" ytl="10.00" xbr="60.00" ybr="50.00"', 'xtl="40" ytl="10" xbr="80" ybr="50"'
BOX_A, MIDDLE = Box(0.1, 0.1, 0.3, 0.5), Box(0.15, 0.1, 0.35, 0.5)
BOX_B = Box(0.2, 0.1, 0.4, 0.5)


def box(frame: int, sides: str = A, *, keyframe: int = 1, outside: int = 0, more: str = "") -> str:
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="{keyframe}" {sides}'
        f' z_order="0"{more}></box>\n'
    )


def track(*boxes: str, name: str = "0") -> str:
    return f'<track id="{name}" label="cup" source="manual">\n{"".join(boxes)}</track>\n'


def document(*tracks: str, meta: str = META) -> str:
    start = "<?xml version='1.0' encoding='utf-8'?>\n<annotations>\n"
    return f"{start}{meta}{''.join(tracks)}</annotations>"


def read(folder: Path, text: str) -> GroundTruth:
    path = folder / "annotations.xml"
    path.write_text(text, encoding="utf-8")
    return read_cvat_video(path, CAMERA, FRAMES)


def corners(box: Box) -> tuple[float, float, float, float]:
    return box.x1, box.y1, box.x2, box.y2


def test_an_export_has_a_box_for_each_frame(tmp_path: Path) -> None:
    middle = 'xtl="30" ytl="10" xbr="70" ybr="50"'
    truth = read(
        tmp_path,
        document(
            track(box(0), box(1, middle, keyframe=0), box(2, B), box(3, B, outside=1)),
            track(box(7), name="1"),
        ),
    )
    cup, other = truth.objects
    assert (cup.id, cup.label, other.id) == ("0", "cup", "1")
    assert cup.boxes == {100: BOX_A, 200: MIDDLE, 300: BOX_B} and cup.keyframes == {100, 300}
    assert other.boxes == {800: BOX_A}
    assert truth.notes == ()


def test_frames_between_keyframes_are_interpolated_and_none_that_are_outside(
    tmp_path: Path,
) -> None:
    truth = read(
        tmp_path,
        document(track(box(0), box(2, B), box(3, B, outside=1), box(5), box(6, B, outside=1))),
    )
    (cup,) = truth.objects
    assert sorted(cup.boxes) == [100, 200, 300, 600]
    assert corners(cup.boxes[200]) == pytest.approx(corners(MIDDLE))
    assert cup.keyframes == {100, 300, 600}
    assert truth.notes == ("boxes interpolated between keyframes: 1, the first at line 14",)


def test_a_track_that_does_not_end_continues_to_the_last_frame_of_the_task(tmp_path: Path) -> None:
    truth = read(tmp_path, document(track(box(5))))
    (cup,) = truth.objects
    assert cup.boxes == {600: BOX_A, 700: BOX_A, 800: BOX_A} and cup.keyframes == {600}
    assert truth.notes == ("boxes continued to the last frame: 2, the first at line 14",)
    shorter = META.replace("<stop_frame>7", "<stop_frame>6")
    assert sorted(read(tmp_path, document(track(box(5)), meta=shorter)).objects[0].boxes) == [
        600,
        700,
    ]


def test_what_annotations_do_not_hold_is_counted(tmp_path: Path) -> None:
    rotated = box(0, 'xtl="80" ytl="40" xbr="120" ybr="60"', more=' rotation="90"')
    occluded = box(1).replace('occluded="0"', 'occluded="1"')
    attribute = box(2, outside=1).replace("></box>", '><attribute name="a">b</attribute></box>')
    polygon = '<polygon frame="0" points="1,2;3,4;5,6" outside="0" keyframe="1"></polygon>\n'
    other = '<x frame="0"/>\n'
    truth = read(tmp_path, document(track(rotated, occluded, attribute, polygon, other)))
    (cup,) = truth.objects
    assert corners(cup.boxes[100]) == pytest.approx((0.45, 0.3, 0.55, 0.7))
    assert truth.notes == (
        "rotated boxes, enclosed by upright ones: 1, the first at line 14",
        "marks of occluded boxes, left out: 1, the first at line 15",
        "attributes of boxes, left out: 1, the first at line 16",
        "polygon elements of tracks, which are not boxes, left out: 1, the first at line 17",
        "unknown elements of tracks, which are not boxes, left out: 1, the first at line 18",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image id='0'/></annotations>", "is CVAT for images"),
        ("<a/>", "has the element 'a'; expected tracks of a video"),
        (document(track(box(0)), track(box(0))), "line 16: track '0' is in line 13 already"),
        (document(track(box(0), box(0, B))), "line 15: track '0' has another box of frame 0"),
        (document(track(box(0, 'xtl="1"'))), "line 14: ytl is missing"),
        (document(track(box(0, A.replace("20.00", "nan")))), "line 14: xtl is 'nan'"),
        (document(track(box(0, A.replace("20.00", "1e10")))), "line 14: the box is"),
        (document(track(box(-1))), "line 14: frame is '-1'"),
        (document(track(box(0, outside=2))), "line 14: outside is '2'; expected 0 or 1"),
        (document(track(box(0)).replace(' label="cup"', "")), "line 13: track '0' has no label"),
        (document(meta=META.replace("<width>200", "<width>400")), "states images of 400 x 100"),
        (document(meta=META.replace("<width>200</width>", "")), "original_size is missing"),
        (document().replace("</annotations>", ""), "is not valid XML"),
    ],
)
def test_what_is_not_valid_is_an_error_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value) and "annotations.xml" in str(caught.value)


def test_tracks_of_several_tasks_are_an_error(tmp_path: Path) -> None:
    first = track(box(0)).replace("<track ", '<track task_id="1" ')
    second = track(box(0), name="1").replace("<track ", '<track task_id="2" ')
    with pytest.raises(DataError, match="tracks of 2 tasks"):
        read(tmp_path, document(first, second))


def test_what_is_written_ends_where_the_object_disappears(tmp_path: Path) -> None:
    boxes = {100: BOX_A, 200: BOX_B, 400: BOX_A, 800: BOX_B}
    keyframes = frozenset({100, 400, 800})
    label = 'a "red" <cup> & \N{WHITE CHESS KING}\x01'
    truth = GroundTruth((CAMERA,), (AnnotatedObject("5", label, "/cam", boxes, keyframes),))
    converted = cvat_video_text(truth, "/cam", FRAMES)
    assert converted.notes == (
        "labels with characters that XML does not have, replaced: 1, the first at "
        'a "red" <cup> & \N{WHITE CHESS KING}\ufffd',
    )
    root = parse_xml(converted.text.encode(), "x", DataError)
    written = root.child("track")
    assert written is not None
    flags = [
        tuple(int(b.attributes[key]) for key in ("frame", "keyframe", "outside"))
        for b in written.children
    ]
    assert flags == [(0, 1, 0), (1, 0, 0), (2, 1, 1), (3, 1, 0), (4, 1, 1), (7, 1, 0)]
    again = read(tmp_path, converted.text)
    (item,) = again.objects
    assert item.boxes == boxes and item.keyframes == keyframes and again.notes == ()
    assert item.label == 'a "red" <cup> & \N{WHITE CHESS KING}\ufffd'
    assert cvat_video_text(again, "/cam", FRAMES).text == converted.text
