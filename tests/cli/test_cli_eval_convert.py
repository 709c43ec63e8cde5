"""``llava-st eval convert`` on a real bag."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin

from llava_st_ros.annotations.annotation_file import read_annotations, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.cli.__main__ import main
from llava_st_ros.records import Box, Span, Task
from support.bags import START, STEP, TOPIC, image_message, images, write_mcap, write_recording

COUNT = 6
CORNERS = ((1, 1, 4, 3), (2, 1, 5, 3), (3, 2, 6, 4))  # in frames 1, 2 and 4


def annotated() -> GroundTruth:
    boxes = {
        START + frame * STEP: Box.from_pixels(corners, 8, 6)
        for frame, corners in zip((1, 2, 4), CORNERS)
    }
    query = AnnotatedQuery("q", "a cup", Task.REC, TOPIC, (Span(START, START + STEP),), ("7",))
    return GroundTruth(
        (AnnotatedCamera(TOPIC, 8, 6),),
        (AnnotatedObject("7", "cup", TOPIC, boxes, frozenset(boxes)),),
        (query,),
    )


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(COUNT))


def convert(bag: Path, source: str, target: str, *paths: Path, more: tuple[str, ...] = ()) -> int:
    arguments = ["eval", "convert", "--from", source, "--to", target, "--bag", str(bag), *more]
    return main([*arguments, *map(str, paths)])


@pytest.mark.parametrize("target", ["coco", "mot", "cvat"])
def test_annotations_survive_each_format(
    target: str, bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original, other, again = (tmp_path / name for name in ("a.json", "other", "again.json"))
    write_annotations(original, annotated())
    assert convert(bag, "annotations", target, original, other) == 0
    printed = capsys.readouterr()
    wrote = f"wrote {other}: 1 objects with 3 boxes in {COUNT} frames of {TOPIC}\n"
    assert printed.out == wrote
    assert "note: queries with their spans, left out: 1\n" in printed.err
    assert convert(bag, target, "annotations", other, again) == 0
    printed = capsys.readouterr()
    assert printed.out == wrote.replace(str(other), str(again))
    assert "it has no queries yet" in printed.err
    found = read_annotations(again)
    assert found.cameras == annotated().cameras and found.queries == ()
    (item,), (expected,) = found.objects, annotated().objects
    assert (item.id, item.boxes, item.keyframes) == ("7", expected.boxes, expected.keyframes)
    assert item.label == ("object" if target == "mot" else "cup")


def test_frames_are_numbered_in_the_order_of_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock steps back, one message has no stamp, one repeats a stamp."""
    stamps = [START, START + 5 * STEP, 0, START + STEP, START]
    messages = ((START + n * STEP, image_message(n, stamp)) for n, stamp in enumerate(stamps))
    bag = write_recording(tmp_path / "bag", StoragePlugin.SQLITE3, messages)
    (tmp_path / "gt.txt").write_text("".join(f"{n},1,1,1,{n},2,1,1,1\n" for n in range(1, 6)))
    assert convert(bag, "mot", "annotations", tmp_path / "gt.txt", tmp_path / "a.json") == 0
    (item,) = read_annotations(tmp_path / "a.json").objects
    widths = {stamp: round((box.x2 - box.x1) * 8) for stamp, box in item.boxes.items()}
    assert widths == {START: 1, START + STEP: 4, START + 5 * STEP: 2}
    unusable = f"note: 2 frames on {TOPIC} have no stamp, or the stamp of another frame\n"
    assert unusable in capsys.readouterr().err


def test_lost_messages_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_mcap(tmp_path / "bag.mcap", images(20))
    data = bytearray(bag.read_bytes())
    data[len(data) // 2] ^= 0xFF
    bag.write_bytes(data)
    (tmp_path / "gt.txt").write_text("1,1,1,1,2,2,1,1,1\n")
    assert convert(bag, "mot", "annotations", tmp_path / "gt.txt", tmp_path / "a.json") == 0
    lost = rf"note: [1-9] messages on {TOPIC} are lost: the frames behind them move up\n"
    assert re.search(lost, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--topic", "/rear"), f"has no topic /rear; its image topics: {TOPIC}"),
        (("--video", "x"), "--video is for COCO files"),
        (("--first-frame", "0"), "--first-frame is for COCO and MOT files"),
    ],
)
def test_a_wrong_argument_is_one_line(
    more: tuple[str, ...],
    message: str,
    bag: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_annotations(tmp_path / "a.json", annotated())
    paths = tmp_path / "a.json", tmp_path / "out"
    assert convert(bag, "annotations", "mot", *paths, more=more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_annotations_of_other_footage_are_an_error(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    write_annotations(path, GroundTruth((AnnotatedCamera("/rear", 8, 6),)))
    assert convert(bag, "annotations", "mot", path, tmp_path / "out") == 2
    assert f"has no annotations of {TOPIC}; its topics: '/rear'" in capsys.readouterr().err
    write_annotations(path, GroundTruth((AnnotatedCamera(TOPIC, 16, 12),)))
    assert convert(bag, "annotations", "mot", path, tmp_path / "out") == 2
    assert "are of 16 x 12 images, but its images are 8 x 6" in capsys.readouterr().err


def test_the_input_is_never_overwritten(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    write_annotations(path, annotated())
    before = path.read_bytes()
    assert convert(bag, "annotations", "mot", path, path) == 2
    assert path.read_bytes() == before
    assert convert(bag, "mot", "mot", path, tmp_path / "b") == 2
    assert "from mot to mot" in capsys.readouterr().err
