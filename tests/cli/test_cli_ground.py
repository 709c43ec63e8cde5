"""``llava-st ground`` on every kind of footage, with a random checkpoint."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from llava_st_ros.cli import ground
from llava_st_ros.errors import LlavaStError
from llava_st_ros.records import NANOSECONDS
from support.bags import TOPIC, images, storage_file, write_recording
from support.paths import ROOT

pytestmark = pytest.mark.slow

FPS, FRAMES = 10, 90


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nine seconds of video and a few images."""
    folder = tmp_path_factory.mktemp("footage")
    writer = cv2.VideoWriter(
        str(folder / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 48)
    )
    (folder / "images").mkdir()
    for i in range(FRAMES):
        image = np.full((48, 64, 3), 90, np.uint8)
        image[20:30, i // 2 : i // 2 + 10] = (40, 40, 220)
        writer.write(image)
        if i % 10 == 0:
            cv2.imwrite(str(folder / "images" / f"{i:03d}.png"), image)
    writer.release()
    return folder


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    ground.add_arguments(parser)
    return ground.run(parser.parse_args([str(a) for a in arguments]))


def test_video_gives_tracks_events_and_an_overlay(
    footage, random_checkpoint, tmp_path, capsys
) -> None:
    overlay, out = tmp_path / "new" / "overlay.mp4", tmp_path / "out"
    arguments = ("--video", footage / "video.avi", "--model", random_checkpoint, "--json")
    queries = ("--query", "the red square", "--query", "what [moves]?", "--period", 2)
    assert run(*arguments, *queries, "--overlay", overlay, "--out", out) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] == FRAMES
    assert [q["text"] for q in result["queries"]] == ["the red square", "what [moves]?"]
    # Evaluated when 0.9 of the window is filled, 1 s later as the event is PROVISIONAL, then every
    # 2 s of the stamps, and at the end.
    evaluated = [a["window"][1] for a in result["answers"] if a["query_id"] == "q1"]
    assert evaluated == [round(s * NANOSECONDS) for s in (5.2, 6.2, 8.2, 8.9)]
    stamps = {round(i * NANOSECONDS / FPS) for i in range(FRAMES)}
    for track in result["tracks"]:
        assert {row["stamp"] for row in track["tube"]} <= stamps
        for row in track["tube"]:
            assert 0 <= row["box"][0] <= row["box"][2] <= 64
            assert 0 <= row["box"][1] <= row["box"][3] <= 48
    assert {event["state"] for event in result["events"]} == {"ENDED"}
    for name in ("tracks", "events", "answers"):
        lines = (out / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == result[name]
        assert lines
    assert cv2.imread(str(out / "contact_sheet.png")) is not None
    video = cv2.VideoCapture(str(overlay))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(FPS)


def test_tables_are_printed_by_default(footage, random_checkpoint, capsys) -> None:
    images = ("--images", footage / "images", "--fps", 1, "--model", random_checkpoint)
    assert run(*images, "--query", "what [moves]?", "--period", 20) == 0
    output = capsys.readouterr().out
    assert "tracks" in output
    assert "what [moves]?" in output  # not interpreted as rich markup


def test_image_is_queried_with_rec(footage, random_checkpoint, capsys) -> None:
    image = footage / "images" / "010.png"
    arguments = ("--image", image, "--query", "the red square", "--model", random_checkpoint)
    assert run(*arguments, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    (answer,) = result["answers"]
    assert result["queries"][0]["task"] == "REC"
    assert len(answer["boxes"]) == 1
    assert answer["span"] is None


def test_queries_of_a_file_have_their_own_tasks_and_image_tasks_start_at_once(
    footage, random_checkpoint, tmp_path, capsys
) -> None:
    file = tmp_path / "queries.yaml"
    file.write_text(
        "- {id: square, text: the red square, task: REC, period: 2.0}\n- what moves?\n"
        "- {text: the square moves, task: TVG, cameras: [front]}\n"
    )
    arguments = ("--video", footage / "video.avi", "--model", random_checkpoint, "--json")
    extra = ("--query", '{"text": "the square", "task": "REC"}', "--period", 4)
    no_match = ("--no-match-threshold", 0, "--history", 0.5)
    assert run(*arguments, *extra, "--queries", file, *no_match) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert [(q["id"], q["task"]) for q in result["queries"]] == [
        ("q1", "REC"), ("square", "REC"), ("q2", "STVG"), ("q3", "TVG"),
    ]  # fmt: skip
    ends = {
        q["id"]: [a["window"][1] / 1e9 for a in result["answers"] if a["query_id"] == q["id"]]
        for q in result["queries"]
    }
    assert ends["square"] == [0, 2, 4, 6, 8, 8.9]
    assert ends["q1"] == [0, 4, 8, 8.9]
    assert 2.5 < ends["q2"][0] < 3.2
    assert all(a["no_match"] for a in result["answers"])
    assert "query 'q3': its cameras are ignored" in captured.err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--video", "absent.mp4"), "no file"),
        (("--bag", "absent"), "no bag"),
        (("--images", "absent"), "no folder"),
        (("--image", "absent.png"), "no file"),
        (("--images", "{}/images", "--topic", "/x"), "--topic"),
        (("--image", "{}/images/010.png", "--task", "STVG"), "STVG"),
        (
            ("--images", "{}/images", "--task", "SVG"),
            "--query 'the red square': the SVG query has no span",
        ),
        (("--images", "{}/images", "--query", " "), "--query ' ': the STVG query has no text"),
        (("--images", "{}/images", "--period", "0"), "period"),
        (("--images", "{}/images", "--window", "-1"), "window"),
        (("--images", "{}/images", "--history", "1.5"), "history is 1.5"),
        (("--images", "{}/images", "--no-match-threshold", "-1"), "no_match_threshold is -1"),
        (("--images", "{}/images", "--queries", "{}/absent.yaml"), "absent.yaml"),
        (("--images", "{}/images", "--queries", "{}/video.avi"), "video.avi"),
        (("--images", "{}/images", "--overlay", "x.txt"), ".mp4"),
        (("--images", "{}/images", "--out", "{}/video.avi"), "folder .*video.avi"),
        (("--images", "{}/images", "--model", "absent"), "absent"),
        (("--images", "{}/images", "--backend", "absent"), "absent"),
    ],
)
def test_invalid_arguments_are_rejected(footage, random_checkpoint, arguments, found) -> None:
    given = [argument.format(footage) for argument in arguments]
    model = () if "--model" in given else ("--model", random_checkpoint)
    with pytest.raises(LlavaStError, match=found) as caught:
        run(*given, *model, "--query", "the red square")
    assert "\n" not in str(caught.value)


def test_command_exits_with_2_on_invalid_input() -> None:
    command = [sys.executable, "-m", "llava_st_ros.cli", "ground", "--video", "absent.mp4"]
    done = subprocess.run(
        [*command, "--query", "x"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "absent.mp4" in done.stderr


def test_what_a_truncated_bag_lacks_is_printed_and_in_the_json(
    random_checkpoint, tmp_path, capsys
) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(40))
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 4])
    arguments = ("--bag", bag, "--model", random_checkpoint, "--json")
    assert run(*arguments, "--query", "the red square") == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert 5 < result["frames"] < 40
    counts = f"counts 40 messages on {TOPIC}; the storage files contain {result['frames']}"
    assert any(counts in note for note in result["notes"])
    assert "bag.mcap is truncated" in output.err and counts in output.err
