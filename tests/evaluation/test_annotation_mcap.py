"""Annotations for Foxglove, read back with the mcap package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader
from rosbags.rosbag2 import StoragePlugin, Writer

from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.annotation_mcap import JSON_SCHEMA, write_annotation_mcap
from llava_st_ros.evaluation.results import Timeline, write_results
from llava_st_ros.records import Box
from support.bags import IMAGE, START, STEP, STORE, TOPIC, image_message, images, write_recording
from support.report_runs import hostile_run, recorded_run


def read(path: Path) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """The messages of each topic with their log times."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            assert schema is not None and schema.name == "foxglove.ImageAnnotations"
            assert (schema.encoding, channel.message_encoding) == ("jsonschema", "json")
            assert json.loads(schema.data) == JSON_SCHEMA
            content = json.loads(message.data)
            check(content, JSON_SCHEMA)
            found.setdefault(channel.topic, []).append((message.log_time, content))
    return found


def check(value: Any, schema: dict[str, Any]) -> None:
    """Check a value against the parts of JSON Schema that the schema uses."""
    if schema["type"] == "object":
        assert set(value) == set(schema["required"]) == set(schema["properties"])
        for name, item in value.items():
            check(item, schema["properties"][name])
    elif schema["type"] == "array":
        for item in value:
            check(item, schema["items"])
    else:
        kinds = {"number": (int, float), "integer": int, "string": str}
        assert isinstance(value, kinds[schema["type"]])


def test_every_image_has_its_boxes_in_pixels(tmp_path: Path) -> None:
    run = recorded_run(tmp_path)
    path = tmp_path / "out.mcap"
    assert write_annotation_mcap(path, tmp_path / "bag", run.cases) == 20
    found = read(path)
    assert set(found) == {f"{TOPIC}/llava_st/predicted", f"{TOPIC}/llava_st/true"}
    predicted, true = (found[f"{TOPIC}/llava_st/{name}"] for name in ("predicted", "true"))
    assert [time for time, _ in predicted] == [START + index * STEP for index in range(20)]
    assert [len(content["points"]) for _, content in predicted] == [0] * 5 + [1] * 10 + [0] * 5
    assert [len(content["points"]) for _, content in true] == [0] * 4 + [2] * 9 + [0] * 7
    (box,) = predicted[5][1]["points"]
    assert box["timestamp"] == {"sec": 1_700_000_000, "nsec": 500_000_000}
    assert box["type"] == 2
    # (0.2, 0.2) to (0.5, 0.6) of 8 x 6 pixels
    assert box["points"] == [
        {"x": 1.6, "y": 1.2}, {"x": 4.0, "y": 1.2}, {"x": 4.0, "y": 3.6}, {"x": 1.6, "y": 3.6},
    ]  # fmt: skip
    dashed = true[5][1]["points"][0]
    assert dashed["type"] == 4 and len(dashed["points"]) % 2 == 0
    assert dashed["metadata"][0] == {"key": "query", "value": "the ball rolls"}
    assert predicted[5][1]["texts"][0]["text"] == "P: the ball rolls"


def test_log_times_are_those_of_the_images(tmp_path: Path) -> None:
    """In simulation the headers' clock is another than the recording's."""
    messages = [(index * STEP + 7, image_message(index)) for index in range(1, 4)]
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, messages)
    case = replace(recorded_run(tmp_path / "other").cases[0], topic="")
    write_annotation_mcap(tmp_path / "out.mcap", bag, [case])
    found = read(tmp_path / "out.mcap")
    assert [time for time, _ in found[f"{TOPIC}/llava_st/true"]] == [
        i * STEP + 7 for i in (1, 2, 3)
    ]


def test_messages_of_several_cameras_are_in_the_order_of_recording(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        left, right = (writer.add_connection(n, IMAGE, typestore=STORE) for n in ("/l", "/r"))
        for n in range(3):
            writer.write(left, START + n * STEP, image_message(n))
            writer.write(right, START + n * STEP + 1, image_message(n))
    case = recorded_run(tmp_path / "other").cases[0]
    cases = [replace(case, topic=topic) for topic in ("/l", "/r")]
    assert write_annotation_mcap(tmp_path / "out.mcap", tmp_path / "bag", cases) == 6
    with (tmp_path / "out.mcap").open("rb") as file:
        stored = make_reader(file).iter_messages(log_time_order=False)
        times = [message.log_time for _, _, message in stored]
    assert len(times) == 12 and times == sorted(times)


def test_a_span_without_boxes_is_a_label(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(3))
    span = Timeline(((START + STEP, START + STEP),))
    case = replace(recorded_run(tmp_path / "other").cases[0], expected=span, predicted=None)
    write_annotation_mcap(tmp_path / "out.mcap", bag, [case])
    found = read(tmp_path / "out.mcap")
    texts = [
        [text["text"] for text in content["texts"]]
        for _, content in found[f"{TOPIC}/llava_st/true"]
    ]
    assert texts == [[], ["T: the ball rolls"], []]
    assert not any(content["points"] for _, content in found[f"{TOPIC}/llava_st/true"])


def test_hostile_texts_are_kept(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(2))
    boxes = Timeline((), {START: Box(0.0, 0.0, 1.0, 1.0), START + STEP: Box(0.5, 0.5, 0.5, 0.5)})
    cases = [replace(case, topic=TOPIC, predicted=boxes) for case in hostile_run(13).cases]
    write_annotation_mcap(tmp_path / "out.mcap", bag, cases)
    found = read(tmp_path / "out.mcap")
    queries = {
        points["metadata"][0]["value"]
        for _, content in found[f"{TOPIC}/llava_st/predicted"]
        for points in content["points"]
    }
    assert queries == {case.query for case in cases}


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, [(START, b"no message")])
    (case, _) = recorded_run(tmp_path / "other").cases
    with pytest.raises(DataError, match=r"no image of .*bag can be read"):
        write_annotation_mcap(tmp_path / "out.mcap", bag, [case])
    with pytest.raises(DataError, match="has no topic /other"):
        write_annotation_mcap(tmp_path / "out.mcap", bag, [replace(case, topic="/other")])
    assert {path.name for path in tmp_path.iterdir()} == {"bag", "other"}


def test_the_command_writes_a_file_for_each_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded_run(tmp_path)
    lost = replace(run.cases[0], id="lost", source="lost.mcap")
    write_results(tmp_path / "results.json", replace(run, cases=(*run.cases, lost)))
    out = tmp_path / "mcap"
    assert main(["eval", "report", str(tmp_path), "--mcap", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"written to {out / 'bag.annotations.mcap'}: 20 images" in printed.out
    assert "no MCAP: lost.mcap was not found" in printed.err
    assert len(read(out / "bag.annotations.mcap")) == 2
    write_results(tmp_path / "results.json", replace(run, cases=(lost,)))
    assert main(["eval", "report", str(tmp_path), "--mcap", str(out)]) == 2
    write_results(tmp_path / "results.json", replace(run, cases=()))
    assert main(["eval", "report", str(tmp_path), "--mcap", str(out)]) == 2
    assert "nothing to draw" in capsys.readouterr().err
