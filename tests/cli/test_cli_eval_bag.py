"""``llava-st eval bag`` on real bags, with a random checkpoint."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.annotations.annotation_file import (
    annotation_path,
    read_annotations,
    write_annotations,
)
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.cli import eval_bag as command
from llava_st_ros.cli.outputs import InterruptedRunError
from llava_st_ros.errors import CheckpointError, ConfigError, DataError
from llava_st_ros.evaluation import bag_run
from llava_st_ros.evaluation.bag_evaluation import BagJob, BagOutcome, evaluate_bag
from llava_st_ros.evaluation.results import read_results
from llava_st_ros.records import NANOSECONDS, Box, Span, Task

START, STEP, FRAMES = 1_700_000_000 * NANOSECONDS, NANOSECONDS // 5, 32  # 6.2 s
TOPICS = ("/front/image/compressed", "/rear/image/compressed")


def write_bag(path: Path, storage: StoragePlugin, topics: tuple[str, ...] = TOPICS[:1]) -> Path:
    """Write an annotated bag of a red square that crosses the image."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/CompressedImage"
    image, header, time = (
        store.types[name] for name in (kind, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    boxes: dict[int, Box] = {}
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = [writer.add_connection(topic, kind, typestore=store) for topic in topics]
        for number in range(FRAMES):
            stamp = START + number * STEP
            pixels = np.full((96, 128, 3), 90, np.uint8)
            pixels[40:60, 2 * number : 2 * number + 20] = (40, 40, 220)
            boxes[stamp] = Box.from_pixels((2 * number, 40, 2 * number + 20, 60), 128, 96)
            data = cv2.imencode(".jpg", pixels)[1].ravel()
            at = time(stamp // NANOSECONDS, stamp % NANOSECONDS)
            message = image(header(at, "optical"), "jpeg", data)
            for connection in connections:
                writer.write(connection, stamp, store.serialize_cdr(message, kind))
    span = Span(START + 5 * STEP, START + 20 * STEP)
    objects, queries = [], []
    for number, topic in enumerate(topics):
        objects.append(AnnotatedObject(f"o{number}", "square", topic, boxes, frozenset(boxes)))
        queries += [
            AnnotatedQuery(
                f"moves{number}", "it moves", Task.STVG, topic, (span,), (f"o{number}",)
            ),
            AnnotatedQuery(f"dog{number}", "the dog", Task.REC, topic),
            AnnotatedQuery(f"clip{number}", "it", Task.SVG, topic, (span,), (f"o{number}",)),
        ]
    cameras = tuple(AnnotatedCamera(topic, 128, 96) for topic in topics)
    write_annotations(annotation_path(path), GroundTruth(cameras, tuple(objects), tuple(queries)))
    return path


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bags")
    return (
        write_bag(folder / "mcap", StoragePlugin.MCAP, TOPICS),
        write_bag(folder / "sqlite3", StoragePlugin.SQLITE3),
    )


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    few = ("--period", "4")  # evaluations
    return command.run(parser.parse_args([*map(str, arguments), *few]))


def without_run(path: Path) -> dict[str, object]:
    """The content of a results.json without what differs between runs of the same job."""
    content = json.loads((path / "results.json").read_text())
    for name in ("command", "seconds", "finished"):
        del content["about"][name]
    assert set(content.pop("latency")) >= {"read", "encode", "prefill", "decode", "tick"}
    return dict(content)


def test_results_do_not_depend_on_processes_and_are_resumed(
    bags, random_checkpoint, tmp_path, capsys
) -> None:
    common = (*bags, "--model", random_checkpoint)
    assert run(*common, "--out", tmp_path / "one") == 0
    printed = capsys.readouterr()
    assert "final vIoU" in printed.out
    left_out = "query 'clip0' is not evaluated: SVG is not a task of standing queries on a stream"
    assert f"sqlite3: {left_out}" in printed.err
    results = read_results(tmp_path / "one")
    assert [case.id for case in results.cases] == [
        "mcap/front/image/compressed/moves0",
        "mcap/front/image/compressed/dog0",
        "mcap/rear/image/compressed/moves1",
        "mcap/rear/image/compressed/dog1",
        "sqlite3/front/image/compressed/moves0",
        "sqlite3/front/image/compressed/dog0",
    ]
    assert results.about["frames"] == 3 * FRAMES and results.about["bags"] == 2
    assert results.about["track_rate"] == 60.0 and "max_frame_rate" not in results.about
    assert results.cases[0].expected is not None
    assert results.cases[0].expected.spans == ((START + 5 * STEP, START + 20 * STEP),)
    # The same footage in two storages and on two topics has the same values.
    assert results.cases[0].values == results.cases[2].values == results.cases[4].values
    names = {"results.json", "metrics.csv", "cases.csv", "report.html", "ledger.jsonl", "bags"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names

    assert run(*common, "--workers", 2, "--out", tmp_path / "two") == 0
    assert without_run(tmp_path / "one") == without_run(tmp_path / "two")
    ledger = (tmp_path / "one/ledger.jsonl").read_bytes()
    assert ledger == (tmp_path / "two/ledger.jsonl").read_bytes()
    assert ledger.count(b"\n") == len({line.split(b",")[0] for line in ledger.splitlines()}) > 6

    # What is unchanged is taken from the earlier run; changed annotations are evaluated again.
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "two/bags").iterdir()}
    copy = tmp_path / "changed.json"
    truth = read_annotations(annotation_path(bags[1]))
    queries = (replace(truth.queries[0], text="it stops"), *truth.queries[1:])
    write_annotations(copy, replace(truth, queries=queries))
    annotations = ("--annotations", annotation_path(bags[0]), copy)
    assert run(*common, *annotations, "--resume", "--out", tmp_path / "two") == 0
    changed = {p.name for p, time in stored.items() if p.stat().st_mtime_ns != time}
    assert changed == {"sqlite3.json", "sqlite3.ledger.jsonl"}
    resumed = read_results(tmp_path / "two").cases
    assert resumed[:4] == results.cases[:4] and resumed[4].query == "it stops"
    again = (tmp_path / "two/ledger.jsonl").read_text().splitlines()
    of_mcap = [line for line in ledger.decode().splitlines() if '{"id":"mcap/' in line]
    assert [line for line in again if '{"id":"mcap/' in line] == of_mcap
    assert any('"text":"it stops"' in line for line in again)


def test_a_bag_that_fails_does_not_cost_the_others(
    bags, random_checkpoint, tmp_path, capsys
) -> None:
    missing = tmp_path / "missing"
    shutil.copytree(bags[0], missing)
    annotation_path(missing).unlink()
    cut = tmp_path / "cut.mcap"
    (complete,) = bags[0].glob("*.mcap")
    cut.write_bytes(complete.read_bytes()[: complete.stat().st_size * 2 // 3])
    shutil.copy(annotation_path(bags[0]), annotation_path(cut))
    arguments = ("--model", random_checkpoint, "--topic", TOPICS[0], "--json", "--track-rate", 0)
    assert run(missing, cut, *arguments) == 1
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert results["about"]["track_rate"] == 0
    (lost,) = [line for line in results["dropped"] if line.startswith("missing: not evaluated: ")]
    assert str(annotation_path(missing)) in lost
    assert any(line.startswith("cut.mcap: ") and "truncated" in line for line in results["dropped"])
    assert len(results["cases"]) == 2
    assert 0 < results["about"]["frames"] < FRAMES
    with pytest.raises(DataError, match="missing: not evaluated"):
        run(missing, *arguments)
    (tmp_path / "empty").mkdir()
    for name, problem in (("absent", "no bag at "), ("empty", ".* contains no recording")):
        with pytest.raises(DataError, match=f"{name}: not evaluated: {problem}"):
            run(tmp_path / name, *arguments)


def test_the_loss_of_a_cut_recording_is_told_in_frames_and_seconds(
    bags, random_checkpoint, tmp_path, capsys
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(bags[0], cut)
    (storage,) = cut.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size // 2])
    model = ("--model", random_checkpoint)
    assert run(cut, "--topic", TOPICS[0].strip("/"), *model, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    read = results["about"]["frames"]
    lost = FRAMES - read
    assert 0 < read < FRAMES
    where = f"cut: {TOPICS[0]}: "
    assert (
        f"{where}{lost} of {FRAMES} frames are lost, about {lost * 0.2:.1f} s" in results["dropped"]
    )
    later = f"the annotations end {lost * 0.2:.1f} s after the last readable frame"
    assert where + later in results["dropped"]


def test_a_camera_that_fails_does_not_cost_the_others_of_its_bag(
    bags, random_checkpoint, tmp_path, capsys
) -> None:
    annotations = annotation_path(bags[0])  # of two topics, the bag has one
    model = ("--model", random_checkpoint)
    assert run(bags[1], "--annotations", annotations, *model, "--json") == 1
    results = json.loads(capsys.readouterr().out)
    assert [case["topic"] for case in results["cases"]] == [TOPICS[0]] * 2
    (line,) = [line for line in results["dropped"] if "queries not evaluated" in line]
    assert line.startswith(f"sqlite3: {TOPICS[1]}: 2 queries not evaluated: ")
    assert f"its image topics: {TOPICS[0]}" in line


def test_an_interrupted_run_is_resumed(
    bags, random_checkpoint, tmp_path, capsys, monkeypatch
) -> None:
    evaluated: list[str] = []
    interrupt = True

    def evaluate(job: BagJob, *arguments: Any) -> BagOutcome:
        if evaluated and interrupt:
            raise KeyboardInterrupt
        evaluated.append(job.name)
        return evaluate_bag(job, *arguments)

    monkeypatch.setattr(bag_run, "evaluate_bag", evaluate)
    common = (*bags, "--topic", TOPICS[0], "--model", random_checkpoint, "--out", tmp_path)
    with pytest.raises(InterruptedRunError, match="1 of 2 bags are evaluated; --resume continues"):
        run(*common)
    assert len(read_results(tmp_path).cases) == 2
    assert read_results(tmp_path).dropped[-1] == "1 bags not evaluated: the run was interrupted"
    interrupt = False
    assert run(*common, "--resume") == 0
    assert evaluated == ["mcap", "sqlite3"]
    assert len(read_results(tmp_path).cases) == 4
    capsys.readouterr()
    assert run(*common, "--resume", "--window", 5) == 0
    assert evaluated == ["mcap", "sqlite3"] * 2
    assert "evaluated again: mcap: other settings than before" in capsys.readouterr().err


def test_bags_of_one_name_have_cases_of_their_own(bags, random_checkpoint, tmp_path) -> None:
    for folder in ("monday", "tuesday"):
        shutil.copytree(bags[1], tmp_path / folder / "run")
    paths = [tmp_path / folder / "run" for folder in ("monday", "tuesday")]
    assert run(*paths, "--model", random_checkpoint, "--out", tmp_path / "out") == 0
    ids = [case.id for case in read_results(tmp_path / "out").cases]
    assert [name.partition("/run/")[0] for name in ids] == ["monday"] * 2 + ["tuesday"] * 2


def test_invalid_arguments_are_rejected(bags, random_checkpoint, tmp_path) -> None:
    model = ("--model", random_checkpoint)
    with pytest.raises(ConfigError, match="--workers is 0"):
        run(bags[0], "--workers", 0, *model)
    with pytest.raises(CheckpointError, match="no folder /nope; expected a checkpoint folder or"):
        run(bags[0], "--model", "/nope")
    with pytest.raises(ConfigError, match="--resume needs --out"):
        run(bags[0], "--resume", *model)
    with pytest.raises(DataError, match="is given twice"):
        run(bags[0], bags[0], *model)
    with pytest.raises(DataError, match="1 annotation files for 2 bags"):
        run(*bags, *model, "--annotations", annotation_path(bags[0]))
    with pytest.raises(DataError, match=r"no topic /side; its image topics: /front/image/compre"):
        run(bags[1], "--topic", "/side", *model)
    with pytest.raises(
        DataError, match=r"no queries of /rear/\S+; the annotated topics are /front"
    ):
        run(bags[0], "--topic", TOPICS[1], "--annotations", annotation_path(bags[1]), *model)
    with pytest.raises(ConfigError, match="--max-frame-rate applies with --latency"):
        run(bags[0], "--max-frame-rate", 1, *model)
    for name in ("--track-rate", "--max-frame-rate"):
        for rate in ("-1", "1001", "nan"):
            with pytest.raises(ConfigError, match=f"{name} is {rate}; expected 0 to 1000 Hz"):
                run(bags[0], f"{name}={rate}", "--latency", "0.5", *model)
    (storage,) = bags[1].glob("*.db3")
    with pytest.raises(DataError, match="is given twice: it is a part of sqlite3"):
        run(bags[1], storage, *model)
    truth = read_annotations(annotation_path(bags[1]))
    small = replace(truth, cameras=(AnnotatedCamera(TOPICS[0], 64, 48),))
    write_annotations(tmp_path / "small.json", small)
    with pytest.raises(DataError, match="are of 64 x 48 images, but its images are 128 x 96"):
        run(bags[1], "--annotations", tmp_path / "small.json", *model)
